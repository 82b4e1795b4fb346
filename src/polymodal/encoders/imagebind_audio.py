"""ImageBind's audio encoder, and its tensors in the published checkpoint."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal.encoders.base import LayeredEncoder, State, each_part
from polymodal.encoders.sequence import check_heads
from polymodal.encoders.weights import load_strictly, locate, read_weights
from polymodal.errors import InputError
from polymodal.types import Features

__all__ = ["ImageBindAudio", "audio_tensors", "drop_path"]

PLACES = {
    "modality_preprocessors.audio.cls_token": "class_token",
    "modality_preprocessors.audio.rgbt_stem.proj.": "stem.",
    "modality_preprocessors.audio.rgbt_stem.norm_layer.": "stem_norm.",
    "modality_preprocessors.audio.pos_embedding_helper.pos_embed": "positions",
    "modality_trunks.audio.blocks.": "layers.",
    "modality_heads.audio.0.": "norm.",
    "modality_heads.audio.2.": "projection.",
}
"""Where the tensors of the published checkpoint go, by the beginnings of their names."""


class ImageBindAudio(LayeredEncoder):
    """ImageBind's audio ViT on log-mel clips (B, 1, F, T), or on K clips a recording (B, K, 1, F, T), averaged.

    A convolution of patch p and stride s < p cuts a clip into ((F - p) // s + 1) x ((T - p) // s + 1) overlapping
    patches, 12 x 19 of 128 bins and 204 frames; LayerNorm, a class token in front, positions, then pre-norm blocks whose
    attention has one more, learned key and value that belong to no token. The head is a LayerNorm and a linear map
    without bias; the pooled features are its class token **before** ImageBind's normalisation to length one.

    Between layers the tokens of K clips stand side by side, (B, extra + K L, D), so that adapters see one sequence a
    sample; a layer runs on each clip alone (`base.each_part`).

    Args:
        weights: local file of the published checkpoint, imagebind_huge.pth (other modalities in it are passed over), or
            "hub:OWNER/REPOSITORY/FILE"; from scratch where None.
        bins: F.
        length: T.
        width: of tokens between the layers.
        depth: number of blocks.
        heads: attention heads; divides `width`.
        dim: width D of the features, to which the head maps every token; None leaves the map out, so that the features
            are what the LayerNorm yields, D = `width`.
        patch, stride: side and step of a patch.
        path_dropout: rate at which the last block's residual branches are dropped in training; it rises from 0 with depth.

    Raises:
        InputError: a clip of another size; a file that is missing, truncated, holds pickled code, lacks a tensor of the
            audio encoder or has one of another shape.

    Source: Girdhar et al. 2023, appendix B; Gong et al. 2021 for the overlapping patches. Which features Anonymous 2023
        (MMLoRA) classify is not stated; those before the normalisation keep their length.

    Example:
        >>> encoder = ImageBindAudio(bins=32, length=36, width=16, depth=2, heads=2, dim=8)
        >>> features = encoder(torch.zeros(2, 3, 1, 32, 36))
        >>> features.pooled.shape, features.tokens.shape
        (torch.Size([2, 8]), torch.Size([2, 21, 8]))
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"audio"})
    rebuild: Mapping[str, Any] = {"weights": None}

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        bins: int = 128,
        length: int = 204,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        dim: int | None = 1024,
        patch: int = 16,
        stride: int = 10,
        path_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_heads("ImageBindAudio", width, heads)
        if min(bins, length) < patch:
            raise InputError(
                f"ImageBindAudio: clips of {bins} bins and {length} frames are smaller than a patch of {patch} x {patch}"
            )
        self.dim, self.size = dim or width, (bins, length)
        patches = ((bins - patch) // stride + 1) * ((length - patch) // stride + 1)
        self.stem = nn.Conv2d(1, width, patch, stride, bias=False)
        self.stem_norm = nn.LayerNorm(width)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + patches, width))
        rates = [path_dropout * index / max(depth - 1, 1) for index in range(depth)]
        self.layers = nn.ModuleList(_Block(width, heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.projection = nn.Identity() if dim is None else nn.Linear(width, dim, bias=False)
        if weights is not None:
            file = locate(weights)
            load_strictly(self, audio_tensors(read_weights(file), file, head=dim is not None), file)

    @classmethod
    def preprocessing(cls, kind: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "representation": "kaldi_clips",
            "sample_rate": 16000,
            "n_mels": 128,
            "clip_frames": 204,
            "mean": [-4.268],
            "std": [9.138],
        }

    def embed(self, x: Tensor) -> State:
        clips = x if x.ndim == 5 else x[:, None]
        if clips.ndim != 5 or tuple(clips.shape[2:]) != (1, *self.size):
            raise InputError(
                f"sound of shape {tuple(x.shape[1:])} for ImageBindAudio of clips (1, {self.size[0]}, {self.size[1]}); "
                "its input is data.inputs.<modality>.representation=kaldi_clips"
            )
        patches = self.stem_norm(self.stem(clips.flatten(0, 1)).flatten(2).transpose(1, 2))
        tokens = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches], 1) + self.positions
        return State(tokens.reshape(clips.shape[0], -1, tokens.shape[-1]), aux={"clips": clips.shape[1]})

    def run_layer(self, index: int, state: State) -> State:
        return each_part(state, state.aux["clips"], self.layers[index])

    def finish(self, state: State) -> Features:
        own = state.drop()
        tokens = self.projection(self.norm(own.tokens))
        pooled = tokens.unflatten(1, (own.aux["clips"], -1))[:, :, 0].mean(1)
        return Features(pooled, tokens, own.mask)


class _Block(nn.Module):
    """x + attention(LN(x)); x + W_2 gelu(W_1 LN(x)): tokens (B, L, W) to tokens, W_1 four times as wide."""

    def __init__(self, width: int, heads: int, path_dropout: float) -> None:
        super().__init__()
        self.path_dropout = path_dropout
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.MultiheadAttention(width, heads, add_bias_kv=True, batch_first=True)
        steps = {"fc1": nn.Linear(width, 4 * width), "act": nn.GELU(), "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(steps))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.norm_1(x)
        # Tokens of a sample without a visible one attend to the learned key and value: no row is empty.
        attended, _ = self.attn(y, y, y, key_padding_mask=None if mask is None else ~mask, need_weights=False)
        x = x + drop_path(attended, self.path_dropout, self.training)
        return x + drop_path(self.mlp(self.norm_2(x)), self.path_dropout, self.training)


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """In training, zeros for a random share `rate` of the samples of a residual branch, the rest divided by 1 - rate.

    Source: Huang et al. 2016.
    """
    if not training or rate == 0:
        return x
    kept = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= rate
    return x * kept.to(x.dtype) / (1 - rate)


def audio_tensors(tensors: Mapping[str, Tensor], source: str | Path, *, head: bool = True) -> dict[str, Tensor]:
    """The audio encoder of ImageBind's checkpoint by the names of `ImageBindAudio`; other modalities are passed over.

    Args:
        tensors: of the whole checkpoint.
        source: its name, for the error.
        head: whether the linear map of the head is wanted.

    Raises:
        InputError: no tensor of an audio encoder at all.
    """
    found = {}
    for name, one in tensors.items():
        for start, place in PLACES.items():
            if name.startswith(start) and (head or place != "projection."):
                found[place + name.removeprefix(start)] = one
    if not found:
        raise InputError(
            f"weights {source}: no ImageBind audio encoder, whose tensors begin with modality_trunks.audio; fetch "
            "imagebind_huge.pth"
        )
    return found
