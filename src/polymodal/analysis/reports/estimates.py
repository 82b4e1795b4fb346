"""A run's figures with their standard errors, and the counts behind them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymodal.analysis.reports.record import Predictions, Record

__all__ = [
    "Estimate",
    "confusion",
    "difference",
    "estimates",
    "mean_coefficients",
    "number",
    "scores_of_labels",
    "standard_error",
]

Array = NDArray[Any]
RESAMPLES = 200


class Estimate(NamedTuple):
    """A figure and its standard error, None where there is no estimate."""

    value: float
    error: float | None = None

    def __str__(self) -> str:
        return number(self.value) if self.error is None else f"{number(self.value)} ± {number(self.error)}"


def number(value: float) -> str:
    """A figure with three decimals, or four digits where it is large."""
    if not math.isfinite(value):
        return "not finite"
    return (f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}").replace("-", "−")


# Figures and their errors ---------------------------------------------------------------------------------------------


def standard_error(metric: str, decided: Array, target: Array) -> float | None:
    """Standard error of a figure over N samples.

    sqrt(p (1 - p) / N) for accuracy, with p = (k + 2) / (N + 4) where all or none of the k are right; deviation / sqrt(N)
    for mean errors; the deviation over 200 bootstrap resamples for F1; None for what decisions alone do not tell.
    """
    values = _each(metric, decided, target)
    if len(target) < 2:
        return None
    if values is None:
        return _bootstrap(metric, target, decided) if metric.startswith("f1_") else None
    if metric != "accuracy":
        return float(values.std(ddof=1) / math.sqrt(len(values)))
    p = float(values.mean())
    p = p if 0 < p < 1 else (values.sum() + 2) / (len(values) + 4)
    return math.sqrt(p * (1 - p) / len(values))


def difference(metric: str, target: Array, first: Array, second: Array) -> Estimate | None:
    """Figure of `first` minus that of `second` on the same samples, with the error of the paired difference."""
    if len(target) < 2:
        return None
    one, two = _each(metric, first, target), _each(metric, second, target)
    if one is not None and two is not None:
        gap = one - two
        return Estimate(float(gap.mean()), float(gap.std(ddof=1) / math.sqrt(len(gap))))
    if not metric.startswith("f1_"):
        return None
    weights = np.ones(len(target))
    value = _f1(metric, target, first, weights) - _f1(metric, target, second, weights)
    return Estimate(value, _bootstrap(metric, target, first, second))


def estimates(record: Record, part: str) -> dict[str, Estimate]:
    """The run's figure of merit on one split: under "" of the model, then of each modality alone.

    The figures are those of metrics.json; the predictions give their errors.
    """
    found = record.predictions.get(part)
    single = record.metrics.get("unimodal", {}).get(part, {})
    result: dict[str, Estimate] = {}
    for name, figures in {
        "": record.metrics.get(part, {}),
        **{m: single[m] for m in record.modalities if m in single},
    }.items():
        if not math.isfinite(figures.get(record.metric, math.nan)):
            continue
        error = None
        if found is not None and (not name or name in found.unimodal):
            there = found.there(name) if name else np.ones(len(found.ids), bool)
            decided = found.unimodal[name] if name else found.fused
            error = standard_error(record.metric, decided[there], found.target[there])
        result[name] = Estimate(float(figures[record.metric]), error)
    return result


def _each(metric: str, decided: Array, target: Array) -> NDArray[np.float64] | None:
    """What each sample adds to a figure that is a mean over samples, (N,)."""
    if metric == "accuracy":
        right = np.asarray(decided == target)
        return np.asarray(right if right.ndim == 1 else right.all(-1), np.float64)
    if metric in ("mae", "mse"):
        error = np.abs(decided - target)
        return np.asarray(error if metric == "mae" else error**2, np.float64)
    return None


def _bootstrap(metric: str, target: Array, first: Array, second: Array | None = None) -> float:
    draw = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        weights = np.bincount(draw.integers(len(target), size=len(target)), minlength=len(target)).astype(np.float64)
        one = _f1(metric, target, first, weights)
        found.append(one if second is None else one - _f1(metric, target, second, weights))
    return float(np.std(found, ddof=1))


def _f1(metric: str, target: Array, decided: Array, weights: NDArray[np.float64]) -> float:
    """`metrics.f1` with weighted samples."""
    if target.ndim == 1:
        size = int(max(target.max(), decided.max())) + 1
        hits: Array = np.bincount(target, weights * (target == decided), size)
        true: Array
        given: Array
        true, given = np.bincount(target, weights, size), np.bincount(decided, weights, size)
    else:
        hits, true, given = weights @ (target * decided), weights @ target, weights @ decided
    both = true + given
    if metric == "f1_micro":
        return float(2 * hits.sum() / max(both.sum(), 1.0))
    each = 2 * hits / np.maximum(both, 1.0)
    if metric == "f1_weighted":
        return float((true * each).sum() / max(true.sum(), 1.0))
    return float(each[both > 0].mean() if target.ndim == 1 else each.mean())


# Counts ---------------------------------------------------------------------------------------------------------------


def confusion(found: Predictions, classes: int) -> NDArray[np.int64]:
    """(C, C) number of samples of true class (row) that were given a class (column)."""
    flat = np.bincount(found.target * classes + found.fused, minlength=classes**2)
    return flat.reshape(classes, classes)


def scores_of_labels(found: Predictions, classes: int) -> NDArray[np.float64]:
    """(C, 4) precision, recall, F1 and number of true samples of each class or label; NaN where undefined."""
    if found.target.ndim == 1:
        table = confusion(found, classes).astype(np.float64)
        hits, true, given = np.diag(table), table.sum(1), table.sum(0)
    else:
        hits, true, given = (found.target * found.fused).sum(0), found.target.sum(0), found.fused.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([hits / given, hits / true, 2 * hits / (true + given), true], -1)


def mean_coefficients(record: Record) -> dict[str, float]:
    """Geometric mean over all epochs of each modality's coefficient, where a balancer has them."""
    found: dict[str, list[float]] = {}
    for row in record.history:
        for m, value in row.get("coefficients", {}).items():
            if math.isfinite(value) and value > 0:
                found.setdefault(m, []).append(math.log(value))
    return {m: math.exp(sum(values) / len(values)) for m, values in found.items()}
