"""Batches of sequences of unequal length, and of samples that lack a modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.types import Padded

__all__ = ["Value", "blank", "pad_sequences", "trim"]

Value = Tensor | Padded


def pad_sequences(sequences: Sequence[NDArray[Any]], length: int) -> Padded:
    """(L_i, ...) arrays as (B, length, ...) padded with zeros; a sequence of no tokens counts as one token of zeros."""
    first = sequences[0]
    values = torch.zeros((len(sequences), length, *first.shape[1:]), dtype=torch.from_numpy(first[:0]).dtype)
    mask = torch.zeros((len(sequences), length), dtype=torch.bool)
    for i, sequence in enumerate(sequences):
        tokens = min(len(sequence), length)
        values[i, :tokens] = torch.from_numpy(np.ascontiguousarray(sequence[:tokens]))
        mask[i, : max(tokens, 1)] = True
    return Padded(values, mask)


def trim(value: Padded) -> Padded:
    """The same batch (B, L, ...) without the columns that are padding in every sample."""
    longest = max(1, int(value.mask.sum(1).max()))
    return value if longest == value.mask.shape[1] else Padded(value.values[:, :longest], value.mask[:, :longest])


def blank(value: Value, present: Tensor) -> Value:
    """The same batch with zeros where `present` (B,) is false.

    The first position of an absent sequence keeps its mask, so that no encoder averages over nothing.
    """
    if bool(present.all()):
        return value
    if isinstance(value, Padded):
        mask = value.mask & present[:, None]
        mask[:, 0] = True
        return Padded(_zero(value.values, present), mask)
    return _zero(value, present)


def _zero(values: Tensor, present: Tensor) -> Tensor:
    return values.masked_fill(~present.reshape(-1, *[1] * (values.dim() - 1)), 0)
