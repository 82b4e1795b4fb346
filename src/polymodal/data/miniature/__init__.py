"""Miniatures: a few dozen made-up, learnable samples of a data set in its owner's exact layout, quirks included."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np

from polymodal.errors import InputError
from polymodal.names import nearest

__all__ = ["NAMES", "make"]

NAMES = (
    "cremad", "ave", "kinetics_sounds", "ucf101", "food101", "mmimdb", "mosi", "mosei", "iemocap", "msrvtt", "howto100m",
)  # fmt: skip


def make(dataset: str, folder: str | Path, seed: int = 0) -> Path:
    """Write a miniature and return its folder.

    Each sample's files tell its class in every modality; names, folders, forms of lists and their oddities are the owner's.

    Args:
        dataset: one of `NAMES`.
        folder: new or empty.
        seed: of the samples.

    Raises:
        InputError: an unknown data set, or a folder that is not empty.
    """
    if dataset not in NAMES:
        raise InputError(
            f"data set {dataset!r} has no miniature{nearest(dataset, NAMES)}; there are {', '.join(NAMES)}"
        )
    root = Path(folder)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root}: not an empty folder; name a new one for the miniature")
    root.mkdir(parents=True, exist_ok=True)
    import_module(f"polymodal.data.miniature.{dataset}").write(root, np.random.default_rng(seed))
    return root
