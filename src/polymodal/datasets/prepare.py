"""Extracting what a preset needs from a data set's files, once: side by side, and to be gone on with after a kill."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from polymodal.data.decoding import Broken
from polymodal.data.inputs import make_input
from polymodal.data.schema import SPLIT_NAMES, Modality
from polymodal.data.table import Table
from polymodal.datasets import Source, find, open_table
from polymodal.datasets.plan import Job, Plan, Wanted
from polymodal.errors import InputError
from polymodal.progress import Progress

__all__ = ["Prepared", "prepare"]

RECORD, BROKEN, UNFINISHED = "prepared.json", "broken.json", ".unfinished"
LISTED = 20


@dataclass(frozen=True)
class Prepared:
    """What was made, what was there already, and what is broken.

    Attributes:
        out: the folder, which stands where the data set's root stood.
        made, kept: files and folders made by this call, and by earlier ones.
        broken: by row, modality and reason.
    """

    out: Path
    made: int
    kept: int
    broken: list[Broken]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; rows from 1."""
        return {"out": str(self.out), "made": self.made, "kept": self.kept, "broken": _told(self.broken)}


def prepare(
    source: Source,
    out: str | Path,
    wanted: Wanted | None = None,
    *,
    on_error: str = "raise",
    workers: int | None = None,
    show: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Make a folder that the same reader and preset read, with everything extracted that training would decode each time.

    Each file or folder is written under another name and renamed when it is whole: a call that was killed is gone on with by
    an equal call, and no half-written file is ever in use.

    Args:
        source: data set, preset and the folder of its owner's files, which is only read.
        out: new or empty folder, or that of an equal call.
        wanted: sound as "wav" or "spectrogram", faces; see `Wanted`.
        on_error: "raise" to end with an error when everything else is done, "skip" to report what is broken and no more.
        workers: threads; default one a processor, 0 for none.
        show: force the progress bar on or off.
        progress: called with the number of jobs done and their total.

    Raises:
        InputError: nothing is to be prepared, the folder is in use or holds something else, or the disk is full. With
            "raise": some files are broken.
    """
    wanted = wanted or Wanted()
    out = Path(out)
    if on_error not in ("raise", "skip"):
        raise InputError(f"--on-error {on_error}: expected raise or skip")
    plan_of = find(source.name).plan
    if plan_of is None:
        raise InputError(
            f"{source.name} has nothing to prepare: its files are read as they are; name {source} where a table stands"
        )
    if out.resolve() == source.root.resolve():
        raise InputError(f"{out}: is the folder of the owner's files; name a new one")
    table = open_table(str(source))
    wanted = replace(wanted, audio=_audio(source, table, wanted.sound))
    plan: Plan = plan_of(source.root, table, wanted)
    with _reserved(out, _record(source, wanted)):
        texts = {name: text.encode() for name, text in plan.texts.items()}
        for name, data in (_lists(source.root, plan.lists) | texts).items():
            _place(out, name, partial(_write, data=data))
        done = _run(out, table, {source.root: plan.jobs, out: plan.then}, workers, show, progress)
        if done.broken:
            _place(out, BROKEN, partial(_write, data=json.dumps(_told(done.broken), indent=1).encode()))
        else:
            (out / BROKEN).unlink(missing_ok=True)
    if done.broken and on_error == "raise":
        lines = [f"  {table.source}, {one}" for one in done.broken[:LISTED]]
        more = [f"  and {len(done.broken) - LISTED} more, all in {out / BROKEN}"] if len(done.broken) > LISTED else []
        head = f"{len(done.broken)} cells of {len(table)} samples cannot be prepared; everything else is:"
        remedy = "Mend their files and run this again, or leave it at that with --on-error skip."
        raise InputError("\n".join([head, *lines, *more, remedy]))
    return done


def _told(broken: list[Broken]) -> list[dict[str, Any]]:
    return [one._asdict() | {"row": one.row + 1} for one in broken]


def _audio(source: Source, table: Table, sound: str) -> Mapping[str, Any]:
    """The preset's options of the sound, settled by the training part where spectrograms are computed."""
    data = find(source.name).presets[source.preset].settings["data"]
    options: Mapping[str, Any] = data.get("inputs", {}).get("audio", {})
    if sound == "wav":
        return options
    columns = [one.partition("=")[2].rpartition(":")[0] for one in data["modalities"] if one.startswith("audio=")]
    if sound != "spectrogram" or not columns:
        known = "wav or spectrogram" if columns else f"{source.name}/{source.preset} has no sound"
        raise InputError(f"--sound {sound}: {known}")
    audio: Any = make_input(Modality("audio", (columns[0],), "audio"), **options)
    parts = table.cells("split") if "split" in table.columns else ["train"] * len(table)
    cells = zip(table.cells(columns[0]), parts, strict=True)
    audio.probe([(cell,) for cell, part in cells if SPLIT_NAMES.get(str(part).lower()) == "train"], table.root)
    if not audio.shape:
        raise audio.unsettled()
    found: dict[str, Any] = audio.computation()
    return found


def _record(source: Source, wanted: Wanted) -> dict[str, Any]:
    """What an equal call has in common with this one."""
    boxes = sorted((clip, -1 if frame is None else frame, *box) for (clip, frame), box in wanted.boxes.items())
    return {
        "data set": f"{source.name}/{source.preset}",
        "arguments": source.arguments,
        "sound": wanted.sound,
        "audio": dict(wanted.audio),
        "faces": wanted.faces,
        "boxes": hashlib.sha256(json.dumps(boxes).encode()).hexdigest() if boxes else "",
        "weights": wanted.weights,
    }


@contextmanager
def _reserved(out: Path, record: dict[str, Any]) -> Iterator[None]:
    """The folder, for this call alone and without what a killed one left half done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        own = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{out}: cannot be made a folder ({error.strerror}); name another") from None
    try:
        fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)  # falls with the process, however that ends
        _compare(out, record)
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        _place(out, RECORD, partial(_write, data=json.dumps(record, indent=1).encode()))
        yield
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    except BlockingIOError:
        raise InputError(f"{out}: another process prepares it now; wait for it, or name another folder") from None
    finally:
        os.close(own)


def _compare(out: Path, record: dict[str, Any]) -> None:
    if not (out / RECORD).is_file():
        if any(one.name != UNFINISHED for one in out.iterdir()):
            raise InputError(f"{out}: not an empty folder, and nothing was prepared in it; name a new one")
        return
    try:
        before = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise InputError(f"{out / RECORD}: damaged; name a new folder")
    for name, value in json.loads(json.dumps(record)).items():
        if before.get(name) != value:
            raise InputError(f"{out}: was prepared with {name} {before.get(name)}, not {value}; name a new folder")


def _lists(root: Path, patterns: tuple[str, ...]) -> dict[str, bytes]:
    files = sorted({file for pattern in patterns for file in root.glob(pattern) if file.is_file()})
    return {str(file.relative_to(root)): file.read_bytes() for file in files if file.name not in (RECORD, BROKEN)}


def _write(target: Path, data: bytes) -> None:
    target.write_bytes(data)


def _place(out: Path, name: str, write: Callable[[Path], None], number: int = -1) -> None:
    """Let `write` write a file or folder, and put it into its place when that is whole.

    Raises:
        InputError: the disk is full or cannot be written.
    """
    unfinished = out / UNFINISHED / str(number)
    try:
        unfinished.parent.mkdir(exist_ok=True)
        write(unfinished)
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished, out / name)
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True) if unfinished.is_dir() else unfinished.unlink(missing_ok=True)
        # Libraries have errors of their own for a full disk.
        if isinstance(error, OSError) or (out.is_dir() and shutil.disk_usage(out).free < 2**16):
            told = getattr(error, "strerror", None) or error
            raise _CannotWrite(f"cannot write {out / name} ({told}); make room and run this again") from error
        raise


class _CannotWrite(InputError):
    """No file of the data set is to blame."""


class _Work(NamedTuple):
    job: Job
    base: Path
    number: int
    cells: list[tuple[int, str]]
    """(row, modality) of every cell that the job is for."""


def _run(
    out: Path,
    table: Table,
    phases: Mapping[Path, list[Job]],
    workers: int | None,
    show: bool | None,
    progress: Callable[[int, int], None] | None,
) -> Prepared:
    """Do one phase of jobs after the other; a source below `out` that is not there was reported by the phase before."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    works = [_works(base, jobs, 10**9 * place) for place, (base, jobs) in enumerate(phases.items())]
    total, done, made, kept, broken = sum(map(len, works)), 0, 0, 0, []
    with Progress("preparing", total, show=show) as bar:
        for phase in works:
            todo = [one for one in phase if not (out / one.job.target).exists()]
            kept += len(phase) - len(todo)
            todo = [one for one in todo if one.base != out or (out / one.job.source).exists()]
            done += len(phase) - len(todo)
            bar.advance(len(phase) - len(todo))
            for one, reason in _all(out, todo, own if workers is None else workers):
                made += not reason
                broken += [Broken(row, table.place(row), modality, reason) for row, modality in one.cells if reason]
                done += 1
                bar.advance()
                if progress is not None:
                    progress(done, total)
    return Prepared(out, made, kept, sorted(broken))


def _works(base: Path, jobs: list[Job], first: int) -> list[_Work]:
    found: dict[str, _Work] = {}
    for job in jobs:
        work = found.setdefault(job.target, _Work(job, base, first + len(found), []))
        work.cells.append((job.row, job.modality))
    return list(found.values())


def _all(out: Path, works: list[_Work], workers: int) -> Iterator[tuple[_Work, str]]:
    if not workers:
        yield from ((one, _one(out, one)) for one in works)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(_one, out, one): one for one in works}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        # After Ctrl-C, or on a full disk: what has not begun is not begun.
        pool.shutdown(wait=True, cancel_futures=True)


def _one(out: Path, work: _Work) -> str:
    """What is wrong with the source of a job; nothing where it was done."""
    source = work.base / work.job.source
    try:
        _place(out, work.job.target, partial(work.job.make, source), work.number)
    except _CannotWrite:
        raise
    except InputError as error:
        return str(error)
    except Exception as error:  # a damaged file may break a decoder in any way; its row is what the user needs
        return f"{source}: {type(error).__name__}: {error}"
    return ""
