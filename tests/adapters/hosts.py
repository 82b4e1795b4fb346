"""Tiny layered encoders of every family, each with inputs and with the same inputs padded by more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from polymodal.encoders import (
    Bert,
    ConformerEncoder,
    Deberta,
    ImageBindAudio,
    LayeredEncoder,
    SequenceTransformer,
    ViT,
    Wav2Vec2,
)
from polymodal.types import Features, Padded


class Host(NamedTuple):
    encoder: Any
    """A `LayeredEncoder`, whose inner parts differ by family."""
    x: Any
    longer: Any
    """The same samples with more padding; None where a family has none."""


SIZE = 3
TEXT = {
    "vocab_size": 20, "num_attention_heads": 2, "max_position_embeddings": 16, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
V3 = RELATIVE | {"model_type": "deberta-v2", "position_buckets": 4, "norm_rel_ebd": "layer_norm", "share_att_key": True}
SPEECH = {
    "num_attention_heads": 2, "conv_dim": [4, 4], "conv_kernel": [10, 3], "conv_stride": [5, 2], "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "hidden_dropout": 0.0, "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0, "activation_dropout": 0.0,
}  # fmt: skip


def longer(x: Padded, by: int = 3) -> Padded:
    """More padding, with anything in it."""
    more = (0, by) if x.values.ndim == 2 else (0, 0, 0, by)
    return Padded(F.pad(x.values, more, value=7), F.pad(x.mask, (0, by)))


def mask_of(*lengths: int) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def texts() -> Padded:
    mask = mask_of(5, 3, 4)
    return Padded(torch.randint(4, 20, mask.shape).masked_fill(~mask, 0), mask)


def vectors() -> Padded:
    mask = mask_of(5, 3, 4)
    return Padded(torch.randn(*mask.shape, 6).double() * mask[..., None], mask)


def waves() -> Padded:
    mask = mask_of(90, 60, 75)
    return Padded(torch.randn(*mask.shape).double() * mask, mask)


def text(kind: type, **config: Any) -> Callable[[int, int], LayeredEncoder]:
    def make(width: int, depth: int) -> LayeredEncoder:
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": depth}
        encoder: LayeredEncoder = kind(config=TEXT | sizes | config)
        return encoder

    return make


def vit(width: int, depth: int) -> LayeredEncoder:
    return ViT("vit_tiny_patch16_224", height=8, width_pixels=12, patch=4, width=width, depth=depth, heads=2)


def imagebind(width: int, depth: int) -> LayeredEncoder:
    sizes: dict[str, Any] = {"bins": 16, "length": 26, "width": width, "heads": 2, "dim": 5}
    return ImageBindAudio(**sizes, depth=depth, path_dropout=0.0)


def wav2vec2(**config: Any) -> Callable[[int, int], LayeredEncoder]:
    def make(width: int, depth: int) -> LayeredEncoder:
        sizes = {"hidden_size": width, "intermediate_size": 2 * width}
        return Wav2Vec2(config=SPEECH | sizes | config, depth=depth, freeze="nothing")

    return make


FAMILIES: dict[str, tuple[Callable[[int, int], LayeredEncoder], Callable[[], Any]]] = {
    "bert": (text(Bert), texts),
    "vit": (vit, lambda: torch.randn(SIZE, 3, 8, 12).double()),
    "frames": (vit, lambda: torch.randn(SIZE, 2, 3, 8, 12).double()),
    "imagebind": (imagebind, lambda: torch.randn(SIZE, 2, 1, 16, 26).double()),
    "deberta": (text(Deberta, model_type="deberta", **RELATIVE), texts),
    "deberta_v3": (text(Deberta, **V3), texts),
    "transformer": (lambda w, d: SequenceTransformer(6, w, d, 2, dropout=0.0), vectors),
    "post_norm": (lambda w, d: SequenceTransformer(6, w, d, 2, pre_norm=False, dropout=0.0), vectors),
    "conformer": (lambda w, d: ConformerEncoder(6, w, d, 2, kernel=3, dropout=0.0), vectors),
    "wav2vec2": (wav2vec2(do_stable_layer_norm=True), waves),
    "wav2vec2_base": (wav2vec2(do_stable_layer_norm=False), waves),
}  # fmt: skip


def host(family: str, width: int = 8, depth: int = 2, seed: int = 0) -> Host:
    """An encoder in float64 and evaluation mode, no weight as it was at the start."""
    torch.manual_seed(seed)
    make, draw = FAMILIES[family]
    encoder = make(width, depth).double().eval()
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.2 * torch.randn_like(p))
    x = draw()
    return Host(encoder, x, longer(x) if isinstance(x, Padded) else None)


def tokens_of(features: Features) -> torch.Tensor:
    assert features.tokens is not None
    return features.tokens


def stir(adapter: torch.nn.Module, size: float = 0.3) -> None:
    """Move every parameter that trains, so that the adapter does something."""
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_(size * torch.randn_like(p))
