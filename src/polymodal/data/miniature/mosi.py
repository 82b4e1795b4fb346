"""CMU-MOSI in miniature: MulT's aligned and unaligned features, and LMF's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.miniature.sequences import write_lmf, write_mult

SIZES = {"train": 40, "valid": 12, "test": 16}
WIDTHS = {"text": 300, "audio": 5, "vision": 20}
NAMES = ("mosi_data.pkl", "mosi_data_noalign.pkl", "mosi.pkl")


def write(root: Path, random: np.random.Generator) -> None:
    """Ids are three columns of bytes: video, start and end. Sequences are shorter than the owner's."""
    write_sentiment(root, random, NAMES, WIDTHS)


def write_sentiment(root: Path, random: np.random.Generator, names: tuple[str, ...], widths: dict[str, int]) -> None:
    """The three pickles of a set with one sentiment from -3 to 3 a segment."""
    parts: dict[str, Any] = {}
    for part, size in SIZES.items():
        labels = random.uniform(-3, 3, size)
        ids = np.array([[f"video{i % 4}".encode(), f"{i}.5".encode(), f"{i + 1}.0".encode()] for i in range(size)])
        parts[part] = (list(labels), labels.reshape(-1, 1, 1).astype(np.float32), ids)
    write_mult(root / names[0], parts, random, {m: (6, width) for m, width in widths.items()})
    steps = {"text": 6, "audio": 12, "vision": 15}
    write_mult(root / names[1], parts, random, {m: (steps[m], width) for m, width in widths.items()})
    flat = {part: (told, labels.reshape(-1, 1), ids) for part, (told, labels, ids) in parts.items()}
    write_lmf(root / names[2], flat, random)
