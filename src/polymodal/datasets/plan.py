"""What a data set's files are prepared into: lists that are copied, and one job for each file or folder that is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Job", "Plan", "Wanted"]

Embed = Callable[[Any], Any]


class Job(NamedTuple):
    """One file or folder to be made.

    Attributes:
        make: `make(source, target)` writes it; one that takes time is whole only when `make` has returned.
        source: file or folder below the root, perhaps a piece (`clip.mp4#t=2,7`).
        target: place below the prepared folder.
        modality: which it belongs to, for people.
        row: of the table, from 0.
    """

    make: Callable[[Path, Path], None]
    source: str
    target: str
    modality: str
    row: int


class Plan(NamedTuple):
    """Everything that is prepared.

    Attributes:
        lists: patterns of files that are copied as they are.
        jobs: what is made from files below the root.
        then: what is made from those, whose sources lie below the prepared folder.
        texts: small files by name, written first.
    """

    lists: tuple[str, ...]
    jobs: list[Job]
    then: list[Job] = []  # noqa: RUF012 - never changed
    texts: Mapping[str, str] = {}


@dataclass(frozen=True)
class Wanted:
    """What is asked for besides what the preset says.

    Attributes:
        sound: "wav", or "spectrogram" as the preset's input computes it.
        audio: the preset's options of the input "audio".
        faces: whether faces are cut out.
        boxes: (left, top, width, height) in pixels by clip and frame, or by clip and None for all its frames; detected
            where empty.
        embed: (T, H, W, 3) uint8 faces to (T, D) float32 features; none are computed where None.
        weights: what tells the weights of `embed` from others.
    """

    sound: str = "wav"
    audio: Mapping[str, Any] = field(default_factory=dict)
    faces: bool = False
    boxes: Mapping[tuple[str, int | None], tuple[int, int, int, int]] = field(default_factory=dict)
    embed: Embed | None = None
    weights: str = ""
