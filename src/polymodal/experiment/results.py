"""A finished table: measured beside published, as Markdown, CSV and a page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from polymodal.experiment.figures import Measured, better_lower, paired
from polymodal.experiment.file import Experiment, Row

__all__ = ["LEVEL", "Line", "Results", "significance"]

LEVEL = 0.05
"""Two-sided paired t test over seeds below which a difference is marked."""


HEADS = (
    "paper", "table", "row", "backbone", "dataset", "modality", "metric", "published", "measured", "deviation", "seeds",
    "against", "difference", "error", "p", "note",
)  # fmt: skip


class Line(NamedTuple):
    """One figure of the table: a row's metric on a data set.

    Attributes:
        row: of the file.
        data: data set.
        metric: as the paper calls it.
        published: None where the paper only draws it.
        measured: by seed; empty where nothing was run.
        note: why nothing was measured.
    """

    row: Row
    data: str
    metric: str
    published: float | None
    measured: Measured
    note: str = ""


def significance(one: Measured, other: Measured) -> float:
    """The p of a paired two-sided t test over the seeds that both have; NaN of fewer than two or of equal differences."""
    from scipy.stats import t

    gap, error = paired(one, other)
    count = len(set(one.values) & set(other.values))
    if not math.isfinite(error) or error == 0:
        return math.nan
    return float(2 * t.sf(abs(gap) / error, count - 1))


class Results:
    """The lines of one table, and the files that are made of them.

    Args:
        experiment: the file.
        lines: every figure.
        out: folder to write to.
        mini: whether the runs were of miniatures.
        runs: folder of each run by row, data set and seed.
    """

    def __init__(
        self,
        experiment: Experiment,
        lines: Sequence[Line],
        out: Path,
        *,
        mini: bool,
        runs: Mapping[tuple[str, str, int], Path],
    ) -> None:
        self.experiment, self.lines, self.out, self.mini, self.runs = experiment, list(lines), out, mini, runs
        self.name = f"{experiment.paper}_{experiment.table}" + ("_mini" if mini else "")

    @property
    def markdown(self) -> Path:
        """The Markdown file."""
        return self.out / f"{self.name}.md"

    @property
    def page(self) -> Path:
        """The page."""
        return self.out / f"{self.name}.html"

    @cached_property
    def sets(self) -> list[str]:
        """Data sets, in the file's order."""
        return list(dict.fromkeys(line.data for line in self.lines))

    def of(self, data: str) -> list[Line]:
        """The lines on one data set."""
        return [line for line in self.lines if line.data == data]

    def reference(self, line: Line) -> Line | None:
        """The line that another is compared with: the same figure of the file's row `against`, or of the first that has it."""
        same = [one for one in self.of(line.data) if one.metric == line.metric and one.measured.values]
        chosen = [one for one in same if one.row.label == self.experiment.against] or same
        return chosen[0] if chosen and chosen[0] is not line else None

    def text(self) -> str:
        """Markdown: a table a data set, each metric published and measured, differences to the reference."""
        blocks = [f"# {self.experiment.paper}, {self.experiment.table}: {self.experiment.title}"]
        if self.mini:
            blocks.append(MINI)
        if self.experiment.note:
            blocks.append(self.experiment.note.strip())
        for data in self.sets:
            head, rows = self.grid(data)
            blocks += [f"## {data}", _markdown(head, rows)]
        notes = list(dict.fromkeys(f"* {line.row.label}: {text}" for line in self.lines for text in _notes(line)))
        return "\n\n".join([*blocks, *(["\n".join(notes)] if notes else []), READING]) + "\n"

    def grid(self, data: str) -> tuple[list[str], list[list[str]]]:
        """Heads and cells of a data set's table."""
        lines = self.of(data)
        metrics = list(dict.fromkeys(line.metric for line in lines))
        rows: dict[str, list[str]] = {}
        for label in dict.fromkeys(line.row.label for line in lines):
            cells: list[str] = [label]
            for metric in metrics:
                found = [line for line in lines if (line.row.label, line.metric) == (label, metric)]
                cells += self._shown(found[0]) if found else ["", "", ""]
            rows[label] = cells
        head = ["row", *[f"{metric} {what}" for metric in metrics for what in ("published", "measured", "difference")]]
        full = [i for i in range(len(head)) if any(cells[i] for cells in rows.values())]
        return [head[i] for i in full], [[cells[i] for i in full] for cells in rows.values()]

    def _shown(self, line: Line) -> list[str]:
        published = "drawn only" if line.published is None else f"{line.published:g}"
        if not line.measured.values:
            return [published, "failed" if line.note else "not run", ""]
        reference = self.reference(line)
        if reference is None:
            return [published, _pm(line.measured), ""]
        gap, error = paired(line.measured, reference.measured)
        if not math.isfinite(gap):
            return [published, _pm(line.measured), ""]
        p = significance(line.measured, reference.measured)
        better = (gap < 0) == better_lower(line.metric)
        mark = "" if not p < LEVEL else " (better)" if better else " (worse)"
        told = f"{gap:+.2f}" + (f" ({error:.2f})" if math.isfinite(error) else "")
        return [published, _pm(line.measured), told + mark]

    def csv(self) -> str:
        """One line a figure."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HEADS)
        for line in self.lines:
            other = self.reference(line)
            gap, error = paired(line.measured, other.measured) if other else (math.nan, math.nan)
            p = significance(line.measured, other.measured) if other else math.nan
            figures = [line.measured.mean, line.measured.deviation, len(line.measured.values)]
            told = [_blank(one) for one in figures]
            writer.writerow(
                [
                    self.experiment.paper, self.experiment.table, line.row.row, line.row.backbone, line.data, line.row.modality,
                    line.metric, "" if line.published is None else line.published, *told, other.row.label if other else "",
                    *[_blank(one) for one in (gap, error, p)], "; ".join(_notes(line)),
                ]
            )  # fmt: skip
        return text.getvalue()


MINI = (
    "**Miniatures.** The measured figures are of a few dozen made-up samples and small encoders from scratch: they show that "
    "every row runs, and say nothing of the methods."
)
READING = (
    "Published: as the paper prints it. Measured: mean ± standard deviation over seeds on the test part, in the paper's unit. "
    "Difference: to the row that the file names, or the first, paired over seeds, with its standard error; better or worse is "
    f"said where a paired t test has p < {LEVEL}."
)


def _notes(line: Line) -> list[str]:
    return [text for text in (line.row.note.strip(), line.note) if text]


def _pm(one: Measured) -> str:
    size = abs(one.mean)
    digits = 0 if size >= 1000 or (size == int(size) and len(one.values) == 1) else 2 if size >= 0.1 or not size else 5
    spread = f" ± {one.deviation:.{digits}f}" if math.isfinite(one.deviation) else ""
    return f"{one.mean:.{digits}f}{spread}"


def _blank(value: float) -> str:
    return "" if not np.isfinite(value) else f"{value:.6g}"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(one).replace("|", "\\|") for one in line) + " |" for line in lines)
