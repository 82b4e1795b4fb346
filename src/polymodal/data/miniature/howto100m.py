"""HowTo100M in miniature: narrated videos whose features tell the words of each moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

THINGS = ("flour", "paint", "wood", "yarn", "soil", "dough", "clay", "glass")
STEPS = ("mix", "cut", "hold", "turn", "press", "dry")
VIDEOS, CLIPS = 14, 6
WIDTH = 64
SECONDS = 4


def write(root: Path, random: np.random.Generator) -> None:
    """Captions and one array a video of each kind.

    The first video has no file of motion, the last has none at all, one caption is empty and one begins behind the end.
    """
    looks = random.standard_normal((2, len(THINGS), WIDTH))
    for folder in ("2d", "3d"):
        (root / folder).mkdir()
    captions: dict[str, dict[str, list[Any]]] = {}
    for video in range(VIDEOS):
        name = f"vid{video:02d}-_x"
        told = [(int(random.integers(len(THINGS))), int(random.integers(len(STEPS)))) for _ in range(CLIPS)]
        starts = [float(SECONDS * i) for i in range(CLIPS)]
        texts = [f"now you {STEPS[step]} the {THINGS[thing]}" for thing, step in told]
        if video == 1:
            texts[2] = " "
        if video == 2:
            starts[-1] = 900.0
        captions[name] = {"start": starts, "end": [one + SECONDS for one in starts], "text": texts}
        for folder, rate, place in (("2d", 1.0, 0), ("3d", 1.5, 1)):
            if video == VIDEOS - 1 or (video == 0 and folder == "3d"):
                continue
            moments = (np.arange(int(CLIPS * SECONDS * rate)) / rate / SECONDS).astype(int)
            seen = np.array([looks[0, told[i][0]] + (looks[1, told[i][1]] if place else 0) for i in moments])
            values = seen + 0.3 * random.standard_normal(seen.shape)
            np.save(root / folder / f"{name}.npy", values.astype(np.float32))
    (root / "caption.json").write_text(json.dumps(captions))
    (root / "few.txt").write_text("vid01-_x\nvid02-_x\n")
