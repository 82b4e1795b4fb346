"""Tiny tables that the command line is driven with: numbers, and real media files that tell the class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.data.files import write_clip, write_csv, write_image, write_sound

CLASSES = ("ant", "bee", "cat")
NUMBERS = ("--modality", "a=a1,a2:numeric", "--modality", "b=b1,b2:numeric")
MEDIA = ("--modality", "photo=photo:image", "--modality", "sound=sound:audio")
Row = dict[str, Any]


def part_of(i: int) -> str:
    return {8: "valid", 9: "test"}.get(i % 10, "train")


def number_rows(count: int = 60) -> list[Row]:
    """Two pairs of numbers; the first tells the class well, the second less; ids such as 0007."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for i in range(count):
        c = (i // 2) % 3
        a, b = rng.normal(0, 0.4, 2), rng.normal(0, 1.0, 2)
        rows.append(
            {
                "id": f"{i:04d}",
                "a1": round(float(a[0]) + c, 4),
                "a2": round(float(a[1]) - c, 4),
                "b1": round(float(b[0]) + c, 4),
                "b2": round(float(b[1]), 4),
                "label": CLASSES[c],
                "split": part_of(i),
            }
        )
    return rows


def numbers(folder: Path, **changes: dict[int, Any]) -> Path:
    """A table of numbers in that folder; `label={3: "dog"}` changes a cell, counted from 0."""
    rows = number_rows()
    for column, cells in changes.items():
        for i, cell in cells.items():
            rows[i][column] = cell
    return write_csv(folder / "numbers.csv", rows)


def media(folder: Path, count: int = 40, clips: bool = False) -> Path:
    """A table of 16 x 16 images and sounds of 0.2 s; with `clips` of six-frame videos instead of the images."""
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for i in range(count):
        c = (i // 2) % 3
        pixels = rng.integers(0, 60, (16, 16), dtype=np.uint8)
        pixels[:, 5 * c : 5 * c + 5] += 150
        row: Row = {"id": f"{i:04d}"}
        if clips:
            row["clip"] = write_clip(folder / f"{i}.mkv", np.stack([pixels] * 6), sound=False).name
        else:
            row["photo"] = write_image(folder / f"{i}.png", pixels).name
        row["sound"] = write_sound(folder / f"{i}.wav", pitch=(300.0, 800.0, 2000.0)[c] + 10 * i).name
        rows.append({**row, "label": CLASSES[c], "split": part_of(i)})
    return write_csv(folder / "media.csv", rows)
