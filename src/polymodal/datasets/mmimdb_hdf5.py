"""MM-IMDB's file of features, `multimodal_imdb.hdf5`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.datasets.safe_files import open_hdf5, read_set
from polymodal.errors import InputError

__all__ = ["read_hdf5"]

SETS = ("features", "vgg_features", "genres", "imdb_ids")
NAMES = {"train": "train", "dev": "valid", "valid": "valid", "test": "test"}


def read_hdf5(path: Path, sizes: Mapping[str, int]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows and classes. Parts are consecutive ranges: those of the attribute `split`, else `sizes` if these add up.

    Raises:
        InputError: the file is damaged, lacks a set or an attribute, or its parts cannot be told.
    """
    with open_hdf5(path) as file:
        missing = [name for name in SETS if name not in file]
        if missing or "target_names" not in file.attrs:
            lacking = ", ".join([*missing, *([] if "target_names" in file.attrs else ["attribute target_names"])])
            raise InputError(f"{path}: lacks {lacking}; fetch the owner's file again")
        classes = _names(file.attrs["target_names"])
        text, image, hot = (read_set(file, name) for name in SETS[:3])
        names = read_set(file, "imdb_ids").reshape(-1)
        ids = [one.decode() if isinstance(one, bytes) else str(one) for one in names]
        ranges = _ranges(file.attrs.get("split"), len(ids), sizes, path)
    if min(text.ndim, image.ndim, hot.ndim) < 1:
        raise InputError(f"{path}: a set holds one number where there should be a row a film; fetch it again")
    if not len(text) == len(image) == len(hot) == len(ids) or hot.shape[1:] != (len(classes),):
        raise InputError(
            f"{path}: sets of unequal length, or genres of another width than the {len(classes)} target_names"
        )
    rows = []
    for part, places in ranges.items():
        for i in places:
            genres = [name for name, on in zip(classes, hot[i], strict=True) if on]
            rows.append({"id": ids[i], "image": image[i], "text": text[i], "genres": genres, "split": part})
    return rows, classes


def _names(value: Any) -> list[str]:
    """Names of genres from JSON text, or from an array of texts."""
    if isinstance(value, bytes):
        value = value.decode()
    found = json.loads(value) if isinstance(value, str) else list(value)
    return [one.decode() if isinstance(one, bytes) else str(one) for one in found]


def _ranges(split: Any, count: int, sizes: Mapping[str, int], path: Path) -> dict[str, range]:
    """Places of each part. The attribute `split` is Fuel's table: a line a part and source, with start and stop."""
    found: dict[str, range] = {}
    if split is not None:
        for line in np.asarray(split):
            name = line["split"].decode() if isinstance(line["split"], bytes) else str(line["split"])
            if name in NAMES:
                found[NAMES[name]] = range(int(line["start"]), int(line["stop"]))
    elif count == sum(sizes.values()):
        start = 0
        for part, size in sizes.items():
            found[part], start = range(start, start + size), start + size
    if set(found) != {"train", "valid", "test"} or max(one.stop for one in found.values()) > count:
        raise InputError(
            f"{path}: its attribute 'split' does not say which of its {count} films are train, dev and test"
        )
    return found
