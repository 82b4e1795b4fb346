"""The page that compares runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.analysis.reports.estimates import Estimate, difference, estimates, number
from polymodal.analysis.reports.figures import Bar, Series, bars
from polymodal.analysis.reports.findings import compared
from polymodal.analysis.reports.html import Markup, Section, card, details, figure, page, paragraph, section, table
from polymodal.analysis.reports.record import Record, read_record
from polymodal.analysis.reports.training import curve, only_modality, series_of
from polymodal.errors import InputError
from polymodal.run import write_atomically

__all__ = ["compare"]

CURVES = 8
"""Runs whose learning curves are drawn at most."""
PARTS = ("recipe", "balancer", "fusion")


def compare(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Write one page that compares finished runs of the same task and figure of merit.

    Differences to the first run are paired where both have predictions for the same samples; elsewhere the errors of the
    two runs are added as independent ones, and the page says so.

    Args:
        runs: folders of two or more finished runs; the first is what the others are compared with.
        out: HTML file to write.

    Returns:
        Path of the page.

    Raises:
        InputError: fewer than two runs, one that is not finished, or runs of different tasks or figures of merit.
    """
    records = [read_record(run) for run in runs]
    if len(records) < 2:
        raise InputError(f"{len(records)} run: a comparison needs two or more")
    first = records[0]
    for one in records[1:]:
        if (one.task, one.metric) != (first.task, first.metric):
            raise InputError(
                f"run {one.path} is a {one.task} selected by {one.metric}, run {first.path} a {first.task} selected by "
                f"{first.metric}: their figures cannot be compared"
            )
    part = "test" if all("test" in one.metrics for one in records) else "valid"
    lead = Markup(f'<div class="lead">{paragraph(_headline(records, part), "headline")}</div>')
    made = [
        _runs(records, part),
        _differences(records, part),
        _seeds(records, part),
        _curves(records),
        _settings(records),
    ]
    about = f"{first.task} of {first.schema['label']}, {first.metric_name} on {part}"
    text = page(f"{len(records)} runs compared", about, lead, [one for one in made if one is not None])
    path = Path(out)
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _labels(records: Sequence[Record]) -> list[str]:
    return [f"{place} {record.name}" for place, record in enumerate(records, 1)]


def _fused(record: Record, part: str) -> Estimate:
    return estimates(record, part).get("", Estimate(math.nan))


def _gap(first: Record, other: Record, part: str) -> tuple[Estimate, bool]:
    """Figure of `other` minus that of `first`, and whether the difference is paired."""
    one, two = first.predictions.get(part), other.predictions.get(part)
    if one is not None and two is not None and first.classes == other.classes:
        place = {name: i for i, name in enumerate(two.ids)}
        if len(place) == len(two.ids) and sorted(place) == sorted(one.ids):
            order = np.array([place[name] for name in one.ids], int)
            if np.array_equal(one.target, two.target[order]):
                gap = difference(first.metric, one.target, two.fused[order], one.fused)
                if gap is not None:
                    return gap, True
    a, b = _fused(first, part), _fused(other, part)
    error = math.hypot(a.error, b.error) if a.error is not None and b.error is not None else None
    return Estimate(b.value - a.value, error), False


def _headline(records: Sequence[Record], part: str) -> str:
    first = records[0]
    sign = 1 if first.lower_is_better else -1
    found = [_fused(one, part) for one in records]
    ranked = sorted((i for i, one in enumerate(found) if math.isfinite(one.value)), key=lambda i: sign * found[i].value)
    if not ranked:
        return f"None of the runs has {first.metric_name} on {part}."
    best = ranked[0]
    text = f"The best of {len(records)} runs on {part} is {records[best].name} with {found[best]} {first.metric_name}"
    if len(ranked) < 2:
        return text + "."
    second = ranked[1]
    gap, _ = _gap(records[second], records[best], part)
    what = f"the next, {records[second].name} ({number(found[second].value)})"
    lucky = " Choosing among several runs by their test figures favours the luckiest." if part == "test" else ""
    return f"{text}, {compared(gap, first.lower_is_better, what)}.{lucky}"


def _runs(records: Sequence[Record], part: str) -> Section:
    first, labels = records[0], _labels(records)
    modalities = list(dict.fromkeys(m for one in records for m in one.modalities))
    parts = [p for p in ("valid", "test") if any(p in one.metrics for one in records)]
    header = ["run", *PARTS, "seed", *[f"{first.metric_name}, {p}" for p in parts]]
    header += [f"{m} alone, {part}" for m in modalities] + ["seconds"]
    rows: list[list[Any]] = []
    brief: list[list[Any]] = []
    drawn = []
    for label, one in zip(labels, records, strict=True):
        found = estimates(one, part)
        alone = [found.get(m) for m in modalities]
        names = [one.setting(what) for what in PARTS]
        if one.metrics.get("chosen"):
            names[0] += f" (chose {one.metrics['chosen']})"
        seconds = one.timing.get("seconds", {}).get("all")
        figures = [estimates(one, p).get("") for p in parts]
        whole = None if seconds is None else round(seconds)
        rows.append([label, *names, one.config.get("seed"), *figures, *alone, whole])
        brief.append([label, found.get(""), *alone])
        if "" in found:
            marks = {1 + i: e.value for i, e in enumerate(alone) if e is not None}
            drawn.append(Bar(label, found[""], 0, marks))
    title = f"{first.metric_title}, {part} split"
    parts_of_page: list[Any] = [card("All runs", table(f"{first.metric_title}, ± one standard error", header, rows))]
    if drawn:
        legend = {1 + i: f"{m} alone" for i, m in enumerate(modalities) if any(1 + i in bar.marks for bar in drawn)}
        name = f"{first.metric_title} on {part} of each run"
        drawing = bars("runs-chart", name, drawn, f"{first.metric_name} ({part})", marks=legend)
        text = f"Bars are {first.metric_name} of the whole model, whiskers one standard error"
        text += ", marks each modality alone." if legend else "."
        text += " Smaller is better." if first.lower_is_better else ""
        data = table(name, ["run", "whole model", *[f"{m} alone" for m in modalities]], brief)
        parts_of_page.append(figure(title, drawing, text, data, wide=True))
    return section("runs", "Runs", "Runs", *parts_of_page)


def _differences(records: Sequence[Record], part: str) -> Section:
    first, rows, unpaired = records[0], [], False
    for label, one in list(zip(_labels(records), records, strict=True))[1:]:
        gap, paired = _gap(first, one, part)
        unpaired |= not paired
        words = compared(gap, first.lower_is_better, "the first")
        rows.append([label, gap, "paired" if paired else "independent", words])
    text = f"Each run minus the first, {first.name}, on {part}. Below two standard errors a difference is called noise."
    text += " Where the samples are not the same, the errors of both runs are added." if unpaired else ""
    text += " These are errors over samples: another seed would vary the figures further."
    shown = table(f"Difference to {first.name}", ["run", "difference", "error", "in words"], rows)
    title = "Differences to the first run"
    return section("differences", "Differences", title, card("More than noise?", paragraph(text), shown))


def _seeds(records: Sequence[Record], part: str) -> Section | None:
    groups: dict[tuple[str, ...], list[Record]] = {}
    for one in records:
        groups.setdefault(tuple(one.setting(what) for what in PARTS), []).append(one)
    rows: list[list[Any]] = []
    for names, group in groups.items():
        values = np.array([_fused(one, part).value for one in group])
        if len({one.config.get("seed") for one in group}) > 1:
            spread = float(values.std(ddof=1))
            rows.append([" · ".join(names), len(group), float(values.mean()), spread, spread / math.sqrt(len(group))])
    if not rows:
        return None
    header = [" · ".join(PARTS), "runs", "mean", "deviation", "error of the mean"]
    shown = table(f"Figures on {part} over runs that differ in their seed", header, rows)
    return section("seeds", "Seeds", "Over seeds", card("Mean over seeds", shown))


def _curves(records: Sequence[Record]) -> Section | None:
    first = records[0]
    series: list[Series] = []
    left: list[str] = []
    for label, one in zip(_labels(records), records, strict=True):
        joint = [rows for rows in one.stages.values() if only_modality(rows) is None]
        if len(joint) == 1 and len(series) < CURVES:
            series.append(series_of(label, joint[0], ["valid", first.metric], len(series)))
        else:
            left.append(one.name)
    text = "The whole model on the validation split after each epoch."
    text += (
        f" Not drawn, because the whole model is not trained in one stage or {CURVES} runs are: {', '.join(left)}."
        if left
        else ""
    )
    drawn = curve("curves", "Validation", series, first.metric_name, text, wide=True)
    return None if drawn is None else section("curves", "Learning curves", "Learning curves", drawn)


def _settings(records: Sequence[Record]) -> Section:
    labels = _labels(records)
    flat = [_flat({k: v for k, v in one.config.items() if k != "versions"}) for one in records]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    rows = [[key, *[one.get(key) for one in flat]] for key in keys if len({one.get(key) for one in flat}) > 1]
    inner = table("Settings in which the runs differ", ["setting", *labels], rows) if rows else paragraph("Nothing.")
    folders = table(
        "Folders of the runs", ["run", "folder"], [[n, str(one.path)] for n, one in zip(labels, records, strict=True)]
    )
    return section("settings", "Settings", "Settings", card("What differs", inner), details("Folders", folders))


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested settings under dotted names."""
    if isinstance(value, dict) and value:
        return {
            k: v for key, one in value.items() for k, v in _flat(one, f"{name}.{key}" if name else str(key)).items()
        }
    return {name: str(value)}
