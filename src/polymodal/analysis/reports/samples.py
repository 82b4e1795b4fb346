"""The samples that a run gets most wrong, with their pictures, sounds and texts from the table."""

from __future__ import annotations

import base64
import contextlib
import io
import wave
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.analysis.reports.estimates import number
from polymodal.analysis.reports.html import Markup, join, paragraph, safe
from polymodal.analysis.reports.record import Predictions, Record
from polymodal.data.table import Table
from polymodal.datasets import open_table
from polymodal.errors import InputError

__all__ = ["worst_samples"]

SHOWN = 12
EDGE = 160
"""Longest edge of a picture, in pixels."""
SOUND_BYTES = 160_000
"""Of one sound: its rate, and then its length, is cut to fit."""
PAGE_BYTES = 4_000_000
"""Of all media of a page, as base64 text."""
RATES = (16_000, 12_000, 8_000)
"""Sampling rates in Hz that sounds are offered in, the highest that fits first."""


def worst_samples(record: Record, count: int = SHOWN) -> Markup:
    """Up to `count` samples of the shown split, the most confident errors first; for regression the largest.

    Media that cannot be read are replaced by a sentence that says why.
    """
    found = record.shown
    if found is None:
        return paragraph(f"The run has no predictions of its {record.part} split.")
    order = _order(found)[:count]
    if not len(order):
        return paragraph(f"No sample of the {record.part} split is decided wrongly.")
    media = _Media(record)
    cards = [_card(record, found, int(i), media) for i in order]
    return join([*map(paragraph, media.notes), Markup(f'<ul class="samples">\n{join(cards)}\n</ul>')])


def _order(found: Predictions) -> NDArray[np.int64]:
    """Numbers of the samples that are wrong, the worst first."""
    if found.probabilities is None:
        size = np.abs(found.fused - found.target)
        wrong = size > 0
    elif found.target.ndim == 2:
        size = np.abs(found.probabilities - found.target).max(-1)
        wrong = (found.fused != found.target).any(-1)
    else:
        size = np.take_along_axis(found.probabilities, found.fused[:, None], -1)[:, 0]
        wrong = found.fused != found.target
    order = np.argsort(-size, kind="stable")
    return np.asarray(order[wrong[order]])


def _card(record: Record, found: Predictions, i: int, media: _Media) -> Markup:
    def text(decided: Any) -> str:
        if found.probabilities is None:
            return number(float(decided))
        if np.ndim(decided):
            return ", ".join(name for name, on in zip(record.classes, decided, strict=True) if on) or "none"
        return record.classes[int(decided)]

    given = text(found.fused[i])
    if found.probabilities is not None and found.target.ndim == 1:
        p = found.probabilities[i]
        given += f" ({p[found.fused[i]]:.3f}; true class {p[found.target[i]]:.3f})"
    facts = [("true", text(found.target[i])), ("model", given)]
    facts += [(m, text(one[i]) if found.there(m)[i] else "absent") for m, one in found.unimodal.items()]
    rows = "".join(f"<div><dt>{safe(what)}</dt><dd>{safe(value)}</dd></div>" for what, value in facts)
    name = found.ids[i]
    return Markup(f"<li><h3><bdi>{safe(name)}</bdi></h3>\n<dl>{rows}</dl>\n{media.of(name)}</li>")


class _Media:
    """What the table says about a sample, as HTML, within a page's limit of bytes."""

    def __init__(self, record: Record) -> None:
        self.record, self.left = record, PAGE_BYTES
        self.notes: list[str] = []
        self.table: Table | None = None
        self.row_of: dict[str, int] = {}
        vectors = [m for m, one in record.schema["modalities"].items() if one["kind"] == "vector"]
        if vectors:
            self.notes.append(f"Modalities that are vectors of numbers are not shown: {', '.join(vectors)}.")
        source = record.config.get("table")
        if record.part == "valid" and record.config.get("valid"):
            source = record.config["valid"]
        if not source:
            self.notes.append(
                "The run was trained on a frame in memory, so that the samples' contents cannot be shown."
            )
            return
        try:
            self.table = open_table(str(source))
            self.row_of = self._rows(self.table)
        except (InputError, OSError) as error:
            self.table = None
            self.notes.append(f"The table cannot be read, so that the samples' contents are not shown: {error}")

    def _rows(self, table: Table) -> dict[str, int]:
        column = self.record.schema.get("id")
        cells = table.cells(column) if column in table.columns else [None] * len(table)
        names = [str(row + 1) if cell is None else str(cell) for row, cell in enumerate(cells)]
        count = Counter(names)
        return {name: row for row, name in enumerate(names) if count[name] == 1}

    def of(self, name: str) -> Markup:
        """Everything that can be shown of the sample of that name."""
        if self.table is None:
            return Markup("")
        if name not in self.row_of:
            return paragraph("The table has no single row of this name now.", "absent")
        parts: list[Markup] = []
        heard = any(one["kind"] == "audio" for one in self.record.schema["modalities"].values())
        for m, one in self.record.schema["modalities"].items():
            cells = [self.table.cells(column)[self.row_of[name]] for column in one["columns"]]
            try:
                parts += self._show(m, one["kind"], one["columns"], cells, name, heard)
            except (InputError, OSError, ValueError) as error:
                parts.append(paragraph(f"{m}: {error}", "absent"))
        return join(parts)

    def _show(
        self, m: str, kind: str, columns: Sequence[str], cells: list[Any], name: str, heard: bool
    ) -> list[Markup]:
        if cells[0] is None and len(cells) == 1:
            return [paragraph(f"{m}: absent", "absent")]
        if kind == "text":
            text = str(cells[0])
            cut = text if len(text) <= 280 else text[:280].rstrip() + " …"
            return [Markup(f'<blockquote dir="auto" aria-label="{safe(m)}">{safe(cut)}</blockquote>')]
        if kind in ("numeric", "categorical"):
            shown = ", ".join(f"{column} {cell}" for column, cell in list(zip(columns, cells, strict=True))[:8])
            return [paragraph(f"{m}: {shown}{', …' if len(cells) > 8 else ''}", "values")]
        if kind not in ("image", "audio", "video") or not isinstance(cells[0], str):
            return []
        path = Path(cells[0])
        path = path if path.is_absolute() or self.table is None else self.table.root / path
        if kind == "image":
            from polymodal.data.media.image import read_image

            return [self._picture([read_image(path)], f"{m} of sample {name}")]
        if kind == "audio":
            return [self._sound(path, m, f"{m} of sample {name}")]
        from polymodal.data.media.video import read_frames

        frames = read_frames(path, 4)
        shown_frames = [self._picture(list(frames), f"{m} of sample {name}: four frames, in order")]
        if not heard:
            with contextlib.suppress(InputError):  # a silent clip
                shown_frames.append(self._sound(path, f"sound of {m}", f"sound of {m} of sample {name}"))
        return shown_frames

    def _picture(self, pictures: list[NDArray[np.uint8]], text: str) -> Markup:
        from PIL import Image

        height, width = pictures[0].shape[:2]
        edge = EDGE if len(pictures) == 1 else EDGE // 2
        scale = min(1.0, edge / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        small = [Image.fromarray(one.squeeze()).convert("RGB").resize(size, Image.Resampling.BOX) for one in pictures]
        strip = Image.new("RGB", (sum(one.width for one in small), size[1]))
        for place, one in enumerate(small):
            strip.paste(one, (place * size[0], 0))
        png, jpeg = io.BytesIO(), io.BytesIO()
        strip.save(png, "PNG", optimize=True)
        strip.save(jpeg, "JPEG", quality=80)
        kind, data = min(("png", png.getvalue()), ("jpeg", jpeg.getvalue()), key=lambda one: len(one[1]))
        coarse = " class=coarse" if max(size) < edge // 2 else ""
        grown = max(1, edge // max(size)) if coarse else 1
        box = f'width="{strip.width * grown}" height="{strip.height * grown}"'
        return self._within(f'<img{coarse} {box} alt="{safe(text)}" src="{_uri(f"image/{kind}", data)}">', text)

    def _sound(self, path: Path, label: str, text: str) -> Markup:
        from polymodal.data.media.sound import probe_sound, read_wave

        seconds = max(probe_sound(path).seconds, 0.01)
        rate = next((rate for rate in RATES if 2 * rate * seconds <= SOUND_BYTES), RATES[-1])
        samples = read_wave(path, rate)[: SOUND_BYTES // 2]
        cut = (
            f", the first {len(samples) / rate:.0f} of {seconds:.0f} s"
            if len(samples) < int(seconds * rate * 0.98)
            else ""
        )
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setnchannels(1)
            out.setsampwidth(2)
            out.setframerate(rate)
            out.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
        source = _uri("audio/wav", file.getvalue())
        player = f'<audio controls preload="metadata" aria-label="{safe(text + cut)}" src="{source}"></audio>'
        return self._within(f'<p class="player">{safe(label + cut)}</p>{player}', text)

    def _within(self, element: str, text: str) -> Markup:
        if len(element) > self.left:
            return paragraph(f"{text}: left out to keep the page small", "absent")
        self.left -= len(element)
        return Markup(element)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
