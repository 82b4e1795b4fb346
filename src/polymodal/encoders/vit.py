"""Vision transformers from timm, run layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from polymodal.encoders.base import LayeredEncoder, State, additive_mask, each_part
from polymodal.encoders.openclip import is_openclip, visual_to_timm
from polymodal.encoders.pixels import pixel_options
from polymodal.encoders.weights import inflate_channels, load_strictly, locate, read_weights, without
from polymodal.errors import InputError
from polymodal.types import Features

__all__ = ["ViT"]


class ViT(LayeredEncoder):
    """A vision transformer on images (B, C, H, W), or on frames (B, T, C, H, W) one by one with averaged features.

    Pooled features (B, D) are timm's own: the class token, or the mean, after the last norm. Tokens (B, L, D) are all tokens
    after that norm, class token first. The projection of CLIP to the space of texts is not applied.

    Between layers the tokens of T frames stand side by side, (B, extra + T L, D), so that adapters see one sequence a sample.
    A layer runs on each frame alone: every frame sees the foreign tokens in front, and what they become is averaged over the
    frames.

    Args:
        model: timm's name of a plain ViT, e.g. "vit_base_patch16_clip_224", "vit_base_patch32_clip_224" or
            "vit_large_patch14_clip_224"; with "quickgelu" in it for weights trained with that activation (OpenAI's, DFN's),
            which a file does not tell.
        weights: a local file of timm's or OpenCLIP's layout (a whole CLIP will do), or "hub:OWNER/REPOSITORY/FILE"; from
            scratch where None. Position embeddings are resampled to the size of the images.
        channels: C; see `inflate`.
        height, width_pixels: H and W, in pixels; default the model's. What is beyond a multiple of the patch is not seen.
        patch: side of a patch, in pixels; default the model's, as are the following.
        width: D.
        depth: number of layers.
        heads: of the attention.
        inflate: how the first convolution of RGB weights gets C channels, see `weights.inflate_channels`.

    Raises:
        InputError: no such model, or none that is a plain ViT; weights that do not fit; images of another size.

    Source: Dosovitskiy et al. 2021; weights of Cherti et al. 2023 (OpenCLIP).

    Example:
        >>> import torch
        >>> encoder = ViT("vit_tiny_patch16_224", height=32, width_pixels=48, width=24, depth=2, heads=2)
        >>> features = encoder(torch.zeros(2, 3, 32, 48))
        >>> features.pooled.shape, features.tokens.shape
        (torch.Size([2, 24]), torch.Size([2, 7, 24]))
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    rebuild: Mapping[str, Any] = {"weights": None}

    def __init__(
        self,
        model: str = "vit_base_patch16_clip_224",
        *,
        weights: str | Path | None = None,
        channels: int = 3,
        height: int | None = None,
        width_pixels: int | None = None,
        patch: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        inflate: str = "average",
    ) -> None:
        super().__init__()
        sizes = {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads}
        if height is not None and width_pixels is not None:
            sizes["img_size"] = (height, width_pixels)  # type: ignore[assignment]
        self.net = _plain_vit(model, {name: one for name, one in sizes.items() if one is not None}, channels)
        self.dim: int = self.net.embed_dim
        if weights is not None:
            file = locate(weights)
            load_strictly(self.net, self._fitted(read_weights(file), file, channels, inflate), file)

    @classmethod
    def preprocessing(cls, kind: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        if settings.get("weights") is None:
            return {}
        return pixel_options(settings.get("model", "vit_base_patch16_clip_224"), given)

    @property
    def layers(self) -> nn.ModuleList:  # type: ignore[override]  # a second name would double them in the state dict
        return self.net.blocks  # type: ignore[no-any-return]

    def embed(self, x: Tensor) -> State:
        images = x.flatten(0, 1) if x.ndim == 5 else x
        expected = (self.net.patch_embed.proj.in_channels, *self.net.patch_embed.img_size)
        if tuple(images.shape[1:]) != expected:
            raise InputError(f"images of {tuple(images.shape[1:])} for a ViT of {expected} (channels, height, width)")
        tokens = self.net.patch_embed(images)
        tokens = self.net.norm_pre(self.net.patch_drop(self.net._pos_embed(tokens)))
        if x.ndim == 5:
            return State(tokens.reshape(x.shape[0], -1, self.dim), aux={"frames": x.shape[1]})
        return State(tokens, aux={"frames": 1})

    def run_layer(self, index: int, state: State) -> State:
        def layer(tokens: Tensor, mask: Tensor | None) -> Tensor:
            found: Tensor = self.layers[index](tokens, attn_mask=additive_mask(mask, tokens.dtype))
            return found

        return each_part(state, state.aux["frames"], layer)

    def finish(self, state: State) -> Features:
        own = state.drop()
        frames = own.aux["frames"]
        tokens = self.net.norm(own.tokens)
        each = tokens.reshape(tokens.shape[0] * frames, -1, self.dim)
        pooled = self.net.forward_head(each, pre_logits=True)
        return Features(pooled.unflatten(0, (-1, frames)).mean(1), tokens, own.mask)

    def _fitted(self, tensors: dict[str, Tensor], file: Path, channels: int, inflate: str) -> dict[str, Tensor]:
        """Tensors of the file by the names and for the sizes of this model."""
        tensors = visual_to_timm(tensors, file) if is_openclip(tensors) else without(tensors, ["head."])
        first, positions = "patch_embed.proj.weight", self.net.pos_embed
        if first in tensors:
            tensors[first] = inflate_channels(tensors[first], channels, inflate)
        found = tensors.get("pos_embed")
        if found is not None and positions is not None and found.shape[1:2] != positions.shape[1:2]:
            tensors["pos_embed"] = self._resampled(found)
        return tensors

    def _resampled(self, positions: Tensor) -> Tensor:
        from timm.layers.pos_embed import resample_abs_pos_embed

        before = 0 if self.net.no_embed_class else self.net.num_prefix_tokens
        side = (positions.shape[1] - before) ** 0.5
        if side != int(side):
            return positions  # not of a square picture: `load_strictly` tells the shapes
        grid = list(self.net.patch_embed.grid_size)
        resampled: Tensor = resample_abs_pos_embed(positions, grid, num_prefix_tokens=before)
        return resampled


def _plain_vit(model: str, sizes: dict[str, Any], channels: int) -> Any:
    import timm
    from timm.models.vision_transformer import VisionTransformer

    if not timm.is_model(model):
        close = timm.list_models(f"*{model.split('_')[0]}*clip*")[:4]
        raise InputError(f"ViT model {model!r}: timm has none of that name; it has {', '.join(close)} and others")
    try:
        net = timm.create_model(model, num_classes=0, in_chans=channels, **sizes)
    except TypeError as error:  # a family that knows no such sizes
        raise InputError(f"ViT model {model!r} takes no {', '.join(sizes)}: {error}") from error
    if not isinstance(net, VisionTransformer):
        raise InputError(f"ViT model {model!r} is timm's {type(net).__name__}, not a plain vision transformer")
    return net
