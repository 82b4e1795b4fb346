"""The parts of a run's report that show its errors: confusions, residuals, figures of each label, calibration."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.analysis.reports.estimates import confusion, number, scores_of_labels
from polymodal.analysis.reports.figures import reliability_diagram, residuals
from polymodal.analysis.reports.html import Markup, Section, card, details, figure, grid, join, safe, section, table
from polymodal.analysis.reports.record import Predictions, Record
from polymodal.metrics import reliability

__all__ = ["calibration", "calibration_figure", "errors"]

CLASSES = 100
"""Classes that the confusion matrix shows at most: of more, those with the most errors."""
BESIDE = 14
"""Classes up to which the matrix leaves room for a table beside it."""


def errors(record: Record) -> Section | None:
    """Confusions of a classification, figures of each label, or residuals; None without predictions."""
    shown = record.shown
    if shown is None or not len(shown.ids):
        return None
    if shown.probabilities is None:
        return section("errors", "Residuals", "How far off it is", _residuals(shown))
    labels = _labels(record, shown)
    if shown.target.ndim == 2:
        return section("errors", "Labels", "Which labels it finds", card("Each label", labels))
    each = details("Precision, recall and F1 of each class", labels)
    return section("errors", "Classes", "Which classes are confused", _confusions(record, shown), each)


def calibration(record: Record) -> Section | None:
    """Reliability diagram of a classification; None for other tasks."""
    drawn = calibration_figure(record, "reliability", "Reliability diagram", wide=True)
    return None if drawn is None else section("calibration", "Calibration", "Can its probabilities be trusted", drawn)


def calibration_figure(record: Record, name: str, title: str, *, wide: bool = False) -> Markup | None:
    """The diagram alone, with its bins as a table; `name` is unique in the page. None for what is no classification."""
    shown = record.shown
    if shown is None or shown.probabilities is None or shown.target.ndim != 1 or not len(shown.ids):
        return None
    bins = reliability(shown.probabilities.max(-1).clip(0, 1), shown.fused == shown.target)
    full = np.flatnonzero(bins.count)
    error = float((np.abs(bins.accuracy - bins.confidence) * bins.count)[full].sum() / bins.count.sum())
    spans = [f"{bins.edges[i]:.2f} to {bins.edges[i + 1]:.2f}" for i in full]
    values = [[int(bins.count[i]), float(bins.confidence[i]), float(bins.accuracy[i])] for i in full]
    rows = [[span, *one] for span, one in zip(spans, values, strict=True)]
    data = table("Bins of confidence", ["confidence", "samples", "mean confidence", "accuracy"], rows)
    text = (
        "Bars: accuracy in each of 15 bins of confidence. Squares: accuracy against the bin's mean confidence; above the "
        "dashed line the model is too cautious, below it too sure of itself. At the foot: samples in each bin. The expected "
        f"calibration error (ECE), the mean distance from the line over samples, is {number(error)}."
    )
    return figure(title, reliability_diagram(name, bins, error), text, data, wide=wide)


def _residuals(shown: Predictions) -> Markup:
    target, predicted = shown.target.astype(np.float64), shown.fused.astype(np.float64)
    edges = np.unique(np.quantile(target, np.linspace(0, 1, 11)))
    place = np.clip(np.searchsorted(edges, target, side="right") - 1, 0, max(len(edges) - 2, 0))
    rows: list[list[Any]] = []
    for i in np.unique(place):
        gap = (predicted - target)[place == i]
        span = f"{number(edges[i])} to {number(edges[min(i + 1, len(edges) - 1)])}"
        rows.append([span, len(gap), float(gap.mean()), float(gap.std()), float(np.abs(gap).mean())])
    header = ["target", "samples", "mean residual", "deviation", "mean absolute error"]
    data = table("Residuals by tenths of the targets", header, rows)
    text = "Each point is a sample; above the dashed line the prediction is too large."
    return figure("Prediction minus target", residuals("residuals", target, predicted), text, data, wide=True)


def _labels(record: Record, shown: Predictions) -> Markup:
    figures = scores_of_labels(shown, len(record.classes))
    order = np.argsort(np.nan_to_num(figures[:, 2], nan=-1.0), kind="stable")
    what = "label" if shown.target.ndim == 2 else "class"
    rows = [
        [record.classes[i], _meter(figures[i, 2]), float(figures[i, 0]), float(figures[i, 1]), int(figures[i, 3])]
        for i in order
    ]
    return table(
        f"F1 of each {what} on {record.part}, the lowest first", [what, "F1", "precision", "recall", "samples"], rows
    )


def _meter(value: float) -> Markup | None:
    if math.isnan(value):
        return None
    return Markup(f'<span class="meter" style="--v:{value:.3f}">{value:.3f}</span>')


def _confusions(record: Record, shown: Predictions) -> Markup:
    counts = confusion(shown, len(record.classes))
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    kept, note = np.arange(len(counts)), ""
    if len(counts) > CLASSES:
        kept = np.sort(np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:CLASSES])
        note = f" Of {len(counts)} classes, the {CLASSES} with the most errors are shown."
    caption = (
        f"Number of {record.part} samples of each true class (row) that were given each class (column). An empty cell is 0; "
        f"what is right lies on the diagonal, errors are framed.{note}"
    )
    matrix = card("Confusion matrix", _matrix(counts, kept, record.classes, caption))
    order = [divmod(int(place), len(counts)) for place in np.argsort(-wrong, axis=None, kind="stable")[:10]]
    pairs = [[record.classes[i], record.classes[j], int(wrong[i, j])] for i, j in order if wrong[i, j]]
    if not pairs:
        return matrix
    caption = "Errors by pair of classes, the most frequent first"
    frequent = card("Most frequent confusions", table(caption, ["true class", "given class", "samples"], pairs))
    return grid(matrix, frequent) if len(kept) <= BESIDE else join([matrix, frequent])


def _matrix(counts: NDArray[np.int64], kept: NDArray[np.int64], classes: list[str], caption: str) -> Markup:
    """Counts as a table whose cells are tinted by their share of the row."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    def cell(i: int, j: int) -> str:
        if not counts[i, j]:
            return "<td></td>"
        kind = "hit" if i == j else "miss"
        return f'<td class="{kind}" style="--a:{0.08 + 0.5 * share[i, j]:.2f}">{counts[i, j]}</td>'

    head = "".join(f'<th scope="col"><span>{safe(classes[j])}</span></th>' for j in kept)
    rows = [f'<tr><th scope="row">{safe(classes[i])}</th>{"".join(cell(i, j) for j in kept)}</tr>' for i in kept]
    longest = max(len(classes[i]) for i in kept)
    kinds = "confusion" + (" dense" if len(kept) > 20 else "") + (" vertical" if longest > 4 else "")
    body = "\n".join(rows)
    return Markup(
        f'<p class="caption" id="confusion-caption">{safe(caption)}</p><div class="scroll" role="group" tabindex="0" '
        f'aria-label="Table: confusion matrix"><table class="{kinds}" aria-describedby="confusion-caption">'
        f'<caption class="unseen">Confusion matrix</caption><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
