"""Workers in processes of their own, forked from a server that has imported everything once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from polymodal.experiment.claims import Claims
from tests.processes import preload


def context() -> Any:
    preload()
    return multiprocessing.get_context("forkserver")


def start(target: Any, *arguments: Any) -> Any:
    process = context().Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def wait_for(path: Path) -> None:
    """Until somebody made that file."""
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.005)


def note(path: Path, line: str) -> None:
    """Append one line, whole, whoever else does."""
    file = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(file, f"{line}\n".encode())
    os.close(file)


def take_all(folder: Path, keys: Iterable[str], together: Any, won: Any) -> None:
    """Reach for every key at the same moment as the others, and hold what was got until all are done."""
    claims, mine = Claims(folder), []
    for key in keys:
        together.wait()
        mine.append(claims.take(key))
    won.put([key for key, one in zip(keys, mine, strict=True) if one is not None])
    together.wait()


def work(folder: Path, keys: list[str], together: Any, dies: bool) -> None:
    """Do units beside two others; with `dies` be killed in the middle of the first, while the others do theirs."""
    first = True

    def do(key: str) -> dict[str, Any]:
        nonlocal first
        note(folder / "began", key)
        if first:
            together.wait()
            first = False
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
        note(folder / "ended", key)
        return {"key": key}

    results = Claims(folder).work(keys, do)
    assert results == {key: {"key": key} for key in keys}
    note(folder / "workers", "done")


def sleepy(folder: Path, key: str) -> None:
    """Begin a unit, and end it when told to; note what `work` returned."""

    def do(_: str) -> dict[str, Any]:
        note(folder / "begun", str(os.getpid()))
        wait_for(folder / "go")
        return {"by": "the sleeper"}

    note(folder / "sleeper", Claims(folder, stale=0.5).work([key], do)[key]["by"])


def sweep(file: Path, data: Path, out: Path, together: Any, dies: bool) -> None:
    """A sweep beside two others; with `dies` be killed in the first run's second step."""
    import torch

    from polymodal.experiment.runs import measure
    from polymodal.experiment.sweep import sweep as run

    torch.set_num_threads(1)
    first = True

    def counted(values: dict[str, Any], place: Path, **options: Any) -> dict[str, Any]:
        nonlocal first
        if first:
            together.wait()
            first = False
            if dies:
                with patch("polymodal.loop.Loop.count", partial(os.kill, os.getpid(), signal.SIGKILL)):
                    measure(values, place, **options)
        found = measure(values, place, **options)
        note(file.parent / "ended", place.name)
        return found

    note(file.parent / "printed", repr(run(file, data, out, measure=counted).text()))
