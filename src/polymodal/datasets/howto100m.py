"""HowTo100M (Miech et al. 2019) as features: what is said in narrated videos, and the seconds in which it is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.data.table import Table
from polymodal.datasets.base import Dataset, Preset, make_table, need, read_lines
from polymodal.datasets.msrvtt import sentence, timed
from polymodal.datasets.records import read_json
from polymodal.errors import InputError

__all__ = ["DATASET", "read"]

FOLDERS = {"rgb": "2d", "motion": "3d"}
RATES = {"rgb": 1.0, "motion": 1.5}
"""Vectors a second."""


def read(root: str | Path, *, captions: str = "caption.json", only: str | None = None, least: float = 0.0) -> Table:
    """A row a caption, with the features of the seconds in which it is said.

    Columns: id, text, rgb and motion (arrays (n, 1 + width), whose first number is the time in seconds from the beginning of
    the clip; empty where the video lacks that file), clip (the same as id, the label of retrieval), video. There is no split:
    videos are divided at random, clips of one video stay together.

    Args:
        root: folder with the captions and the folders `2d` and `3d` of `<video>.npy`.
        captions: JSON file below `root`: {video: {"start": [...], "end": [...], "text": [...]}}, times in seconds.
        only: text file below `root` with the videos to read, one a line; all of the captions by default.
        least: a shorter clip is widened around its middle to so many seconds.

    Raises:
        InputError: a file is missing or damaged, or lists of unequal length.

    Source: Miech et al. 2019; layout and rates from general knowledge.
    """
    root = Path(root)
    found = read_json(need(root, captions, "the captions", "howto100m"))
    if not isinstance(found, dict):
        raise InputError(f"{root / captions}: a {type(found).__name__}; expected captions by video")
    names = list(found)
    if only is not None:
        names = [name for _, name in read_lines(need(root, only, "a list of videos", "howto100m"))]
        unknown = [name for name in names if name not in found]
        if unknown:
            raise InputError(
                f"{root / only}: {unknown[0]!r} has no captions in {captions}, nor have {len(unknown) - 1} others"
            )
    rows: list[dict[str, Any]] = []
    lost = {
        "videos without any features": 0,
        "captions without a word": 0,
        "captions behind the end of the features": 0,
    }
    for name in names:
        arrays = {m: _array(root / folder / f"{name}.npy") for m, folder in FOLDERS.items()}
        if all(one is None for one in arrays.values()):
            lost["videos without any features"] += 1
            continue
        for i, (start, end, text) in enumerate(_clips(found[name], f"{root / captions}, video {name!r}")):
            wide = max(0.0, (least - (end - start)) / 2)
            parts = {m: _part(one, max(0.0, start - wide), end + wide, RATES[m]) for m, one in arrays.items()}
            if not sentence(text):
                lost["captions without a word"] += 1
            elif all(one is None for one in parts.values()):
                lost["captions behind the end of the features"] += 1
            else:
                clip = f"{name}_{i}"
                rows.append({"id": clip, "text": sentence(text), **parts, "clip": clip, "video": name})
    notes = [f"left out: {count} {what}" for what, count in lost.items() if count]
    return make_table(rows, root, "howto100m", {}, notes)


def _array(path: Path) -> NDArray[Any] | None:
    """(time, width) of one video; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a readable array ({str(error)[:100]}); fetch it again") from None
    if values.ndim != 2:
        raise InputError(f"{path}: an array of shape {values.shape}; expected (time, width)")
    return np.asarray(values)


def _clips(value: Any, place: str) -> list[tuple[float, float, str]]:
    """Start, end and text of each caption."""
    lists: list[Any] = [value.get(key) for key in ("start", "end", "text")] if isinstance(value, Mapping) else []
    if len(lists) != 3 or not all(isinstance(one, list) for one in lists) or len({len(one) for one in lists}) != 1:
        raise InputError(f"{place}: expected the lists start, end and text of equal length")
    try:
        return [(float(start), float(end), str(text)) for start, end, text in zip(*lists, strict=True)]
    except (TypeError, ValueError):
        raise InputError(f"{place}: start and end must be numbers of seconds") from None


def _part(values: NDArray[Any] | None, start: float, end: float, rate: float) -> NDArray[np.float32] | None:
    """Vectors of the seconds from `start` to `end`, at least one, behind their times from the start on."""
    if values is None or int(start * rate) >= len(values):
        return None
    first, last = int(start * rate), max(int(start * rate) + 1, int(np.ceil(end * rate)))
    part = values[first:last]
    return timed(part, np.maximum((np.arange(first, first + len(part)) + 0.5) / rate - start, 0.0))


DATASET = Dataset(
    read,
    {
        "clips": Preset(
            "every caption with its own seconds; counts from general knowledge",
            {
                "label": "clip",
                "data": {
                    "modalities": ["text=text:text", *(f"{m}={m}:vector" for m in FOLDERS)],
                    "task": "retrieval",
                    "group": "video",
                    "inputs": {},
                },
                "encoders": {m: {"name": "expert", "timed": True} for m in FOLDERS},
                "fusion": {"name": "mmt", "query": "text"},
                "optimizer": {"name": "adam", "lr": 5e-5, "weight_decay": 0.0},
            },
            published={"video": 1_220_000, "all": 136_000_000},
        )
    },
    help="""\
HowTo100M: 136 million captions of 1.22 million narrated videos (Miech et al. 2019). All of this is from general knowledge.

Owner: https://www.di.ens.fr/willow/research/howto100m; captions and features are distributed there after a request.
Put into one folder ROOT:
  caption.json        {video: {"start": [...], "end": [...], "text": [...]}}
  2d/<video>.npy      (seconds, width), one vector a second, for howto100m/clips
  3d/<video>.npy      (1.5 x seconds, width)
Read a part of it with only=LIST.txt behind the preset: features lie in memory.
Terms: for research; the videos belong to those who put them on YouTube.
""",
    group="video",
)
