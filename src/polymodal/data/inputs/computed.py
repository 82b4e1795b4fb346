"""Spectrograms that were computed beforehand, and the options that they were computed with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.data.media.arrays import read_array
from polymodal.errors import InputError

__all__ = ["OPTIONS", "computed_options", "read_computed"]

OPTIONS = "options.json"


def computed_options(rows: Sequence[tuple[Any, ...]], root: Path) -> dict[str, Any]:
    """What the first .npy file that a row names was computed with; nothing where no row names one."""
    cell = next((row[0] for row in rows if isinstance(row[0], str) and row[0].strip().endswith(".npy")), None)
    return {} if cell is None else _options((root / cell.strip()).parent)


def read_computed(path: Path, options: dict[str, Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The array of a .npy file beside which `OPTIONS` says how it was computed.

    Args:
        path: the file.
        options: what it must have been computed with.
        shape: of the longest sample; (1, F, T) is stored as (F, T), waveforms and clips as they are; a shorter sound has fewer
            columns.

    Raises:
        InputError: the array is broken, of another shape, or was computed with other options.
    """
    stored = _options(path.parent)
    for name in options:
        if name not in stored or stored[name] != options[name]:
            raise InputError(
                f"{path}: computed with {name}={stored.get(name)}, and {name}={options[name]} is asked for; prepare it again, "
                f"or set {name} as it was"
            )
    values = read_array(path)
    wanted = shape[1:] if len(shape) == 3 else shape
    if values.ndim != len(wanted) or values.shape[:-1] != wanted[:-1] or values.shape[-1] > wanted[-1]:
        raise InputError(f"{path}: an array of shape {values.shape}, expected {wanted} or fewer columns")
    return values


@lru_cache(maxsize=8)
def _options(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(
            f"{folder / OPTIONS}: not there or damaged, and it says how spectrograms beside it were computed"
        )
    return found
