"""Decoding all samples once, before training, so that every broken one is reported at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from polymodal.data.cache import Column
from polymodal.data.table import Table
from polymodal.errors import InputError

__all__ = ["Broken", "Progress", "decode_all", "report"]

Progress = Callable[[int, int], None]
CHUNK = 16
LISTED = 20


class Broken(NamedTuple):
    """A sample that cannot be decoded: its row (from 0), where that is, the modality and what is wrong."""

    row: int
    place: str
    modality: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}, modality {self.modality!r}: {self.reason}"


class Part(Protocol):
    """What is decoded; see `samples.Samples`."""

    table: Table
    rows: NDArray[np.int64]
    columns: dict[str, Column]

    def __len__(self) -> int: ...
    def drop(self, broken: Iterable[Broken]) -> None: ...


class _Job(NamedTuple):
    part: int
    modality: str
    places: range


def decode_all(
    parts: Sequence[Part], *, workers: int | None = None, progress: Progress | None = None, on_error: str = "raise"
) -> None:
    """Decode every sample of every part once; what fits into the cache stays there.

    Args:
        parts: parts of one or more tables.
        workers: threads; default one a processor, 0 for none (decoders release the interpreter's lock).
        progress: called with the number of decoded inputs and their total.
        on_error: "raise" to report all broken samples at once, "skip" to drop them from their parts.

    Raises:
        InputError: some samples are broken (with "raise"), or all samples of a part are (with "skip").
    """
    if on_error not in ("raise", "skip"):
        raise InputError(f"--on-error {on_error}: expected raise or skip")
    jobs = list(_jobs(parts))
    total, done = sum(len(job.places) for job in jobs), 0
    broken: list[list[Broken]] = [[] for _ in parts]
    for job, found in _run(jobs, parts, workers):
        broken[job.part].extend(found)
        done += len(job.places)
        if progress is not None:
            progress(done, total)
    for found in broken:
        found.sort()
    if any(broken) and on_error == "raise":
        raise InputError(report(parts, broken))
    for part, found in zip(parts, broken, strict=True):
        if found:
            if len({one.row for one in found}) == len(part):
                raise InputError(report([part], [found]))
            part.drop(found)


def report(parts: Sequence[Part], broken: Sequence[Sequence[Broken]]) -> str:
    """Message that lists the first broken samples by row, says how many there are, and what to do."""
    lines = [f"  {part.table.source}, {one}" for part, found in zip(parts, broken, strict=True) for one in found]
    count = sum(len({one.row for one in found}) for found in broken)
    more = [f"  and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    head = f"{count} of {sum(map(len, parts))} samples cannot be read:"
    remedy = "Mend or remove them, or leave them out with --on-error skip."
    return "\n".join([head, *lines[:LISTED], *more, remedy])


def _jobs(parts: Sequence[Part]) -> Iterator[_Job]:
    for number, part in enumerate(parts):
        for name, column in part.columns.items():
            for start in range(0, len(column), CHUNK):
                yield _Job(number, name, range(start, min(start + CHUNK, len(column))))


def _run(jobs: Iterable[_Job], parts: Sequence[Part], workers: int | None) -> Iterator[tuple[_Job, list[Broken]]]:
    def work(job: _Job) -> list[Broken]:
        part = parts[job.part]
        return list(_decode(part, job.modality, part.columns[job.modality], job.places))

    threaded = []
    for job in jobs:
        if workers == 0 or not parts[job.part].columns[job.modality].input.reads_files:
            yield job, work(job)
        else:
            threaded.append(job)
    if not threaded:
        return
    pool = ThreadPoolExecutor(workers or _processors())
    try:
        futures = {pool.submit(work, job): job for job in threaded}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        # After Ctrl-C too: what has not begun is not begun.
        pool.shutdown(wait=True, cancel_futures=True)


def _processors() -> int:
    # A container may own fewer processors than the machine has.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode(part: Part, modality: str, column: Column, places: range) -> Iterator[Broken]:
    for i in places:
        try:
            column.decode(i)
        except InputError as error:
            reason = str(error)
        except Exception as error:
            # A damaged file may break a decoder in any way; it is still the file's row that the user needs.
            reason = f"{column.cells[i][0]}: {type(error).__name__}: {error}"
        else:
            continue
        row = int(part.rows[i])
        yield Broken(row, part.table.place(row), modality, reason)
