"""What holds for every encoder that runs layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from polymodal.encoders import LayeredEncoder
from polymodal.types import Features, Padded


def largest(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).detach().abs().max())


def with_foreign(encoder: LayeredEncoder, x: Any, foreign: Tensor, mask: Tensor | None, start: int = 1) -> Features:
    """Features where `foreign` (B, E, D) stands in front from layer `start` on."""
    state = encoder.embed(x)
    for index in range(len(encoder.layers)):
        if index == start:
            state = state.add(foreign, mask)
        state = encoder.run_layer(index, state)
    assert torch.equal(state.extras(), state.tokens[:, : foreign.shape[1]])
    return encoder.finish(state)


def check_foreign_tokens(encoder: LayeredEncoder, x: Any, size: int) -> None:
    """Foreign tokens act in mid-stack, do not when they are masked, and are gone at the end."""
    plain = encoder(x)
    foreign = torch.randn(size, 3, encoder.dim, dtype=torch.float64, requires_grad=True)
    hidden = with_foreign(encoder, x, foreign, torch.zeros(size, 3, dtype=torch.bool))
    assert largest(hidden.pooled, plain.pooled) < 1e-12
    assert hidden.tokens is not None
    assert plain.tokens is not None
    assert hidden.tokens.shape == plain.tokens.shape
    seen = with_foreign(encoder, x, foreign, None)
    assert largest(seen.pooled, plain.pooled) > 1e-6
    seen.pooled.square().sum().backward()
    assert foreign.grad is not None
    assert foreign.grad.abs().sum((1, 2)).min() > 0


def check_absent_sample(encoder: LayeredEncoder, x: Any, size: int) -> None:
    """A sample that the model masks as absent stays finite, and so does its gradient; the others are as before."""
    plain = encoder(x)
    state = encoder.embed(x)
    there = torch.ones(size, dtype=torch.bool)
    there[0] = False
    mask = there[:, None].expand(state.tokens.shape[:2])
    state = state._replace(mask=mask if state.mask is None else state.mask & mask)
    for index in range(len(encoder.layers)):
        state = encoder.run_layer(index, state)
    found = encoder.finish(state)
    assert found.pooled.isfinite().all()
    assert largest(found.pooled[1:], plain.pooled[1:]) < 1e-12
    found.pooled.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


def check_padding(encoder: LayeredEncoder, x: Padded) -> None:
    """More padding, whatever it holds, changes no valid output, with foreign tokens in front too."""
    more = Padded(F.pad(x.values, (0, 5), value=7), F.pad(x.mask, (0, 5)))
    length = x.mask.shape[1]
    foreign = torch.randn(len(x.mask), 2, encoder.dim, dtype=torch.float64)
    for one, other in (
        (encoder(x), encoder(more)),
        (with_foreign(encoder, x, foreign, None), with_foreign(encoder, more, foreign, None)),
    ):
        assert largest(one.pooled, other.pooled) < 1e-12
        assert one.tokens is not None
        assert other.tokens is not None
        assert largest(one.tokens[x.mask], other.tokens[:, :length][x.mask]) < 1e-12


def check_gradients(encoder: LayeredEncoder, x: Any) -> None:
    """Every parameter is trained, and the state dict holds each once."""
    encoder.zero_grad()
    features = encoder(x)
    assert features.tokens is not None
    (features.pooled.square().sum() + features.tokens.square().sum()).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    assert len(encoder.state_dict()) == len({one.data_ptr() for one in encoder.state_dict().values()})
