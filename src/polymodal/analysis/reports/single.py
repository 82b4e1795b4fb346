"""The report of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from polymodal.analysis.reports.errors import calibration, errors
from polymodal.analysis.reports.estimates import difference, estimates
from polymodal.analysis.reports.figures import Bar, bars
from polymodal.analysis.reports.findings import findings, fused_name, headline
from polymodal.analysis.reports.html import (
    Markup,
    Section,
    card,
    details,
    figure,
    grid,
    items,
    page,
    paragraph,
    safe,
    section,
    table,
    tiles,
)
from polymodal.analysis.reports.record import NAMES, Record, read_record
from polymodal.analysis.reports.samples import worst_samples
from polymodal.analysis.reports.training import training
from polymodal.run import RunFolder

__all__ = ["report"]


def report(run: str | Path) -> Path:
    """Write RUN/report.html: what one finished run learned, in pictures and tables.

    The page is one file that loads nothing and runs no script. Samples are shown from the table that the run was trained
    on; where it or its files are gone, a sentence says so.

    Returns:
        Path of the page.

    Raises:
        InputError: `run` is not the folder of a finished run.
    """
    record = read_record(run)
    parts = [_modalities, training, _diagnosis, errors, calibration, _worst, _candidates, _settings]
    sections = [found for part in parts if (found := part(record)) is not None]
    lead = f"{paragraph(headline(record), 'headline')}\n{_tiles(record)}\n{items(findings(record))}"
    text = page(f"Run {record.name}", _about(record), Markup(f'<div class="lead">{lead}</div>'), sections)
    return RunFolder(record.path, resume=True).write_text("report.html", text)


def _about(record: Record) -> str:
    parts = [f"{part} {record.setting(part)}" for part in ("recipe", "balancer", "fusion") if record.setting(part)]
    parts += [f"chosen {record.metrics['chosen']}"] if record.metrics.get("chosen") else []
    parts += [f"seed {record.config['seed']}"] if "seed" in record.config else []
    return " · ".join([*parts, f"{record.task} of {record.schema['label']} from {', '.join(record.modalities)}"])


def _tiles(record: Record) -> Markup:
    shown, found = record.shown, estimates(record, record.part)
    metrics = record.metrics.get(record.part, {})
    pairs: list[tuple[Any, Any, Any]] = []
    if "" in found:
        size = f", {len(shown.ids)} samples" if shown else ""
        pairs.append((f"{fused_name(record)}, {record.metric_name}", found[""], f"{record.part}{size}"))
    pairs += [(f"{m} alone, {record.metric_name}", one, record.part) for m, one in list(found.items())[1:4]]
    if "ece" in metrics and record.metric != "ece":
        pairs.append(("ECE", float(metrics["ece"]), "0 is well calibrated"))
    seconds = record.timing.get("seconds", {}).get("all")
    if seconds is not None:
        memory = record.timing.get("peak_memory_mib")
        pairs.append(("time", _duration(seconds), f"peak memory {memory:.0f} MiB" if memory else ""))
    return tiles(pairs)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


# Fused against uni-modal ----------------------------------------------------------------------------------------------


def _modalities(record: Record) -> Section | None:
    found = estimates(record, record.part)
    if not found:
        return None
    style = {"": 0} | {m: 1 + i for i, m in enumerate(record.modalities)}
    level = _majority(record)
    chart = bars(
        "alone-chart",
        f"{record.metric_title} on {record.part}, fused and each modality alone",
        [Bar(f"{m} alone" if m else fused_name(record), one, style[m]) for m, one in found.items()],
        f"{record.metric_name} ({record.part})",
        level=(level, "always the largest class") if level else None,
    )
    text = f"Bars are {record.metric_name} on {record.part}, whiskers one standard error."
    text += " Smaller is better." if record.lower_is_better else ""
    title = f"{record.metric_title}, {record.part} split"
    compared = figure(title, chart, text, _estimates(record))
    return section(
        "modalities", "Modalities", "Fused against each modality alone", grid(compared, _all_metrics(record))
    )


def _majority(record: Record) -> float | None:
    shown = record.shown
    if shown is None or record.metric != "accuracy" or shown.target.ndim != 1 or not len(shown.target):
        return None
    return float(np.bincount(shown.target).max() / len(shown.target))


def _estimates(record: Record) -> Markup:
    shown, rows = record.shown, []
    for m, one in estimates(record, record.part).items():
        gap = None
        if m and shown is not None and m in shown.unimodal:
            there = shown.there(m)
            gap = difference(record.metric, shown.target[there], shown.fused[there], shown.unimodal[m][there])
        rows.append([f"{m} alone" if m else fused_name(record), one, gap])
    caption = f"{record.metric_title} on {record.part}, ± one standard error; differences are paired"
    return table(caption, ["predictions", record.metric_name, "fused minus this"], rows)


def _all_metrics(record: Record) -> Markup:
    parts = [part for part in ("valid", "test") if part in record.metrics]
    names = list(dict.fromkeys(name for part in parts for name in record.metrics[part]))
    rows: list[list[Any]] = []
    marked = []
    for part in parts:
        marked.append(len(rows))
        single: dict[str, dict[str, float]] = record.metrics.get("unimodal", {}).get(part, {})
        for who, figures in [(fused_name(record), record.metrics[part]), *((f"{m} alone", single[m]) for m in single)]:
            rows.append([f"{part}: {who}", *[figures.get(name) for name in names]])
    header = ["split", *["ECE" if name == "ece" else NAMES.get(name, name) for name in names]]
    return card(
        "All figures", table("The whole model and each modality alone on each split", header, rows, marked=marked)
    )


# Worst samples, candidates, settings ----------------------------------------------------------------------------------


def _worst(record: Record) -> Section:
    kind = "the largest errors" if record.task == "regression" else "the most confident errors first"
    text = paragraph(f"Samples of the {record.part} split, {kind}.")
    return section("worst", "Worst errors", "What it gets most wrong", text, worst_samples(record))


def _candidates(record: Record) -> Section | None:
    if not record.leaderboard:
        return None
    header = list(record.leaderboard[0])
    rows = [[_value(row.get(name)) for name in header] for row in record.leaderboard]
    chosen = [i for i, row in enumerate(record.leaderboard) if row.get("chosen") == "True"]
    names = [NAMES.get(name, name.replace("_", " ")) for name in header]
    text = "Every candidate had the same budget. The choice was made on the validation split, not on the figures above."
    shown = table("Candidates in the order in which they were tried", names, rows, marked=chosen)
    return section("candidates", "Candidates", "What was tried", card("Leaderboard", paragraph(text), shown))


def _diagnosis(record: Record) -> Section | None:
    """What `polymodal diagnose` found, where it was run."""
    run = RunFolder(record.path, resume=True)
    if not run.has("diagnose.json"):
        return None
    found = run.read_json("diagnose.json")
    content: list[Any] = [paragraph(one) for one in found["findings"]]
    if found["advice"]:
        content += [paragraph("What to try:"), items(found["advice"])]
    content += [table(caption, rows[0], rows[1:]) for caption, rows in found["tables"].items() if rows]
    return section("diagnosis", "Diagnosis", "Does a modality go short?", card("On the validation split", *content))


def _value(text: str | None) -> Any:
    if not text:
        return None
    if text in ("True", "False"):
        return "yes" if text == "True" else "no"
    try:
        return float(text)
    except ValueError:
        return text


def _settings(record: Record) -> Section:
    config = dict(record.config)
    versions, seconds = config.pop("versions", {}), record.timing.get("seconds", {})
    settings = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    code = Markup(f'<pre role="group" tabindex="0" aria-label="Settings">{safe(settings)}</pre>')
    parts = [details("Settings (config.yaml)", code)]
    if versions:
        rows: list[list[Any]] = [[name, str(one)] for name, one in versions.items()]
        parts.append(details("Environment", table("Versions", ["package", "version"], rows)))
    if seconds:
        rows = [[name, float(one)] for name, one in seconds.items()]
        parts.append(details("Time", table("Seconds of each stage", ["stage", "seconds"], rows)))
    if record.schema.get("notes"):
        parts.append(details("What was inferred from the table", items(record.schema["notes"])))
    return section("settings", "Settings", "Settings, environment, time", *parts)
