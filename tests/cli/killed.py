"""A `fit` in a process that ends itself with SIGKILL at a chosen moment."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cli.run import polymodal
from tests.processes import preload

MOMENTS: dict[str, str] = {
    "step": "polymodal.loop.Loop.count",  # after a step, before its resume point
    "evaluation": "polymodal.loop.evaluate",  # at the end of an epoch
    "weights": "polymodal.loop.Loop.checkpoint",  # best weights written, resume point not yet
    "half": "os.fsync",  # a file is written and not yet in its place
    "stage": "polymodal.run.RunFolder.drop_checkpoint",  # a stage is marked as done
    "predictions": "polymodal.predictor.Predictor._write_predictions",
    "weights of the run": "polymodal.predictor.Predictor._description",
}


def fit_and_die(moment: str, count: int, *arguments: object) -> None:
    """Run `polymodal fit` in a process of its own and kill it at the `count`-th time of a moment."""
    preload()
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=_run, args=(MOMENTS[moment], count, [str(one) for one in arguments]))
    child.start()
    child.join(600)
    assert child.exitcode == -signal.SIGKILL, (moment, child.exitcode)


def _run(place: str, count: int, arguments: list[str]) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with _calls(place, count, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        polymodal(*arguments)


@contextmanager
def _calls(place: str, count: int, do: Callable[[], Any]) -> Iterator[None]:
    """`do()` instead of the `count`-th call of a function given by its dotted path."""
    from pkgutil import resolve_name
    from unittest.mock import patch

    original, seen = resolve_name(place), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        return do() if seen == count else original(*args, **kwargs)

    with patch(place, counted):
        yield


def left_over(run: Path) -> list[str]:
    """Half-written files."""
    return [file.name for file in run.rglob(".*.tmp")]
