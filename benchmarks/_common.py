"""What several benchmarks share: expanding a data set, results that survive a kill, and means with standard errors."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import polymodal
from polymodal.progress import Progress
from polymodal.run import write_atomically

Settings = dict[str, Any]


def expanded(data: Path, name: str, folder: Path, *options: str) -> Path:
    """The table that DATA/expand.py writes into `folder`, where it is kept."""
    out = folder / "-".join([name, *options]).replace("--", "")
    if not any(out.glob("table.*")):
        command = [sys.executable, str(data / "expand.py"), name, str(out), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next(out.glob("table.*"))


def grouped(data: Path, name: str, table: Path, group: str) -> Path:
    """The same table with a column `group`, from an array of the data: the expanded tables do not name what belongs together."""
    place = table.with_name("groups" + table.suffix)
    if not place.exists():
        rows = pd.read_parquet(table) if table.suffix == ".parquet" else pd.read_csv(table, dtype=str)
        with np.load(data / name / f"{name}.npz") as arrays:
            ids = arrays["unified"] if "unified" in arrays else [f"{i:04d}" for i in range(len(arrays["label"]))]
            groups = dict(zip(map(str, ids), arrays[group].tolist(), strict=True))
        rows["group"] = [str(groups[row]) for row in rows["id"]]
        with write_atomically(place) as temporary:
            rows.to_parquet(temporary) if table.suffix == ".parquet" else rows.to_csv(temporary, index=False)
    return place


def source_digest(*rooms: str) -> str:
    """Fingerprint of the library's files in these rooms (folders, or files without .py), so that old results are not reused."""
    root = Path(polymodal.__file__).parent
    digest = hashlib.sha256()
    for room in sorted(rooms):
        files = sorted((root / room).rglob("*.py")) if (root / room).is_dir() else [root / f"{room}.py"]
        for file in files:
            digest.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return digest.hexdigest()[:12]


class Results:
    """Finished runs as JSON lines, by a key of their settings and the library's source."""

    def __init__(self, path: Path, source: str) -> None:
        self.path, self.source = path, source
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the line that was being written when the process was killed
                self.rows[row["key"]] = row

    def key(self, settings: Settings) -> str:
        text = json.dumps({**settings, "source": self.source}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __getitem__(self, settings: Settings) -> dict[str, Any]:
        return self.rows[self.key(settings)]

    def add(self, settings: Settings, found: dict[str, Any]) -> None:
        row = {"key": self.key(settings), "settings": settings, **found}
        self.rows[row["key"]] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")

    def run(
        self, wanted: Iterable[Settings], work: Callable[[Settings], dict[str, Any]], *, title: str, workers: int
    ) -> None:
        """Do what is not done yet in `workers` processes of one thread each; `work` must be importable."""
        todo = {self.key(one): one for one in wanted if self.key(one) not in self.rows}
        began = time.perf_counter()
        context = multiprocessing.get_context("spawn")
        with (
            Progress(title, len(todo)) as bar,
            ProcessPoolExecutor(max(1, workers), mp_context=context, initializer=_one_thread) as pool,
        ):
            futures = {pool.submit(work, one): one for one in todo.values()}
            for done, future in enumerate(as_completed(futures), 1):
                self.add(futures[future], future.result())
                bar.advance()
                if not sys.stderr.isatty() and (done % 10 == 0 or done == len(todo)):
                    left = (time.perf_counter() - began) / done * (len(todo) - done)
                    print(
                        f"{title}: {done} of {len(todo)} runs, about {left / 60:.1f} min left",
                        file=sys.stderr,
                        flush=True,
                    )


def _one_thread() -> None:
    import logging

    import torch

    torch.set_num_threads(1)
    logging.getLogger("polymodal").setLevel(logging.ERROR)


def mean_sd(values: Sequence[float], digits: int = 3) -> str:
    """ "mean ± standard deviation" over seeds, of one seed its value."""
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def paired(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of the differences `one - other`, seed by seed."""
    difference = np.asarray(one) - np.asarray(other)
    error = float(np.std(difference, ddof=1) / math.sqrt(len(difference))) if len(difference) > 1 else math.nan
    return float(difference.mean()), error


def own_error(right: NDArray[np.float64]) -> float:
    """Standard error of the accuracy of S seeds on N samples (S, N): over samples, of the share of seeds that are right."""
    return float(right.mean(0).std(ddof=1)) / math.sqrt(right.shape[1])


def two_way(gaps: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Mean of differences (S, N) of S seeds on N samples; its standard error, and those of samples and of seeds alone.

    Seeds and samples are both random effects: the variance of the mean is that of the samples' means plus that of the seeds'
    means, less the part that both contain, and not less than either.
    """
    seeds, samples = gaps.mean(1), gaps.mean(0)
    of_samples = float(samples.var(ddof=1)) / len(samples)
    of_seeds = float(seeds.var(ddof=1)) / len(seeds) if len(seeds) > 1 else 0.0
    rest = gaps - seeds[:, None] - samples + gaps.mean()
    freedom = (len(seeds) - 1) * (len(samples) - 1)
    both = float((rest**2).sum()) / freedom / gaps.size if freedom else 0.0
    error = math.sqrt(max(of_samples + of_seeds - both, of_samples, of_seeds))
    return float(gaps.mean()), error, math.sqrt(of_samples), math.sqrt(of_seeds)


def signed(difference: tuple[float, float]) -> str:
    """ "+.019 (.007)": a paired difference with its standard error."""
    return f"{difference[0]:+.3f} ({difference[1]:.3f})"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def circumstances() -> str:
    """Command, versions and machine, for beneath a table."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("polymodal", "torch", "numpy", "scikit-learn"))
    command = " ".join(["python", *sys.argv])
    return f"`{command}`\n\n{packages}, Python {sys.version.split()[0]}, {os.cpu_count()} processors."
