"""Speech from waveforms: Wav2Vec2, and the Conformer on top of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.encoders.base import LayeredEncoder, State, additive_mask, masked_mean, split_padded
from polymodal.encoders.conformer import ConformerEncoder
from polymodal.encoders.sequence import Pool
from polymodal.encoders.weights import load_strictly, locate, read_weights
from polymodal.errors import InputError
from polymodal.types import Features, Padded

__all__ = ["SpeechConformer", "Wav2Vec2"]

Freeze = Literal["nothing", "extractor", "all"]
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
RATE = 16000
"""Hz, of every published Wav2Vec2."""


class Wav2Vec2(LayeredEncoder):
    """Waveforms (B, S) or (B, 1, S) at 16 kHz, padded or not, through the first layers of Wav2Vec2.

    Each waveform is standardised by its own mean and variance, convolutions turn it into one token every 320 samples
    (20 ms; each spans 400), a convolution writes positions into the tokens, then come `depth` Transformer layers. The
    pooled features are the mean of the real tokens. A mask's real samples lie in front; a sound shorter than one token
    is continued with silence up to one. There is no LayerDrop and no SpecAugment.

    Args:
        folder: of a pre-trained model: config.json with model.safetensors or pytorch_model.bin; or
            "hub:OWNER/REPOSITORY", the only form that is downloaded.
        config: of a model that is trained from scratch, by the names of `transformers.Wav2Vec2Config`.
        depth: number of layers, counted from the first; the weights may hold more.
        freeze: what never trains: "nothing", the convolutions ("extractor"), or "all"; with "all" the encoder also
            stays in evaluation mode, so that its features of a waveform are always the same.

    Raises:
        InputError: no such folder; weights that are damaged, incomplete, pickled code or of another architecture; fewer
            layers than `depth`.

    Source: Baevski et al. 2020; its first 12 layers as in Kontras et al. 2024, section 4.2, which does not say whether
        they train.
    Differs from the authors' code: in models whose extractor has a GroupNorm over time (the base ones), transformers
        lets padding into its mean and variance; here a padded waveform yields what it yields alone.

    Example:
        >>> small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": [8] * 7}
        >>> small |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
        >>> Wav2Vec2(config=small, depth=2)(torch.randn(2, 1200)).tokens.shape
        torch.Size([2, 3, 16])
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"audio"})

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        depth: int = 12,
        freeze: Freeze = "extractor",
    ) -> None:
        super().__init__()
        if freeze not in ("nothing", "extractor", "all"):
            raise InputError(f"Wav2Vec2: freeze={freeze!r}; it is 'nothing', 'extractor' or 'all'")
        if (folder is None) == (config is None):
            raise InputError(
                "Wav2Vec2: give either folder, of a pre-trained model with its config.json, or config, the sizes of a "
                "model that is trained from scratch"
            )
        where = None if folder is None else locate(folder, ["config.json", *WEIGHTS])
        values = dict(config or {}) if where is None else _read_config(where, depth)
        self.net = _network(values, depth)
        self.dim: int = self.net.config.hidden_size
        self.frozen = freeze == "all"
        if where is not None:
            file = _weights_file(where)
            load_strictly(self.net, _own(read_weights(file), depth), file)
        self.rebuild: Mapping[str, Any] = {"folder": None, "config": values}
        if freeze != "nothing":
            (self.net if self.frozen else self.net.feature_extractor).requires_grad_(False)
        self.train()

    @classmethod
    def preprocessing(cls, kind: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        return {"representation": "waveform", "sample_rate": RATE, "standardize": False}

    @property
    def layers(self) -> nn.ModuleList:  # type: ignore[override]  # a second name would double them in the state dict
        return self.net.encoder.layers  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def embed(self, x: Tensor | Padded) -> State:
        values, mask = split_padded(x)
        if values.ndim == 3:
            values = values[:, 0]
        wave = _standardized(values, mask)
        shortest = _samples_of_a_token(self.net.feature_extractor.conv_layers)
        if wave.shape[1] < shortest:
            wave = F.pad(wave, (0, shortest - wave.shape[1]))
        lengths = None
        if mask is not None:
            lengths = mask.sum(1)
            lengths = torch.where(lengths > 0, lengths.clamp_min(shortest), lengths)
        tokens, lengths = self._extract(wave, lengths)
        tokens, _ = self.net.feature_projection(tokens)
        real = None
        if lengths is not None:
            real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
            tokens = torch.where(real[..., None], tokens, torch.zeros_like(tokens))
        encoder = self.net.encoder
        tokens = tokens + encoder.pos_conv_embed(tokens)
        if not self.net.config.do_stable_layer_norm:
            tokens = encoder.layer_norm(tokens)
        return State(encoder.dropout(tokens), real)

    def run_layer(self, index: int, state: State) -> State:
        mask = additive_mask(state.mask, state.tokens.dtype)
        return state._replace(tokens=self.layers[index](state.tokens, attention_mask=mask))

    def finish(self, state: State) -> Features:
        own = state.drop()
        tokens = self.net.encoder.layer_norm(own.tokens) if self.net.config.do_stable_layer_norm else own.tokens
        return Features(masked_mean(tokens, own.mask), tokens, own.mask)

    def _extract(self, wave: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, T, C) of the convolutions, and how many of each waveform (B,) are real."""
        maps = wave[:, None]
        for layer in self.net.feature_extractor.conv_layers:
            if lengths is None:
                maps = layer(maps)
                continue
            (kernel,), (stride,) = layer.conv.kernel_size, layer.conv.stride
            lengths = ((lengths - kernel).div(stride, rounding_mode="floor") + 1).clamp_min(0)
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):
                maps = layer.activation(_normalized(layer.conv(maps), lengths, norm))
            else:
                maps = layer(maps)
        return maps.transpose(1, 2), lengths


class SpeechConformer(ConformerEncoder):
    """Waveforms through the first layers of Wav2Vec2, then through Conformer blocks.

    Adapters that act between layers see the Conformer's; Wav2Vec2 is part of the embedding.

    Args:
        folder, config, freeze: see `Wav2Vec2`.
        speech_depth: number of its layers.
        dim, depth, heads, kernel, dropout, pool: see `ConformerEncoder`.

    Raises:
        InputError: see `Wav2Vec2` and `ConformerEncoder`.

    Source: Kontras et al. 2024, section 4.2 (the audio encoder of CREMA-D); its code trains all of it with rate 5e-5.

    Example:
        >>> small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": [8] * 7}
        >>> small |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
        >>> encoder = SpeechConformer(config=small, speech_depth=1, dim=8, depth=1, heads=2)
        >>> encoder(torch.randn(2, 1200)).pooled.shape
        torch.Size([2, 8])
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"audio"})

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        speech_depth: int = 12,
        freeze: Freeze = "extractor",
        dim: int = 512,
        depth: int = 5,
        heads: int = 8,
        kernel: int = 31,
        dropout: float = 0.1,
        pool: Pool = "mean",
    ) -> None:
        speech = Wav2Vec2(folder, config=config, depth=speech_depth, freeze=freeze)
        super().__init__(speech.dim, dim, depth, heads, kernel, dropout, pool)
        self.speech = speech
        self.rebuild = speech.rebuild

    @classmethod
    def preprocessing(cls, kind: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        return Wav2Vec2.preprocessing(kind, settings, given)

    def embed(self, x: Tensor | Padded) -> State:
        heard = self.speech(x)
        return super().embed(heard.tokens if heard.mask is None else Padded(heard.tokens, heard.mask))


def _standardized(wave: Tensor, mask: Tensor | None) -> Tensor:
    """Each waveform (B, S) with mean 0 and variance 1 over its real samples, zero elsewhere."""
    real = torch.ones_like(wave) if mask is None else mask.to(wave.dtype)
    count = real.sum(1, keepdim=True).clamp_min(1)
    wave = wave if mask is None else torch.where(mask, wave, torch.zeros_like(wave))
    centred = (wave - wave.sum(1, keepdim=True) / count) * real
    return centred / (centred.square().sum(1, keepdim=True) / count + 1e-7).sqrt()


def _samples_of_a_token(convolutions: Iterable[Any]) -> int:
    """Samples that one token of unpadded convolutions spans."""
    span, step = 1, 1
    for layer in convolutions:
        (kernel,), (stride,) = layer.conv.kernel_size, layer.conv.stride
        span, step = span + (kernel - 1) * step, step * stride
    return span


def _normalized(maps: Tensor, lengths: Tensor, norm: nn.GroupNorm) -> Tensor:
    """GroupNorm of maps (B, C, T) with C groups, over the first `lengths` (B,) columns of each."""
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    real = (torch.arange(maps.shape[2], device=maps.device) < lengths[:, None])[:, None].to(wide.dtype)
    count = real.sum(2, keepdim=True).clamp_min(1)
    centred = wide - (wide * real).sum(2, keepdim=True) / count
    variance = (centred.square() * real).sum(2, keepdim=True) / count
    normal = centred * torch.rsqrt(variance + norm.eps) * norm.weight[:, None] + norm.bias[:, None]
    return normal.to(maps.dtype)


def _network(values: Mapping[str, Any], depth: int) -> Any:
    """Wav2Vec2 of `depth` layers with random weights, without its parts for training alone."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    unknown = sorted(set(values) - _fields())
    if unknown:
        raise InputError(f"Wav2Vec2: config has {unknown}, which transformers.Wav2Vec2Config does not know")
    # LayerDrop and SpecAugment act outside the layers, and no adapter could run them.
    fixed = {"num_hidden_layers": depth, "layerdrop": 0.0, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    try:
        return Wav2Vec2Model(Wav2Vec2Config(**{**values, **fixed, "add_adapter": False}))
    except (ValueError, TypeError) as error:
        raise InputError(f"Wav2Vec2: config of no Wav2Vec2 ({error})") from error


def _own(tensors: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Tensors of the file by the network's names, of its first layers, without heads and parts for training alone."""
    prefix = "wav2vec2."
    if any(name.startswith(prefix) for name in tensors):
        tensors = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
    found = {}
    for name, one in tensors.items():
        layer = re.match(r"encoder\.layers\.(\d+)\.", name)
        if name == "masked_spec_embed" or name.startswith("adapter.") or (layer and int(layer[1]) >= depth):
            continue
        # The two factors of a normalised weight, as torch called them before parametrisations.
        name = name.replace("conv.weight_g", "conv.parametrizations.weight.original0")
        found[name.replace("conv.weight_v", "conv.parametrizations.weight.original1")] = one
    return found


def _read_config(folder: Path, depth: int) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        missing = "config.json is missing" if folder.is_dir() else "no such folder"
        raise InputError(f"Wav2Vec2 {folder}: {missing}; put config.json and {WEIGHTS[0]} of the model there")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not JSON ({error})") from error
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != "wav2vec2":
        raise InputError(f"{file}: a model of type {kind!r}, expected 'wav2vec2'")
    layers = values.get("num_hidden_layers", 12)
    if layers < depth:
        raise InputError(f"{file}: a model of {layers} layers, and depth={depth}")
    # Fields of other versions of transformers say nothing about the network.
    return {name: value for name, value in values.items() if name in _fields()}


def _fields() -> set[str]:
    from transformers import Wav2Vec2Config

    return set(Wav2Vec2Config().to_dict()) - {"dtype", "transformers_version"}


def _weights_file(folder: Path) -> Path:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"Wav2Vec2 {folder}: its weights are missing; put {WEIGHTS[0]} (or {WEIGHTS[1]}) there")
