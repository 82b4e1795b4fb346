"""What a run shows, in sentences that are computed from its figures."""

from __future__ import annotations

import math

import numpy as np

from polymodal.analysis.reports.estimates import Estimate, confusion, difference, estimates, mean_coefficients, number
from polymodal.analysis.reports.record import Record

__all__ = ["best_modality", "compared", "findings", "fused_name", "headline"]

NOISE = 2.0
"""A difference below so many of its standard errors is called noise."""

SOURCES = {
    "heads": "by its own head inside the model",
    "parts": "by its share of the additive fusion",
    "models": "by a model trained on that modality alone",
}


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
    if len(record.modalities) < 2 or record.task == "retrieval":
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
