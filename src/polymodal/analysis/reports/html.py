"""HTML elements that escape whatever they are given, and the frame of a page."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from polymodal.analysis.reports.estimates import Estimate, number

__all__ = [
    "Markup",
    "Section",
    "card",
    "cell",
    "details",
    "figure",
    "grid",
    "items",
    "join",
    "page",
    "paragraph",
    "safe",
    "section",
    "table",
    "tiles",
]

# Nothing may be loaded and nothing may run, even if an escape were forgotten.
POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
LONG = 26
"""Characters above which the head of a row is broken into lines."""


class Markup(str):
    """Text that is HTML already; any other text is escaped where it enters an element."""

    __slots__ = ()


def safe(value: Any) -> Markup:
    """`value` as HTML: escaped, unless it is `Markup`."""
    if isinstance(value, Markup):
        return value
    # Lone surrogates cannot be written as UTF-8, control characters are not allowed in HTML.
    text = str(value).encode("utf-8", "replace").decode()
    return Markup(
        escape(
            "".join(c if unicodedata.category(c) != "Cc" or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
        )
    )


def join(parts: Iterable[Any], between: str = "\n") -> Markup:
    """Parts one after the other."""
    return Markup(between.join(safe(part) for part in parts))


def cell(value: Any) -> Markup:
    """A table cell's content: figures with three decimals, nothing for None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Markup("–")
    if isinstance(value, Estimate):
        text = safe(number(value.value))
        return (
            text if value.error is None else Markup(f'{text} <span class="error">± {safe(number(value.error))}</span>')
        )
    return safe(number(value) if isinstance(value, float) else value)


def _plain(value: Any) -> bool:
    return isinstance(value, (int, float, Estimate)) or value is None


def table(caption: Any, header: Sequence[Any], rows: Sequence[Sequence[Any]], *, marked: Sequence[int] = ()) -> Markup:
    """A table whose first column heads its rows, in a box of its own that scrolls and takes the keyboard's focus.

    Args:
        caption: what the table shows.
        header: heads of the columns.
        rows: cells; see `cell`.
        marked: numbers of rows to emphasise.
    """
    numeric = [bool(rows) and all(_plain(row[i]) for row in rows) for i in range(len(header))]
    kind = ['class="n"' if one else "" for one in numeric]
    head = join((Markup(f'<th scope="col" {kind[i]}>{safe(one)}</th>') for i, one in enumerate(header)), "")
    lines = []
    for place, row in enumerate(rows):
        long = 'class="long"' if len(str(row[0])) > LONG else kind[0]
        first = f'<th scope="row" {long}>{cell(row[0])}</th>'
        rest = "".join(f"<td {kind[i]}>{cell(one)}</td>" for i, one in enumerate(row) if i)
        lines.append(f"<tr{' class=marked' if place in marked else ''}>{first}{rest}</tr>")
    body = "\n".join(lines)
    return Markup(
        f'<div class="scroll" role="group" tabindex="0" aria-label="Table: {safe(caption)}"><table><caption>'
        f"<span>{safe(caption)}</span></caption><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def figure(title: str, drawing: Markup, text: Any, data: Markup, *, wide: bool = False) -> Markup:
    """A drawing with its title, caption, and the same data as a table that opens on demand."""
    return Markup(
        f"<figure{' class=wide' if wide else ''}><h3>{safe(title)}</h3>\n{drawing}\n<figcaption>{safe(text)}</figcaption>\n"
        f"{details('Figures as a table', data)}</figure>"
    )


def card(title: str, *content: Any) -> Markup:
    """A titled box."""
    return Markup(f'<div class="card"><h3>{safe(title)}</h3>\n{join(content)}</div>')


def grid(*parts: Any) -> Markup:
    """Figures and boxes side by side where there is room."""
    return Markup(f'<div class="grid">\n{join(parts)}\n</div>')


def details(summary: Any, *content: Any) -> Markup:
    """Content that opens on demand."""
    return Markup(f"<details><summary>{safe(summary)}</summary>\n{join(content)}\n</details>")


def paragraph(text: Any, kind: str = "") -> Markup:
    """A paragraph."""
    return Markup(f"<p{f' class={kind}' if kind else ''}>{safe(text)}</p>")


def items(texts: Iterable[Any]) -> Markup:
    """A list of sentences; nothing where there are none."""
    lines = "".join(f"<li>{safe(text)}</li>\n" for text in texts)
    return Markup(f'<ul class="findings">\n{lines}</ul>' if lines else "")


def tiles(pairs: Iterable[tuple[Any, Any, Any]]) -> Markup:
    """Key figures: what, figure, and what goes with it."""
    inner = "".join(
        f'<div><dt>{safe(what)}</dt><dd>{cell(value)}</dd><dd class="note">{safe(note)}</dd></div>\n'
        for what, value, note in pairs
    )
    return Markup(f'<dl class="tiles">\n{inner}</dl>')


class Section(NamedTuple):
    """A part of a page: its anchor, its short name in the navigation, and itself."""

    anchor: str
    short: str
    body: Markup


def section(anchor: str, short: str, title: str, *content: Any) -> Section:
    """A part of a page, for `page`."""
    name = safe(anchor)
    head = f'<section id="{name}" aria-labelledby="{name}-title">\n<h2 id="{name}-title">{safe(title)}</h2>'
    return Section(anchor, short, Markup(f"{head}\n{join(content)}\n</section>"))


def page(title: str, about: Any, lead: Markup, sections: Sequence[Section]) -> str:
    """A whole page without scripts and without anything from outside.

    Args:
        title: the page's one first heading.
        about: a line below it.
        lead: what comes before the sections.
        sections: made by `section`.
    """
    style = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{safe(one.anchor)}">{safe(one.short)}</a></li>' for one in sections)
    body = "\n".join(one.body for one in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{safe(title)} – polymodal</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<h1>{safe(title)}</h1>
<p class="about">{safe(about)}</p>
</header>
<nav aria-label="On this page"><ul>{links}</ul></nav>
<main id="content" tabindex="-1">
{lead}
{body}
</main>
<footer><p>Written by polymodal {safe(version("polymodal"))}. This page loads nothing and runs no script.</p></footer>
</body>
</html>
"""
