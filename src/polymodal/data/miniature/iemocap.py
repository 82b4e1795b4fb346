"""IEMOCAP in miniature: MulT's, LMF's and MMIN's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.miniature.sequences import sequence, write_lmf, write_mult

SIZES = {"train": 40, "valid": 12, "test": 16}
WIDTHS = {"text": 300, "audio": 74, "vision": 35}
MMIN = {"train": "trn", "valid": "val", "test": "tst"}


def write(root: Path, random: np.random.Generator) -> None:
    """MulT's labels are one-hot for each emotion; MMIN's sound has lengths of its own and is not yet scaled."""
    emotions: dict[str, Any] = {}
    happy: dict[str, Any] = {}
    for part, size in SIZES.items():
        told = np.arange(size) % 4
        labels = np.zeros((size, 4, 2), np.int64)
        labels[:, :, 0] = 1
        labels[np.arange(size), told] = (0, 1)
        values = [2.0 * one - 3 for one in told]
        emotions[part] = (values, labels, np.array([f"Ses01_{part}_{i:03d}".encode() for i in range(size)]))
        happy[part] = ([3.0 if one == 1 else -3.0 for one in told], labels[:, 1], None)
    write_mult(root / "iemocap_data.pkl", emotions, random, {m: (5, width) for m, width in WIDTHS.items()})
    steps = {"text": 5, "audio": 9, "vision": 11}
    write_mult(root / "iemocap_data_noalign.pkl", emotions, random, {m: (steps[m], w) for m, w in WIDTHS.items()})
    write_lmf(root / "iemocap.pkl", happy, random, "happy")
    _mmin(root, random)


def _mmin(root: Path, random: np.random.Generator) -> None:
    import h5py

    for name in ("A", "V", "L", "target/1", "target/2"):
        (root / name).mkdir(parents=True)
    with (
        h5py.File(root / "A/comparE.h5", "w") as audio,
        h5py.File(root / "V/denseface.h5", "w") as face,
        h5py.File(root / "L/bert_large.h5", "w") as text,
        h5py.File(root / "A/comparE_mean_std.h5", "w") as scale,
    ):
        for fold in ("1", "2"):
            for part, short in MMIN.items():
                names, labels = [], []
                for i in range(SIZES[part] // 2):
                    name, number = f"Ses0{fold}F_{short}{i:03d}", i % 4
                    value = 2.0 * number - 3
                    audio[name] = 5 + 3 * sequence(value, random, 360 if i == 0 else int(random.integers(8, 14)), 130)
                    face[name] = sequence(value, random, 5, 342)
                    text[name] = sequence(value, random, 4, 1024)
                    names.append([name.encode()])
                    labels.append(np.eye(4)[number])
                np.save(root / f"target/{fold}/{short}_label.npy", np.array(labels))
                np.save(root / f"target/{fold}/{short}_int2name.npy", np.array(names))
            std = np.full(130, 3.0)
            std[-1] = 0  # a feature that never changes
            scale[f"{fold}/mean"], scale[f"{fold}/std"] = np.full(130, 5.0), std
