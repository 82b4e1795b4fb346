"""What a run shows, in figures with their errors and in sentences that are computed from them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymodal.analysis.reports.record import Predictions, Record

__all__ = [
    "Estimate",
    "compared",
    "confusion",
    "difference",
    "estimates",
    "findings",
    "fused_name",
    "headline",
    "mean_coefficients",
    "number",
    "scores_of_labels",
    "standard_error",
]

Array = NDArray[Any]
RESAMPLES = 200
NOISE = 2.0
"""A difference below so many of its standard errors is called noise."""

SOURCES = {
    "heads": "by its own head inside the model",
    "parts": "by its share of the additive fusion",
    "models": "by a model trained on that modality alone",
}


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


# Sentences ------------------------------------------------------------------------------------------------------------


def fused_name(record: Record) -> str:
    """What to call the model: "fused", or the one modality that it reads."""
    only = record.model.get("modalities", [])
    return f"{only[0]} (chosen)" if len(only) == 1 and len(record.modalities) > 1 else "fused"


def compared(gap: Estimate, lower_is_better: bool, what: str) -> str:
    """A paired difference in words: better or worse than `what`, or noise."""
    size = f"{number(abs(gap.value))}" + ("" if gap.error is None else f" ± {number(gap.error)}")
    if gap.error is not None and abs(gap.value) < NOISE * gap.error:
        return f"not distinguishable from {what}: the difference of {number(gap.value)} ± {number(gap.error)} is within noise"
    if gap.value == 0:
        return f"equal to {what}"
    word = "above" if gap.value > 0 else "below"
    judged = "" if (gap.value > 0) != lower_is_better else ", which is worse"
    judged = ", which is better" if lower_is_better and not judged else judged
    return f"{size} {word} {what}{judged}"


def best_modality(record: Record, found: dict[str, Estimate]) -> str | None:
    """The modality that does best alone, not counting the one that the model itself consists of."""
    own = record.model.get("modalities", [])
    others = [m for m in found if m and not (len(own) == 1 and m == own[0])]
    sign = 1 if record.lower_is_better else -1
    return min(others, key=lambda m: sign * found[m].value, default=None)


def headline(record: Record) -> str:
    """What was learned, in one sentence."""
    found, shown = estimates(record, record.part), record.shown
    if "" not in found:
        return f"The run has no {record.metric_name} on {record.part}, so nothing can be said about it."
    name = fused_name(record)
    subject = (
        "The fused model"
        if name == "fused"
        else f"The model of {record.model['modalities'][0]} alone, which was chosen,"
    )
    size = "" if shown is None else f" ({len(shown.ids)} samples)"
    text = f"{subject} reaches {found['']} {record.metric_name} on the {record.part} split{size}"
    best = best_modality(record, found)
    if best is None:
        reason = "it has no uni-modal predictions" if len(record.modalities) > 1 else "it has a single modality"
        return f"{text}; {reason}, so it cannot tell what fusing brings."
    what = f"the best {'other ' if name != 'fused' else ''}modality alone ({best}, {number(found[best].value)})"
    gap = None
    if shown is not None and best in shown.unimodal:
        there = shown.there(best)
        gap = difference(record.metric, shown.target[there], shown.fused[there], shown.unimodal[best][there])
    gap = gap or Estimate(found[""].value - found[best].value)
    return f"{text}, {compared(gap, record.lower_is_better, what)}{_balance(record)}."


def _balance(record: Record) -> str:
    """What the balancer did to each modality, as the end of a sentence."""
    found = mean_coefficients(record)
    pushed = [f"{m} ×{value:.2f}" for m, value in found.items() if value > 1.05]
    held = [f"{m} ×{value:.2f}" for m, value in found.items() if value < 0.95]
    words = [f"{verb} {', '.join(names)}" for verb, names in (("pushed", pushed), ("held back", held)) if names]
    name = record.metrics.get("chosen") or record.setting("balancer")
    return f"; {name} {' and '.join(words)} (mean coefficients)" if words else ""


def findings(record: Record) -> list[str]:
    """Further sentences, each a fact that follows from the run's own figures."""
    shown = record.shown
    found = estimates(record, record.part)
    texts = [_source(record), _chosen(record), _inside(record)]
    if shown is not None and record.task == "classification":
        texts += [_mended(record, found), _confidence(record), _weakest(record)]
    return [text for text in [*texts, *_progress(record)] if text]


def _source(record: Record) -> str:
    source = record.metrics.get("unimodal", {}).get("from")
    if source in SOURCES:
        return f"“Alone” is measured {SOURCES[source]}."
    if len(record.modalities) < 2:
        return ""
    return (
        "The model has neither uni-modal heads nor an additive fusion, so that no modality can be measured alone; "
        "the balancer multi_loss or the recipe ume gives such figures."
    )


def _chosen(record: Record) -> str:
    chosen, count = record.metrics.get("chosen"), len(record.leaderboard)
    if chosen is None:
        return ""
    of = f" of {count} trials" if count else ""
    return f"The recipe {record.setting('recipe')} chose {chosen}{of}, on the validation split."


def _inside(record: Record) -> str:
    """Each modality's head inside the one joint stage against the model of that modality alone, on validation."""
    alone = estimates(record, "valid")
    joint = {stage: rows for stage, rows in record.stages.items() if len(rows[0].get("unimodal", {})) > 1}
    if record.metrics.get("unimodal", {}).get("from") != "models" or len(joint) != 1:
        return ""
    ((stage, rows),) = joint.items()
    row = next((row for row in rows if row["epoch"] == record.best_epoch(stage)), rows[-1])
    inside = {m: one.get(record.metric) for m, one in row["unimodal"].items() if m in alone}
    pairs = [(m, value, alone[m]) for m, value in inside.items() if value is not None and math.isfinite(value)]
    if not pairs:
        return ""
    sign = -1 if record.lower_is_better else 1
    held = [m for m, value, one in pairs if one.error and sign * (one.value - value) > NOISE * math.sqrt(2) * one.error]
    told = ", ".join(f"{m} {number(value)} ({number(one.value)})" for m, value, one in pairs)
    end = f"held back by more than noise: {', '.join(held)}" if held else "none is held back by more than noise"
    return f"Each modality's head inside {stage}, on validation (in brackets the model of it alone): {told}; {end}."


def _mended(record: Record, found: dict[str, Estimate]) -> str:
    best, shown = best_modality(record, found), record.shown
    if best is None or shown is None or best not in shown.unimodal:
        return ""
    there = shown.there(best)
    right = (shown.fused == shown.target)[there]
    alone = (shown.unimodal[best] == shown.target)[there]
    mended, broken = int((right & ~alone).sum()), int((~right & alone).sum())
    subject = "the fused model" if fused_name(record) == "fused" else "the model"
    return (
        f"Of the {int((~alone).sum())} samples that {best} alone gets wrong, {subject} gets {mended} right; "
        f"of the {int(alone.sum())} that {best} alone gets right, it gets {broken} wrong."
    )


def _confidence(record: Record) -> str:
    shown, value = record.shown, record.metrics.get(record.part, {}).get("ece")
    if shown is None or shown.probabilities is None or value is None:
        return ""
    gap = float(shown.probabilities.max(-1).mean() - (shown.fused == shown.target).mean())
    tendency = (
        "too sure of itself" if gap > 0.01 else "too cautious" if gap < -0.01 else "about as sure as it should be"
    )
    return f"On average the model is {tendency} (mean confidence minus accuracy {number(gap)}; ECE {number(value)})."


def _weakest(record: Record) -> str:
    shown, classes = record.shown, record.classes
    if shown is None:
        return ""
    table = confusion(shown, len(classes))
    recall = np.where(table.sum(1) > 0, np.diag(table) / np.maximum(table.sum(1), 1), 2.0)
    worst = int(recall.argmin())
    if recall[worst] >= 1:
        return ""
    wrong = table[worst].copy()
    wrong[worst] = 0
    other = int(wrong.argmax())
    return (
        f"Class “{classes[worst]}” is recognised least: {int(table[worst, worst])} of {int(table[worst].sum())}; "
        f"most often it is taken for “{classes[other]}” ({_times(int(wrong[other]))})."
    )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _progress(record: Record) -> list[str]:
    late = [
        stage
        for stage, rows in record.stages.items()
        if len(rows) > 2 and record.best_epoch(stage) == rows[-1]["epoch"] and rows[-1].get("valid")
    ]
    if not late or record.config.get("train", {}).get("select") == "last":
        return []
    return [f"Training of {', '.join(late)} was still improving at its last epoch: more epochs may help."]
