"""Tokens that an adapter puts in front of a sequence, takes back, and hides where a sample lacks the modality."""

from __future__ import annotations

import torch
from torch import Tensor

from polymodal.encoders.base import State

__all__ = ["exchange", "has_any", "put", "take"]


def put(state: State, prompts: Tensor, mask: Tensor | None = None) -> State:
    """Prompts (n, D), the same for every sample, or (B, n, D) in front of the sequence; `mask` (B, n) tells real ones.

    Example:
        >>> put(State(torch.zeros(2, 3, 4)), torch.ones(5, 4)).tokens.shape
        torch.Size([2, 8, 4])
    """
    tokens = prompts.to(state.tokens.dtype).expand(len(state.tokens), -1, -1)
    return state.add(tokens, mask)


def take(state: State, count: int) -> tuple[Tensor, State]:
    """The first `count` tokens (B, count, D), and the state without them."""
    mask = None if state.mask is None else state.mask[:, count:]
    rest = state._replace(tokens=state.tokens[:, count:], mask=mask, extra=state.extra - count)
    return state.tokens[:, :count], rest


def exchange(state: State, new: Tensor) -> State:
    """Other tokens (n, D) or (B, n, D) for the first n, which stay as real as they were."""
    count = new.shape[-2]
    tokens = new.to(state.tokens.dtype).expand(len(state.tokens), -1, -1)
    return state._replace(tokens=torch.cat([tokens, state.tokens[:, count:]], 1))


def has_any(state: State) -> Tensor | None:
    """Which samples have a real token of their own: (B,) bool, or None for all."""
    return None if state.mask is None else state.mask[:, state.extra :].any(1)
