"""The part of a run's report that shows how training went: learning curves, scores and coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from polymodal.analysis.reports.figures import Series, lines
from polymodal.analysis.reports.html import Markup, Section, figure, grid, section, table
from polymodal.analysis.reports.record import Record

__all__ = ["curve", "only_modality", "series_of", "training"]

Epochs = Sequence[dict[str, Any]]


def training(record: Record) -> Section | None:
    """Curves of every stage in the run's history; None without a history."""
    drawn = [_losses(record), _each_alone(record)]
    joint = {stage: rows for stage, rows in record.stages.items() if only_modality(rows) is None}
    for number, (stage, rows) in enumerate(joint.items()):
        drawn += _stage(record, number, rows, f": {stage}" if len(joint) > 1 else "", record.best_epoch(stage))
    shown = [one for one in drawn if one is not None]
    return section("training", "Training", "Training", grid(*shown)) if shown else None


def only_modality(rows: Epochs) -> str | None:
    """The one modality that a stage trains, None for several."""
    names = list(rows[0].get("unimodal", {}))
    return names[0] if len(names) == 1 else None


def series_of(name: str, rows: Epochs, keys: Sequence[str], style: int) -> Series:
    """A line of the values under `keys` in each epoch's entry, NaN where there is none."""
    values = []
    for row in rows:
        value: Any = row
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        values.append(math.nan if value is None else float(value))
    return Series(name, [row["epoch"] for row in rows], values, style)


def curve(
    name: str,
    title: str,
    series: Sequence[Series],
    y_label: str,
    note: str,
    *,
    level: float | None = None,
    log: bool = False,
    wide: bool = False,
) -> Markup | None:
    """A figure of lines over epochs with its table; None where there is no value to draw."""
    kept = [one for one in series if any(map(math.isfinite, one.y))]
    if not kept:
        return None
    drawing = lines(name, title, kept, y_label, level=level, log=log)
    epochs = sorted({int(x) for one in kept for x in one.x})
    values = [dict(zip(one.x, one.y, strict=True)) for one in kept]
    rows = [[epoch, *[one.get(epoch) for one in values]] for epoch in epochs]
    return figure(title, drawing, note, table(title, ["epoch", *[one.name for one in kept]], rows), wide=wide)


def _styles(record: Record) -> dict[str, int]:
    return {m: 1 + i for i, m in enumerate(record.modalities)}


def _losses(record: Record) -> Markup | None:
    stages, styles = record.stages, _styles(record)
    if len(stages) == 1:
        (rows,) = stages.values()
        series = [series_of("training", rows, ["train_loss"], 0), series_of("validation", rows, ["valid", "loss"], 6)]
    else:
        series = [
            series_of(stage.removeprefix("unimodal_"), rows, ["train_loss"], styles.get(only_modality(rows) or "", 0))
            for stage, rows in stages.items()
        ]
    note = "The training loss is what was minimised: it may hold losses of uni-modal heads beside the fused one."
    return curve("curve-loss", "Loss" if len(stages) == 1 else "Training loss", series, "loss", note)


def _each_alone(record: Record) -> Markup | None:
    """Validation curves of the stages that train one modality each."""
    found = [(only_modality(rows), rows) for rows in record.stages.values()]
    styles = _styles(record)
    series = [series_of(m, rows, ["valid", record.metric], styles.get(m, 7)) for m, rows in found if m is not None]
    note = "Each line is a model of that modality alone, on the validation split after each epoch."
    return curve("curve-alone", "Validation, each modality trained alone", series, record.metric_name, note)


def _stage(record: Record, number: int, rows: Epochs, suffix: str, best: int | None) -> list[Markup | None]:
    styles = _styles(record)

    def each(*keys: str) -> list[Series]:
        return [series_of(m, rows, [*keys[:1], m, *keys[1:]], styles[m]) for m in record.modalities]

    metric = [series_of("fused", rows, ["valid", record.metric], 0), *each("unimodal", record.metric)]
    kept = f" The weights of epoch {best} were kept." if best else ""
    return [
        curve(
            f"curve-{number}",
            f"Validation, fused and each modality{suffix}",
            metric,
            record.metric_name,
            f"On the validation split after each epoch.{kept}",
        ),
        curve(
            f"scores-{number}",
            f"Score of each modality{suffix}",
            each("scores"),
            "score",
            "The balancer's measure of how well each modality does on the training batches, mean over the epoch.",
        ),
        curve(
            f"coefficients-{number}",
            f"Coefficient of each modality{suffix}",
            each("coefficients"),
            "coefficient",
            "Above 1 (dashed) the balancer pushes the modality, below 1 it holds it back; mean over the epoch.",
            level=1.0,
            log=True,
        ),
    ]
