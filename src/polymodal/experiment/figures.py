"""What a cell of a table shows of its runs: the published metrics in terms of ours, and how seeds are put together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from polymodal.errors import InputError

__all__ = ["METRICS", "Measured", "better_lower", "figure_of", "paired", "summarise"]

METRICS: dict[str, tuple[str, float]] = {
    "top1": ("accuracy", 100),
    "top1_avg": ("accuracy", 100),
    "accuracy": ("accuracy", 100),
    "agreement": ("accuracy", 100),
    "ece": ("ece", 1),
    "f1": ("f1_weighted", 100),
    "f1_micro": ("f1_micro", 100),
    "f1_macro": ("f1_macro", 100),
    "acc2": ("acc2_nonzero", 100),
    "acc7": ("acc7", 100),
    "mae": ("mae", 1),
    "corr": ("pearson", 1),
    **{f"r_at_{k}_t2v": (f"r_at_{k}_q2g", 1) for k in (1, 5, 10)},
    **{f"r_at_{k}_v2t": (f"r_at_{k}_g2q", 1) for k in (1, 5, 10)},
    **{f"{one}_t2v": (f"{one}_q2g", 1) for one in ("mdr", "mnr")},
    **{f"{one}_v2t": (f"{one}_g2q", 1) for one in ("mdr", "mnr")},
}
"""By the papers' names: the metric of ours, and what it is multiplied by. Of two-class sentiment the convention without
neutral samples and the weighted F1 of it, as MulT's code has them; the papers do not say which theirs are."""
INSTEAD = {"acc2_nonzero": "accuracy", "f1_weighted": "f1_nonzero", "acc7": "accuracy"}
"""What stands for a metric that the task does not have: IEMOCAP's ACC is of classes, the weighted F1 of MOSI of signs."""
COUNTS = {"tunable_params_m": ("trainable", 1e-6), "seconds": ("seconds", 1), "peak_mib": ("peak_mib", 1)}
"""Figures of the run and not of its predictions."""
LOWER_IS_BETTER = frozenset(
    {"mae", "ece", "seconds", "peak_mib", "tunable_params_m", "gpu_time_s", "memory_mb", "flops"}
)


class Measured(NamedTuple):
    """One figure by seed."""

    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(list(self.values.values()))) if self.values else math.nan

    @property
    def deviation(self) -> float:
        """Over seeds; NaN of one."""
        return float(np.std(list(self.values.values()), ddof=1)) if len(self.values) > 1 else math.nan


def better_lower(metric: str) -> bool:
    """Whether a smaller figure is a better one."""
    return metric in LOWER_IS_BETTER or metric.startswith(("mdr", "mnr"))


def figure_of(found: Mapping[str, Any], metric: str, measure: str) -> float:
    """A published metric, in its unit, from what `runs.measure` found on the test part.

    Args:
        found: of one run.
        metric: as the paper calls it, a key of `METRICS` or `COUNTS`.
        measure: "fused", "alone:MODALITY" or "probe:MODALITY".

    Raises:
        InputError: a metric that the run does not have, or a modality that it did not train.
    """
    if metric in COUNTS:
        name, factor = COUNTS[metric]
        return float(found[name]) * factor
    if metric not in METRICS:
        raise InputError(f"metric {metric!r} is unknown; there are {', '.join((*METRICS, *COUNTS))}")
    name, factor = METRICS[metric]
    what, _, modality = measure.partition(":")
    if what == "probe":
        known: Mapping[str, Any] = found.get("probe", {})
        if modality not in known:
            raise InputError(f"measure {measure!r}: the run's encoders are those of {', '.join(known) or 'none'}")
        return float(known[modality]) * factor
    part = "test" if "test" in found else "valid"
    metrics = found[part]
    if what == "alone":
        known = found["unimodal"].get(part, {})
        if modality not in known:
            raise InputError(f"measure {measure!r}: the run has figures of {', '.join(known) or 'no modality'} alone")
        metrics = known[modality]
    elif what != "fused":
        raise InputError(f"measure {measure!r}: expected fused, alone:MODALITY or probe:MODALITY")
    if name not in metrics:
        name = INSTEAD.get(name, name)
    if name not in metrics:
        raise InputError(f"metric {metric!r}: the run's task has {', '.join(metrics)}")
    return float(metrics[name]) * factor


def summarise(parts: Sequence[Measured]) -> Measured:
    """The mean over several data sets, seed by seed; seeds that one of them lacks are left out."""
    seeds = set.intersection(*(set(one.values) for one in parts)) if parts else set()
    return Measured({seed: float(np.mean([one.values[seed] for one in parts])) for seed in sorted(seeds)})


def paired(one: Measured, other: Measured) -> tuple[float, float]:
    """Mean difference over the seeds that both have, and its standard error (NaN of fewer than two)."""
    gaps = [one.values[seed] - other.values[seed] for seed in one.values if seed in other.values]
    if not gaps:
        return math.nan, math.nan
    error = float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
    return float(np.mean(gaps)), error
