"""Kinetics-Sounds in miniature: clips of one second in four classes, listed by OGM-GE and by Kinetics-400."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polymodal.data.miniature.media import picture, tone, write_clip

CLASSES = {2: "bowling", 10: "playing clarinet", 26: "stomping grapes", 30: "tapping pen"}
OTHER = "yoga"
RATE, FPS = 16000, 8
LETTERS = list("abcdEFGH0129-_")


def write(root: Path, random: np.random.Generator) -> None:
    """Clips and lists. Ids of videos hold "_"; OGM-GE's test names lack the last second, and its classes have numbers alone;
    Kinetics-400's lists have classes that are no sounds.
    """
    head = "label,youtube_id,time_start,time_end,split,is_cc"
    for part, name, size in (("train", "train", 32), ("test", "validate", 12)):
        lines, rows = [], [head]
        for i in range(size):
            place = i % len(CLASSES)
            number, label = list(CLASSES.items())[place]
            video = "".join(random.choice(LETTERS, 10)) + ("_" if i % 2 else "x")
            start = int(random.integers(0, 300))
            full = f"{video}_{start:06d}_{start + 10:06d}"
            frames = np.stack([picture(place, random) for _ in range(FPS)])
            write_clip(root / "clips" / name / f"{full}.mp4", frames, FPS, tone(place, random, 1.0, RATE), RATE)
            lines.append(f"{full if part == 'train' else full.rpartition('_')[0]},10,{number}")
            rows.append(f"{label},{video},{start},{start + 10},{name},0")
        rows.append(f"{OTHER},{'z' * 11},5,15,{name},0")
        (root / f"my_{part}.txt").write_text("\n".join(lines) + "\n")
        (root / f"{name}.csv").write_text("\n".join(rows) + "\n")
