"""One layer of a family written out, with what an adapter does to its two residual branches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from polymodal.encoders.base import additive_mask

Change = Callable[[Tensor, Tensor], Tensor]
"""From what a branch yields, and the residual stream that it is added to, to what is added instead."""


def same(branch: Tensor, stream: Tensor) -> Tensor:
    return branch


def layer_by_hand(
    family: str, layer: Any, x: Tensor, mask: Tensor, attention: Change = same, ffn: Change = same
) -> Any:
    """Tokens (B, L, D) through one layer, `mask` (B, L) real."""
    if family == "bert":
        heard = layer.attention.self(x, additive_mask(mask, x.dtype))[0]
        output = layer.attention.output
        x = output.LayerNorm(x + attention(output.dense(heard), x))
        return layer.output.LayerNorm(x + ffn(layer.output.dense(layer.intermediate(x)), x))
    if family == "vit":
        x = x + attention(layer.attn(layer.norm1(x), attn_mask=additive_mask(mask, x.dtype)), x)
        return x + ffn(layer.mlp(layer.norm2(x)), x)
    if family == "imagebind":
        y = layer.norm_1(x)
        x = x + attention(layer.attn(y, y, y, key_padding_mask=~mask)[0], x)
        return x + ffn(layer.mlp(layer.norm_2(x)), x)
    assert family in ("transformer", "post_norm")

    def mixed(y: Tensor) -> Any:
        return layer.self_attn(y, y, y, key_padding_mask=~mask)[0]

    def forward(y: Tensor) -> Any:
        return layer.linear2(F.relu(layer.linear1(y)))

    if family == "transformer":
        x = x + attention(mixed(layer.norm1(x)), x)
        return x + ffn(forward(layer.norm2(x)), x)
    x = layer.norm1(x + attention(mixed(x), x))
    return layer.norm2(x + ffn(forward(x), x))


WRITTEN_OUT = ("bert", "vit", "imagebind", "transformer", "post_norm")
