"""The report's figures: each a pure function of numbers and names that gives a drawing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymodal.analysis.reports.estimates import Estimate, number
from polymodal.analysis.reports.html import Markup
from polymodal.analysis.reports.svg import (
    DASHES,
    STYLES,
    Canvas,
    label_places,
    marker,
    nice_ticks,
    short,
    span,
    text_width,
    tick_text,
)
from polymodal.metrics import Reliability

__all__ = ["Bar", "Series", "bars", "lines", "reliability_diagram", "residuals"]


class Series(NamedTuple):
    """A line: its name, epochs, values, and number of its style."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int


class Bar(NamedTuple):
    """A bar: its name, figure, style, and further figures that are marked on its row (style to value)."""

    name: str
    value: Estimate
    style: int
    marks: Mapping[int, float] = {}


def lines(
    name: str,
    title: str,
    series: Sequence[Series],
    y_label: str,
    *,
    x_label: str = "epoch",
    level: float | None = None,
    log: bool = False,
    log_x: bool = False,
) -> Markup:
    """Lines over epochs, each named at its end.

    Args:
        name: unique in the page.
        title: of the drawing, for screen readers.
        series: the lines.
        y_label, x_label: what the axes are.
        level: a value to mark by a horizontal line.
        log: logarithmic y where all values are positive and span more than a factor of 20.
        log_x: logarithmic x, with the values themselves as ticks, where they are positive and few.
    """
    kept = [one._replace(y=[float(v) for v in one.y]) for one in series if any(math.isfinite(v) for v in one.y)]
    values = [v for one in kept for v in one.y if math.isfinite(v)]
    logarithmic = log and min(values) > 0 and max(values) / min(values) > 20
    low, high = span([*values, *([] if level is None else [level])])
    ticks = (
        [10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
        if logarithmic
        else nice_ticks(low, high)
    )
    epochs = sorted({v for one in kept for v in one.x})
    room = max(text_width(short(one.name)) for one in kept) + 14
    across = span(epochs) if len(epochs) > 1 else (epochs[0] - 1, epochs[0] + 1)
    up = (ticks[0], ticks[-1])
    doubling = log_x and 1 < len(epochs) <= 8 and epochs[0] > 0
    canvas = Canvas(
        name, title, _told(kept), across, up, left=_left(ticks), right=room, log=logarithmic, log_x=doubling
    )
    canvas.axes(epochs if doubling else _epoch_ticks(epochs), ticks, x_label, y_label)
    if level is not None:
        canvas.line(canvas.left, canvas.at_y(level), canvas.width - room, canvas.at_y(level), "level")
    ends = [_line(canvas, one) for one in kept]
    places = label_places([y for _, y in ends], 14, canvas.top, canvas.height - canvas.bottom)
    for one, (x, y), place in zip(kept, ends, places, strict=True):
        right = canvas.width - room
        canvas.line(x + 5, y, right + 9, place, "leader")
        canvas.write(right + 12, place + 4, short(one.name), "name")
    return canvas.finish()


def _left(ticks: Sequence[float]) -> float:
    """Room for the numbers and the name of a vertical axis."""
    return max(46.0, max(text_width(tick_text(value)) for value in ticks) + 24)


def _epoch_ticks(epochs: Sequence[float]) -> list[float]:
    """A few whole epochs, the first among them."""
    first, last = epochs[0], epochs[-1]
    if first == last:
        return [first]
    inner = [t for t in nice_ticks(first, last, 6) if t == int(t) and first < t <= last]
    return [first, *(t for t in inner if len(inner) < 7 or t - first >= (last - first) / 12)]


def _line(canvas: Canvas, one: Series) -> tuple[float, float]:
    points = [(canvas.at_x(x), canvas.at_y(y)) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(y)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    style = one.style % STYLES
    canvas.draw(f'<path class="line s{style}" stroke-dasharray="{DASHES[style]}" d="M{path}"/>')
    step = max(1, math.ceil(len(points) / 8))
    canvas.draw("".join(marker(one.style, *point, 2.6) for point in points[(len(points) - 1) % step :: step]))
    return points[-1]


def _told(series: Sequence[Series]) -> str:
    """What the lines show, in words."""
    told = []
    for one in series:
        finite = [v for v in one.y if math.isfinite(v)]
        told.append(
            f"{one.name}: from {number(finite[0])} to {number(finite[-1])}, lowest {number(min(finite))}, "
            f"highest {number(max(finite))}"
        )
    return "; ".join(told) + "."


def bars(
    name: str,
    title: str,
    rows: Sequence[Bar],
    x_label: str,
    *,
    level: tuple[float, str] | None = None,
    marks: Mapping[int, str] | None = None,
) -> Markup:
    """Horizontal bars from zero with error bars of one standard error and the figure behind each.

    Args:
        name: unique in the page.
        title: of the drawing, for screen readers.
        rows: the bars, from above.
        x_label: what the figure is.
        level: a figure to mark by a vertical line, and its name.
        marks: names of the styles of the rows' further marks, for a legend.
    """
    tops = [row.value.value + (row.value.error or 0) for row in rows] + [v for row in rows for v in row.marks.values()]
    ticks = nice_ticks(*span([*tops, *([level[0]] if level else [])], zero=True))
    left = max(text_width(short(row.name)) for row in rows) + 12
    legend = 18 * math.ceil(len(marks or {}) / 3) + (18 if level else 0)
    told = (
        "; ".join(f"{row.name}: {row.value}" for row in rows)
        + (f"; {level[1]}: {number(level[0])}" if level else "")
        + "."
    )
    canvas = Canvas(
        name, title, told, (ticks[0], ticks[-1]), (0, 1),
        height=len(rows) * 32 + 58 + legend, left=left, right=52, top=8, bottom=50 + legend - 6,
    )  # fmt: skip
    foot = canvas.height - canvas.bottom
    canvas.axes(ticks, [], "", "")
    canvas.write((canvas.left + canvas.width - canvas.right) / 2, foot + 34, x_label, "label", "middle")
    zero = canvas.at_x(0)
    for place, row in enumerate(rows):
        middle = canvas.top + 32 * place + 18
        end = canvas.at_x(row.value.value)
        canvas.write(left - 8, middle + 4, short(row.name), "name", "end")
        canvas.draw(
            f'<rect class="bar s{row.style % STYLES}" x="{min(zero, end):.1f}" y="{middle - 9:.1f}" '
            f'width="{abs(end - zero):.1f}" height="18" rx="2"/>'
        )
        reach = end
        if row.value.error:
            low, high = (canvas.at_x(row.value.value + sign * row.value.error) for sign in (-1, 1))
            reach = max(high, end)
            caps = "".join(f"M{x:.1f} {middle - 4:.1f}v8" for x in (low, high))
            canvas.draw(f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}{caps}"/>')
        for style, value in row.marks.items():
            canvas.draw(f'<g class="mark">{marker(style, canvas.at_x(value), middle, 4)}</g>')
            reach = max(reach, canvas.at_x(value) + 4)
        canvas.write(max(reach, zero) + 6, middle + 4, number(row.value.value), "value")
    if level:
        canvas.line(canvas.at_x(level[0]), canvas.top, canvas.at_x(level[0]), foot, "level")
        canvas.line(canvas.left, foot + 50, canvas.left + 20, foot + 50, "level")
        canvas.write(canvas.left + 26, foot + 54, level[1], "tick")
    for place, (style, text) in enumerate((marks or {}).items()):
        x, y = 10 + 130 * (place % 3), foot + 50 + 18 * (place // 3) + (18 if level else 0)
        canvas.draw(marker(style, x, y, 4))
        canvas.write(x + 10, y + 4, short(text, 115), "tick")
    return canvas.finish()


def reliability_diagram(name: str, table: Reliability, error: float) -> Markup:
    """Accuracy in each bin of confidence against the diagonal, and how many samples each bin holds."""
    full = table.count > 0
    told = "; ".join(
        f"confidence {table.confidence[i]:.2f}: accuracy {table.accuracy[i]:.2f} ({int(table.count[i])} samples)"
        for i in np.flatnonzero(full)
    )
    canvas = Canvas(name, "Reliability diagram", f"ECE {error:.3f}. {told}.", (0, 1), (0, 1), height=330, bottom=104)
    ticks = nice_ticks(0, 1)
    canvas.axes([], ticks, "", "accuracy")
    foot = canvas.height - canvas.bottom
    base, room = canvas.height - 38, 44
    for i in np.flatnonzero(full):
        left, right = canvas.at_x(table.edges[i]) + 1, canvas.at_x(table.edges[i + 1]) - 1
        top = canvas.at_y(table.accuracy[i])
        canvas.draw(
            f'<rect class="bar s0" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{foot - top:.1f}"/>'
        )
        tall = max(1.0, room * table.count[i] / table.count.max())
        canvas.draw(
            f'<rect class="count" x="{left:.1f}" y="{base - tall:.1f}" width="{right - left:.1f}" height="{tall:.1f}"/>'
        )
    canvas.line(canvas.at_x(0), canvas.at_y(0), canvas.at_x(1), canvas.at_y(1), "level")
    for i in np.flatnonzero(full):
        canvas.draw(
            f'<g class="mark">{marker(1, canvas.at_x(table.confidence[i]), canvas.at_y(table.accuracy[i]), 3)}</g>'
        )
    canvas.line(canvas.left, base, canvas.width - canvas.right, base, "axis")
    for value in ticks:
        canvas.write(canvas.at_x(value), base + 16, f"{value:g}", "tick", "middle")
    canvas.write(canvas.left - 6, base - room + 8, str(int(table.count.max())), "tick", "end")
    canvas.write(canvas.left - 6, base, "0", "tick", "end")
    canvas.write((canvas.left + canvas.width - canvas.right) / 2, canvas.height - 4, "confidence", "label", "middle")
    return canvas.finish()


def residuals(name: str, target: NDArray[np.float64], predicted: NDArray[np.float64], limit: int = 1500) -> Markup:
    """Prediction minus target against the target; evenly spread samples where there are more than `limit`."""
    order = np.argsort(target, kind="stable")
    order = order[np.linspace(0, len(order) - 1, min(limit, len(order))).astype(int)]
    x, y = target[order], (predicted - target)[order]
    x_ticks, y_ticks = nice_ticks(*span(x.tolist())), nice_ticks(*span([*y.tolist(), 0.0]))
    told = (
        f"Mean residual {number(float(y.mean()))}, deviation {number(float(y.std()))}; targets from {number(float(x.min()))} "
        f"to {number(float(x.max()))}."
    )
    canvas = Canvas(
        name,
        "Residuals against the target",
        told,
        (x_ticks[0], x_ticks[-1]),
        (y_ticks[0], y_ticks[-1]),
        height=300,
        left=_left(y_ticks),
    )
    canvas.axes(x_ticks, y_ticks, "target", "prediction − target")
    points = "".join(
        f'<circle cx="{canvas.at_x(a):.1f}" cy="{canvas.at_y(b):.1f}" r="2.4"/>' for a, b in zip(x, y, strict=True)
    )
    canvas.draw(f'<g class="points s0">{points}</g>')
    canvas.line(canvas.left, canvas.at_y(0), canvas.width - canvas.right, canvas.at_y(0), "level")
    return canvas.finish()
