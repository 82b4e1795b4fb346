"""Taking modalities away from samples: at random in training, by name in evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.errors import InputError
from polymodal.types import Batch

__all__ = ["ModalityDropout", "lose", "without"]

STREAM = 1
"""Keeps these draws apart from those of the order of an epoch, which come from the same seed and epoch."""


def lose(there: NDArray[np.bool_], probability: float, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Which modalities each sample still has, (N, M), of those that it has: each is lost with `probability`, never all.

    Of a sample that would lose all that it has, one is kept, each with the same chance. A pure function of its arguments,
    in which sample i draws the same however many follow it.

    Example:
        >>> lose(np.ones((4, 2), bool), 0.5, seed=5, epoch=0).tolist()
        [[True, False], [True, True], [True, True], [False, True]]
    """
    random = np.random.default_rng([seed, epoch, STREAM])
    draws = random.random((len(there), 2, there.shape[1]))
    left = there & (draws[:, 0] >= probability)
    none = np.flatnonzero(~left.any(1) & there.any(1))
    left[none, np.where(there[none], draws[none, 1], -1).argmax(1)] = True
    return left


class ModalityDropout(NamedTuple):
    """Each training sample loses each of `modalities` with `probability`, drawn anew each epoch."""

    probability: float
    modalities: tuple[str, ...]

    def left(self, there: Mapping[str, Tensor], seed: int, epoch: int) -> dict[str, Tensor]:
        """(N,) bool of each modality over all samples: `there` is what they have, without an entry all have it.

        Raises:
            InputError: the probability is not in [0, 1).
        """
        if not 0 <= self.probability < 1:
            raise InputError(f"modality dropout {self.probability}: expected a probability from 0 up to 1")
        left = lose(np.stack([there[m].numpy() for m in self.modalities], 1), self.probability, seed, epoch)
        return {m: torch.from_numpy(left[:, i].copy()) for i, m in enumerate(self.modalities)}


def without(batch: Batch, modalities: Collection[str]) -> Batch:
    """The same batch as if no sample had these modalities.

    Example:
        >>> batch = Batch({"a": torch.zeros(2, 3), "v": torch.zeros(2, 1)}, torch.tensor([0, 1]))
        >>> without(batch, ["a"]).present
        {'a': tensor([False, False])}
    """
    none = torch.zeros(len(batch.target), dtype=torch.bool, device=batch.target.device)
    return batch._replace(present=(batch.present or {}) | dict.fromkeys(modalities, none))
