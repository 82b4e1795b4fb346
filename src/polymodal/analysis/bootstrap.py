"""Confidence intervals by bootstrap over samples."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Interval", "bootstrap_mean"]


class Interval(NamedTuple):
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies on one side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        return f"{self.estimate:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return self._asdict()


def bootstrap_mean(values: ArrayLike, *, seed: int = 0, resamples: int = 1000, level: float = 0.95) -> Interval:
    """Mean of per-sample values (N,) and the percentiles of its bootstrap distribution.

    Values that are differences of two models on the same sample make it a paired interval. It covers the choice of the N
    samples, not that of the training's seed.

    Args:
        values: (N,), N at least 1.
        seed: of the resamples.
        resamples: number of times that N samples are drawn with replacement.
        level: probability that the interval covers the mean over all samples that there could be.

    Raises:
        ValueError: no values, or some that are not finite.

    Source: Efron 1979; percentile interval.

    Example:
        >>> bootstrap_mean([1.0] * 30 + [0.0] * 10).estimate
        0.75
    """
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise ValueError(f"values of shape {found.shape}: give one finite number a sample")
    rng = np.random.default_rng(seed)
    means = [found[rng.integers(0, len(found), len(found))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(found.mean()), float(low), float(high))
