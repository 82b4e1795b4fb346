"""Means and deviations of more values than need to be in memory at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Moments"]


class Moments:
    """Mean and deviation of D features over any number of arrays, by merging (Chan et al. 1983, equations 1.5)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(1)
        self.squares: NDArray[np.float64] = np.zeros(1)

    def update(self, values: NDArray[Any]) -> None:
        """Take in (n, D) values."""
        n = len(values)
        if not n:
            return
        mean = values.mean(0, dtype=np.float64)
        squares = values.var(0, dtype=np.float64) * n
        shift, total = mean - self.mean, self.count + n
        self.squares = self.squares + squares + shift**2 * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total

    def result(self) -> tuple[list[float], list[float]]:
        """(D,) means and (D,) deviations; 1 for a feature that does not vary, so that it is only centred."""
        std = np.sqrt(self.squares / max(self.count, 1))
        std = np.where(std > 1e-7 * np.abs(self.mean), std, 1.0)
        return self.mean.tolist(), std.tolist()
