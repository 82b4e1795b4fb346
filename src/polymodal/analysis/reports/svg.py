"""Drawing in SVG: axes, marks and text whose colours come from the page's theme."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from polymodal.analysis.reports.html import Markup, safe

__all__ = [
    "DASHES",
    "STYLES",
    "Canvas",
    "label_places",
    "marker",
    "nice_ticks",
    "short",
    "span",
    "text_width",
    "tick_text",
]

STYLES = 8
"""Number of different series styles (colour, dashes, marker) in style.css; further series begin again."""
DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 2", "1 3", "12 3", "4 4 1 4")
LETTER = 7.6
"""Width of a character in pixels that no font exceeds on average, at the largest size that figures are lettered in."""


def text_width(text: str) -> float:
    """Room in pixels that a text takes at most; East Asian characters and symbols are twice as wide."""
    return sum(2 * LETTER if unicodedata.east_asian_width(c) in "WF" else LETTER for c in text)


def short(text: str, room: float = 122) -> str:
    """A name cut to fit into so many pixels."""
    if text_width(text) <= room:
        return text
    while text and text_width(text) > room - LETTER:
        text = text[:-1]
    return text + "…"


def span(values: Sequence[float], *, zero: bool = False) -> tuple[float, float]:
    """Least and greatest finite value, with some room where they are equal."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low < 1e-12 * max(1.0, abs(high)):
        room = abs(high) * 0.1 or 1.0
        return (low, high + room) if zero else (low - room, high + room)
    return low, high


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from at most `low` to at least `high`.

    Example:
        >>> nice_ticks(0.03, 0.97)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999) * power
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick's number, short."""
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


def label_places(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights near the wanted ones, at least `gap` apart and inside [low, high] where they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    last = -math.inf
    for i in order:
        last = places[i] = max(wanted[i], last + gap, low)
    above = high + gap
    for i in reversed(order):
        above = places[i] = min(places[i], above - gap)
    return places


def marker(style: int, x: float, y: float, size: float = 3.5) -> str:
    """A small shape that tells a series apart without its colour."""
    r = size
    shapes = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}"/>',
        f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:g}" height="{2 * r:g}"/>',
        f'<path d="M{x:.1f} {y - r - 1:.1f}l{r + 1:g} {2 * r:g}h{-2 * r - 2:g}z"/>',
        f'<path d="M{x:.1f} {y - r - 1:.1f}l{r + 1:g} {r + 1:g}l{-r - 1:g} {r + 1:g}l{-r - 1:g} {-r - 1:g}z"/>',
    ]
    hollow = " hollow" if style % STYLES >= len(shapes) else ""
    return f'<g class="fill s{style % STYLES}{hollow}">{shapes[style % len(shapes)]}</g>'


@dataclass
class Canvas:
    """A drawing with one pair of axes.

    Attributes:
        name: unique in the page; ids are made of it.
        title, text: what a screen reader says in place of the drawing.
        x, y: ranges of the values.
        width, height: of the whole drawing, in pixels before it is scaled to the page.
        left, right, top, bottom: margins around the axes.
        log, log_x: whether y, and x, is logarithmic.
    """

    name: str
    title: str
    text: str
    x: tuple[float, float]
    y: tuple[float, float]
    width: float = 400
    height: float = 250
    left: float = 46
    right: float = 12
    top: float = 14
    bottom: float = 38
    log: bool = False
    log_x: bool = False
    parts: list[str] = field(default_factory=list)

    def at_x(self, value: float) -> float:
        """Place of a value along x."""
        low, high = (math.log(self.x[0]), math.log(self.x[1])) if self.log_x else self.x
        value = math.log(value) if self.log_x else value
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def at_y(self, value: float) -> float:
        """Place of a value along y."""
        low, high = (math.log(self.y[0]), math.log(self.y[1])) if self.log else self.y
        value = math.log(value) if self.log else value
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def draw(self, element: str) -> None:
        """Add an element."""
        self.parts.append(element)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line between places in pixels."""
        self.draw(f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def write(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """Text at a place in pixels."""
        self.draw(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{safe(text)}</text>')

    def axes(self, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str) -> None:
        """Grid lines, tick numbers and what the axes are; no ticks along an axis that is given none."""
        foot = self.height - self.bottom
        for value in y_ticks:
            place = self.at_y(value)
            self.line(self.left, place, self.width - self.right, place, "grid")
            self.write(self.left - 6, place + 4, tick_text(value), "tick", "end")
        for value in x_ticks:
            place = self.at_x(value)
            if not y_ticks:
                self.line(place, self.top, place, foot, "grid")
            self.write(place, foot + 16, tick_text(value), "tick", "middle")
        if y_ticks:
            self.line(self.left, foot, self.width - self.right, foot, "axis")
        else:
            self.line(self.at_x(max(0.0, self.x[0])), self.top, self.at_x(max(0.0, self.x[0])), foot, "axis")
        self.write((self.left + self.width - self.right) / 2, self.height - 4, x_label, "label", "middle")
        if y_label:
            middle = (self.top + foot) / 2
            turned = f'transform="translate(11 {middle:.1f}) rotate(-90)"'
            self.draw(f'<text class="label" {turned} text-anchor="middle">{safe(y_label)}</text>')

    def finish(self) -> Markup:
        """The drawing as an SVG element that a screen reader takes for one image with a title and a description."""
        inner = "".join(self.parts)
        ids = f"{self.name}-t {self.name}-d"
        return Markup(
            f'<svg role="img" aria-labelledby="{ids}" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'xmlns="http://www.w3.org/2000/svg"><title id="{self.name}-t">{safe(self.title)}</title>'
            f'<desc id="{self.name}-d">{safe(self.text)}</desc>{inner}</svg>'
        )
