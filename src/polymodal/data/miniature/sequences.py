"""Made-up feature sequences, and MulT's and LMF's pickles of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["sequence", "write_lmf", "write_mult"]

Array = NDArray[Any]


def sequence(value: float, random: np.random.Generator, steps: int, width: int) -> NDArray[np.float32]:
    """(steps, width) noise whose mean over time tells `value` in a quarter of its features."""
    found = random.standard_normal((steps, width))
    found[:, : max(1, width // 4)] += value
    return found.astype(np.float32)


def write_mult(
    path: Path, parts: dict[str, tuple[list[float], Array, Array]], random: np.random.Generator, sizes: Any
) -> None:
    """A pickle {part: {text, audio, vision, labels, id}}; one step of sound is silent, whose logarithm is -inf.

    Args:
        path: the file.
        parts: what each sample's features tell, its label and its id, by part.
        random: of the noise.
        sizes: (steps, width) of each modality.
    """
    data: dict[str, dict[str, Any]] = {}
    for part, (told, labels, ids) in parts.items():
        held = {m: np.stack([sequence(one, random, *size) for one in told]) for m, size in sizes.items()}
        held["audio"][0, 0, -1] = -np.inf
        data[part] = held | {"labels": labels, "id": ids}
    path.write_bytes(pickle.dumps(data, protocol=4))


def write_lmf(path: Path, parts: Any, random: np.random.Generator, within: str | None = None) -> None:
    """A pickle whose keys are bytes, sound and face one vector each, with NaN in one place."""
    data: dict[bytes, Any] = {}
    for part, (told, labels, _) in parts.items():
        covarep = np.stack([sequence(one, random, 1, 74)[0] for one in told])
        covarep[0, -1] = np.nan
        data[part.encode()] = {
            b"covarep": covarep,
            b"facet": np.stack([sequence(one, random, 1, 47)[0] for one in told]),
            b"glove": np.stack([sequence(one, random, 6, 300) for one in told]),
            b"label": labels,
        }
    path.write_bytes(pickle.dumps({within.encode(): data} if within else data, protocol=2))
