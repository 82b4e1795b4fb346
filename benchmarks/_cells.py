"""Runs of several methods on several sets, two at a time: what to run next, within a time limit, and what is left out."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from _common import Results, Settings, circumstances, paired

WORKER = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
}
"""The environment of a worker: one thread, and large tensors from the heap, which costs small networks a tenth less."""
HOPELESS = 3  # cells that fail, while no run has ended well, after which no other is begun
SELECT = 2  # seeds a trial is chosen by
Run = Callable[[Settings, str, str], dict[str, Any]]
"""Settings of a run, folder of the data, folder of the cache -> what was found; importable, as workers call it."""


class Cell:
    """One method on one set: its trials on the first seeds, then the chosen one on the others."""

    def __init__(
        self, data: str, method: str, trials: list[Settings], seeds: int, epochs: int, results: Results
    ) -> None:
        self.data, self.method, self.trials, self.seeds, self.epochs = data, method, trials, seeds, epochs
        self.rows: dict[tuple[int, int], dict[str, Any]] = {}
        self.running: set[tuple[int, int]] = set()
        self.failed = self.left_out = False
        for place in product(range(len(trials)), range(seeds)):
            key = results.key(self.settings(*place))
            if key in results.rows:
                self.rows[place] = results.rows[key]

    def settings(self, trial: int, seed: int) -> Settings:
        """All that decides one run."""
        chosen = {"trial": self.trials[trial], "seed": seed, "epochs": self.epochs}
        return {"data": self.data, "method": self.method, **chosen}

    def chosen(self) -> int | None:
        """The trial that validation prefers; None until all have been tried."""
        if len(self.trials) == 1:
            return 0
        tried = range(min(SELECT, self.seeds))
        if any((trial, seed) not in self.rows for trial in range(len(self.trials)) for seed in tried):
            return None

        def merit(trial: int) -> tuple[float, float]:
            found = [self.rows[trial, seed]["valid"] for seed in tried]
            return float(np.mean([f["accuracy"] for f in found])), -float(np.mean([f["loss"] for f in found]))

        return max(range(len(self.trials)), key=merit)

    def wanted(self) -> list[tuple[int, int]]:
        """Runs that are still to be started."""
        trial = self.chosen()
        first = [(t, s) for t in range(len(self.trials)) for s in range(min(SELECT, self.seeds))]
        todo = first if trial is None else [(trial, seed) for seed in range(self.seeds)]
        return [one for one in todo if one not in self.rows and one not in self.running]

    def left(self) -> int:
        """Runs that are not done yet."""
        last = max(self.seeds - SELECT, 0) if len(self.trials) > 1 else 0
        return len(self.wanted()) + len(self.running) + (last if self.chosen() is None else 0)

    def result(self) -> list[dict[str, Any]]:
        """The chosen trial's runs, by seed; empty until all are done."""
        trial = self.chosen()
        found = [self.rows.get((trial, seed)) for seed in range(self.seeds)] if trial is not None else [None]
        return [row for row in found if row is not None] if None not in found else []


class Clock:
    """What runs have taken, and what others will take."""

    def __init__(self, cells: list[Cell], budget: float | None) -> None:
        self.cells, self.budget, self.began = cells, budget, time.perf_counter()

    def spent(self) -> float:
        return time.perf_counter() - self.began

    def cost(self, cell: Cell) -> float:
        """Seconds of both workers that the cell still takes; 0 while nothing is known."""
        kinds: dict[str, list[float]] = defaultdict(list)
        for one in self.cells:
            for row in one.rows.values():
                near = "cell" if one is cell else "set" if one.data == cell.data else "any"
                kinds[near].append(row["seconds"])
        known = next((kinds[near] for near in ("cell", "set", "any") if kinds[near]), [0.0])
        return cell.left() * float(np.median(known)) / 2

    def left(self) -> float:
        """Seconds until all is done that was not left out."""
        return sum(self.cost(cell) for cell in self.cells if not cell.left_out and not cell.failed)

    def next(self) -> tuple[Cell, tuple[int, int]] | None:
        """The next run: begun cells first, then each that should end in time."""
        if self.budget is not None and self.spent() > self.budget:
            return None
        waiting = [cell for cell in self.cells if cell.wanted() and not cell.failed and not cell.left_out]
        begun = [cell for cell in waiting if cell.rows or cell.running]
        if begun:
            return begun[0], begun[0].wanted()[0]
        promised = sum(self.cost(cell) for cell in self.cells if cell.running)
        for cell in waiting:
            if self.budget is None or self.spent() + promised + self.cost(cell) <= self.budget:
                return cell, cell.wanted()[0]
            cell.left_out = True
        return None


def command(
    text: str | None, name: str, sets: Sequence[str], *, minutes: float, seeds: int, epochs: str
) -> argparse.ArgumentParser:
    """What every benchmark of cells is asked by: folder of the data, limits, seeds, sets and where results go.

    Args:
        text: the module's docstring.
        name: of the folder under build/.
        sets: that there are.
        minutes, seeds: by default.
        epochs: what `--epochs` stands in place of.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the development data, with expand.py")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a claim does not hold")
    parser.add_argument("--full", action="store_true", help="no time limit")
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--out", type=Path, help="file for the Markdown tables")
    parser.add_argument("--cache", type=Path, default=Path("build") / name, help="expanded sets and finished runs")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--epochs", type=int, help=epochs)
    parser.add_argument("--sets", nargs="*", choices=list(sets), default=list(sets))
    return parser


def write(texts: list[str], cells: list[Cell], note: str, out: Path | None) -> None:
    """Print the tables of a benchmark with what was not run, a note and the circumstances, and keep them in a file."""
    left = [f"{cell.data}/{cell.method}" for cell in cells if not cell.result()]
    failed = "failed, or " if any(cell.failed for cell in cells) else ""
    told = [f"Not run to the end ({failed}out of time): {', '.join(left)}."] if left else []
    text = "\n\n".join([*texts, *told, note, circumstances()]) + "\n"
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")


def work(run: Run, cells: list[Cell], results: Results, data: Path, budget: float | None) -> None:
    """Run all that is wanted, two at a time, and write every run down as it ends."""
    os.environ |= WORKER  # inherited
    clock = Clock(cells, budget)
    done = sum(len(cell.rows) for cell in cells)
    total = done + sum(cell.left() for cell in cells)
    running: dict[Future[dict[str, Any]], tuple[Cell, tuple[int, int]]] = {}
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        while True:
            while len(running) < 2 and (found := clock.next()) is not None:
                cell, place = found
                cell.running.add(place)
                future = pool.submit(run, cell.settings(*place), str(data), str(results.path.parent))
                running[future] = cell, place
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell, place = running.pop(future)
                cell.running.discard(place)
                done += 1
                if (error := future.exception()) is not None:
                    cell.failed = True
                    print(f"{cell.data}/{cell.method}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                    if sum(one.failed for one in cells) >= HOPELESS and not any(one.rows for one in cells):
                        sys.exit(
                            f"{HOPELESS} cells failed and no run ended well; mend that first, then start the same command"
                        )
                    continue
                row = cell.rows[place] = future.result()
                results.add(cell.settings(*place), row)
                print(
                    f"[{done}/{total}, {clock.spent() / 60:.1f} min, about {clock.left() / 60:.0f} min left] {cell.data}/"
                    f"{cell.method} trial {place[0] + 1} seed {place[1]}: test {row['test']['accuracy']:.3f} "
                    f"({row['seconds']:.1f} s)",
                    file=sys.stderr,
                    flush=True,
                )


def alone(setup: Any, place: Path) -> None:
    """Train each modality of the set-up alone, once for all runs that share the folder; two of them may begin at once."""
    from polymodal.recipes.unimodal import train_each
    from polymodal.run import RunFolder

    place.mkdir(parents=True, exist_ok=True)
    shared = replace(setup, run=RunFolder(place, resume=True), seconds={}, finished={})
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        train_each(shared)
    setup.finished.update(shared.finished)


def gap(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> tuple[float, float]:
    """Mean difference in test accuracy over the same seeds, and its standard error."""
    return paired([row["test"]["accuracy"] for row in rows], [row["test"]["accuracy"] for row in others])
