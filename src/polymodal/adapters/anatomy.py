"""Where in a Transformer layer of any family attention, feed-forward step and their residuals are."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from torch import nn

from polymodal.encoders.base import LayeredEncoder
from polymodal.errors import InputError

__all__ = ["Branches", "branches", "layer_norms", "part", "token_width"]


class Branches(NamedTuple):
    """Modules of one layer by what passes through them.

    `attention` and `feed_forward` yield what is added to the residual stream: behind the output projection and its dropout,
    before the addition (and before the LayerNorm behind it, in layers that have it there). What `stream` is given is the
    stream that the feed-forward branch is added to.
    """

    attention: nn.Module
    feed_forward: nn.Module
    stream: nn.Module


FAMILIES = {
    "BERT and DeBERTa": ("attention.output.dropout", "output.dropout", "intermediate"),
    "timm's ViT": ("ls1", "ls2", "norm2"),
    "torch's Transformer, pre-norm": ("dropout1", "dropout2", "norm2"),
    "torch's Transformer, post-norm": ("dropout1", "dropout2", "linear1"),
    "ImageBind's audio ViT": ("attn", "mlp", "norm_2"),
    "Wav2Vec2, stable": ("dropout", "feed_forward", "final_layer_norm"),
    "Wav2Vec2, base": ("dropout", "feed_forward", "feed_forward"),
    "Conformer": ("attention", "after", "after"),
}
"""Names of the modules of `Branches` in the layers of each family."""


def branches(layer: nn.Module, method: str) -> Branches:
    """The branches of one layer.

    Raises:
        InputError: a layer of no known family.

    Example:
        >>> branches(nn.TransformerEncoderLayer(8, 2, 16), "Houlsby").stream
        Linear(in_features=8, out_features=16, bias=True)
    """
    for family, names in FAMILIES.items():
        found = [part(layer, name) for name in names]
        if all(found) and _order_of(layer) in ("", family.rpartition(", ")[2]):
            return Branches(*cast("list[nn.Module]", found))
    raise InputError(
        f"{method} in a layer of type {type(layer).__name__}: no known attention and feed-forward step; it goes into layers of "
        f"{', '.join(dict.fromkeys(one.partition(',')[0] for one in FAMILIES))}"
    )


def _order_of(layer: Any) -> str:
    """Which of two orders a layer has whose modules have the same names in both; empty for others."""
    if isinstance(layer, nn.TransformerEncoderLayer):
        return "pre-norm" if layer.norm_first else "post-norm"
    if type(layer).__name__.startswith("Wav2Vec2"):
        return "stable" if "Stable" in type(layer).__name__ else "base"
    return ""


def part(module: nn.Module, name: str) -> nn.Module | None:
    """The module at a dotted name, None if there is none."""
    for one in name.split("."):
        found = module._modules.get(one)
        if found is None:
            return None
        module = found
    return module


def layer_norms(module: nn.Module) -> dict[str, nn.Module]:
    """The layer and root-mean-square norms with weights inside a module, by name."""
    return {
        name: one
        for name, one in module.named_modules()
        if type(one).__name__.endswith(("LayerNorm", "RMSNorm", "RmsNorm")) and getattr(one, "weight", None) is not None
    }


def token_width(encoder: LayeredEncoder) -> int:
    """Width of the tokens between the layers, which may be another than `encoder.dim`, that of the features."""
    norms = list(layer_norms(encoder.layers[0]).values())
    return cast(Any, norms[0]).weight.numel() if norms else encoder.dim
