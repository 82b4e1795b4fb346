"""What each file, text and vector of a table is, told by reading every one of them once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from polymodal.data.columns import to_numbers
from polymodal.data.media.arrays import read_array
from polymodal.data.media.files import contents
from polymodal.data.media.image import probe_image
from polymodal.data.media.sound import probe_sound, read_wave
from polymodal.data.media.video import probe_video
from polymodal.data.schema import Modality
from polymodal.data.table import Table
from polymodal.errors import InputError
from polymodal.progress import Progress

__all__ = ["Facts", "facts_of"]

MEDIA = ("image", "audio", "video")


class Facts(NamedTuple):
    """Of one modality, an entry a row: whether it is `there`, hash of its `contents`, `measures` by name, `errors`.

    Contents are None where a row lacks the modality or cannot be read, and for numbers and categories, which may well be
    equal in different samples.
    """

    there: list[bool]
    contents: list[bytes | None]
    measures: list[dict[str, float]]
    errors: list[str]


class _Fact(NamedTuple):
    content: bytes | None = None
    measures: dict[str, float] = {}  # noqa: RUF012 - never changed
    error: str = ""
    there: bool = True


def facts_of(
    table: Table,
    modalities: Mapping[str, Modality],
    *,
    workers: int | None = None,
    show: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Facts]:
    """Facts of each modality; a file that several rows name is read once.

    Args:
        table, modalities: what is read.
        workers: threads; default one a processor, 0 for none.
        show: force the progress bar on or off.
        progress: called with the number of files read and their total.
    """
    files = {
        (one.kind, str(cell).strip())
        for one in modalities.values()
        if one.kind in MEDIA
        for cell in table.cells(one.columns[0])
        if cell is not None
    }
    read: dict[tuple[str, str], _Fact] = {}
    with Progress("reading", len(files), show=show) as bar:
        for key, fact in _read(sorted(files), table.root, workers):
            read[key] = fact
            bar.advance()
            if progress is not None:
                progress(len(read), len(files))
    return {name: _facts(table, one, read) for name, one in modalities.items()}


def _read(files: Sequence[tuple[str, str]], root: Path, workers: int | None) -> Iterator[tuple[tuple[str, str], _Fact]]:
    if workers == 0:
        yield from ((key, _file(key[0], root / key[1])) for key in files)
        return
    # A container may own fewer processors than the machine has.
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers or own)
    try:
        futures = {pool.submit(_file, key[0], root / key[1]): key for key in files}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        # After Ctrl-C too: what has not begun is not begun.
        pool.shutdown(wait=True, cancel_futures=True)


def _facts(table: Table, modality: Modality, read: Mapping[tuple[str, str], _Fact]) -> Facts:
    found = []
    vectors: dict[Any, _Fact] = {}  # by file or array, which several rows may share: the captions of one video
    for row in range(len(table)):
        cell = table.cells(modality.columns[0])[row]
        if modality.kind in ("numeric", "categorical"):
            cells = [table.cells(column)[row] for column in modality.columns]
            found.append(_values(modality.kind, cells))
        elif cell is None:
            found.append(_Fact(there=False))
        elif modality.kind in MEDIA:
            found.append(read[modality.kind, str(cell).strip()])
        elif modality.kind == "text":
            found.append(_text(cell))
        else:
            key = cell.strip() if isinstance(cell, str) else id(cell)
            if key not in vectors:
                vectors[key] = _vector(cell, table.root)
            found.append(vectors[key])
    if modality.kind == "vector":
        found = _of_one_width(found)
    return Facts(
        [one.there for one in found],
        [one.content for one in found],
        [one.measures for one in found],
        [one.error for one in found],
    )


def _values(kind: str, cells: list[Any]) -> _Fact:
    there = any(cell is not None for cell in cells)
    if kind == "categorical":
        return _Fact(there=there)
    wrong = to_numbers(np.array(cells, dtype=object))[1]
    return _Fact(there=there, error=f"not a finite number: {cells[int(wrong.argmax())]!r}" if wrong.any() else "")


def _text(cell: Any) -> _Fact:
    text = str(cell).strip()
    return _Fact(_hash(text.encode()), {"words": float(len(text.split()))})


def _vector(cell: Any, root: Path) -> _Fact:
    try:
        if isinstance(cell, str) and cell.strip().endswith(".npy"):
            values = read_array(root / cell.strip())
        elif isinstance(cell[0], (list, tuple, np.ndarray)):
            values = np.stack([np.asarray(one, np.float32) for one in cell])
        else:
            values = np.asarray(cell, np.float32)
    except InputError as error:
        return _Fact(error=str(error))
    except (IndexError, TypeError, ValueError):
        return _Fact(error="not a list of numbers, or lists of different lengths")
    if not np.isfinite(values).all():
        return _Fact(error="NaN or infinite numbers")
    measures = {"width": float(values.shape[-1])} | ({"length": float(len(values))} if values.ndim > 1 else {})
    return _Fact(_hash(values.tobytes()), measures)


def _of_one_width(found: list[_Fact]) -> list[_Fact]:
    """The facts with those of another width than most marked as broken."""
    widths = [one.measures["width"] for one in found if "width" in one.measures]
    if not widths:
        return found
    most = max(set(widths), key=widths.count)
    return [
        one._replace(error=f"{one.measures['width']:g} numbers, where most rows have {most:g}")
        if one.measures.get("width", most) != most
        else one
        for one in found
    ]


def _file(kind: str, path: Path) -> _Fact:
    """Decode one file as training does."""
    try:
        if kind == "image":
            picture = probe_image(path)
            measures = _size(picture.height, picture.width, picture.grey)
        elif kind == "audio" and path.suffix == ".npy":  # a spectrogram that was computed beforehand
            bins, *columns = read_array(path).shape
            measures = {"bins": float(bins), "columns": float(columns[0] if columns else 1)}
        elif kind == "audio":
            sound = probe_sound(path)
            measures = {"seconds": len(read_wave(path, sound.rate)) / sound.rate, "rate": float(sound.rate)}
        else:
            clip = probe_video(path)
            measures = _size(clip.height, clip.width, clip.grey) | {"frames": float(clip.frames)}
            measures |= {"seconds": clip.frames / clip.rate, "rate": clip.rate} if clip.rate else {}
        return _Fact(_hash(contents(path)), measures)
    except InputError as error:
        return _Fact(error=str(error))
    except Exception as error:
        # A damaged file may break a decoder in any way; it is still the file's row that the user needs.
        return _Fact(error=f"{path}: {type(error).__name__}: {error}")


def _size(height: int, width: int, grey: bool) -> dict[str, float]:
    return {"pixels high": float(height), "wide": float(width), "channels": 1.0 if grey else 3.0}


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
