"""AVE in miniature: videos of two seconds with an event in one part of them, in four categories."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polymodal.data.miniature.media import picture, tone, write_clip

CATEGORIES = ("Church bell", "Male speech, man speaking", "Violin, fiddle", "Frying (food)")
RATE, FPS, SECONDS = 16000, 8, 2
SIZES = {"trainSet": 24, "valSet": 8, "testSet": 8}


def write(root: Path, random: np.random.Generator) -> None:
    """Videos and lists: commas in the categories, "&" between the cells, no header but in Annotations.txt, repeated ids.

    Outside of its event a video shows and sounds like the next category.
    """
    annotations = ["Category&VideoID&Quality&StartTime&EndTime"]
    for name, size in SIZES.items():
        lines = []
        for i in range(size):
            number = i % len(CATEGORIES)
            if name == "testSet":
                number = (i + 2) % len(CATEGORIES)  # the order of classes is that of this list
            clip = "".join(random.choice(list("abcdefgXYZ019-_"), 11))
            start = i % 2
            _video(root / "AVE" / f"{clip}.mp4", number, start, random)
            lines.append(f"{CATEGORIES[number]}&{clip}&good&{start}&{start + 1}")
        annotations += lines
        if name == "trainSet":
            lines += lines[:2]
        if name == "valSet":
            lines += lines[3:4]
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (root / "Annotations.txt").write_text("\n".join(annotations) + "\n")


def _video(path: Path, number: int, start: int, random: np.random.Generator) -> None:
    other = (number + 1) % len(CATEGORIES)
    shown = [number if start <= second < start + 1 else other for second in range(SECONDS)]
    frames = np.stack([picture(one, random) for one in shown for _ in range(FPS)])
    # The frame at the very end of the event still shows it: both bounds belong to it.
    if start + 1 < SECONDS:
        frames[(start + 1) * FPS] = picture(number, random)
    wave = np.concatenate([tone(one, random, 1.0, RATE) for one in shown])
    write_clip(path, frames, FPS, wave, RATE)
