"""A finished run as it lies in its folder."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from polymodal.errors import InputError
from polymodal.run import RunFolder
from polymodal.tasks import Classification, MultiLabel, Regression, Retrieval, Task

__all__ = ["NAMES", "Predictions", "Record", "read_record"]

Array = NDArray[Any]
TASKS: dict[str, type[Task]] = {
    "classification": Classification, "multilabel": MultiLabel, "regression": Regression, "retrieval": Retrieval,
}  # fmt: skip

NAMES = {
    "accuracy": "accuracy",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "f1_weighted": "weighted F1",
    "ece": "expected calibration error",
    "loss": "loss",
    "mae": "mean absolute error",
    "mse": "mean squared error",
    "rsum": "sum of recalls",
    **{
        f"{key}_{way}": f"{name}, {words}"
        for way, words in (("q2g", "query to item"), ("g2q", "item to query"))
        for key, name in (
            ("r_at_1", "R@1"),
            ("r_at_5", "R@5"),
            ("r_at_10", "R@10"),
            ("mdr", "median rank"),
            ("mnr", "mean rank"),
        )
    },
}
"""What figures of merit are called in sentences."""


@dataclass(frozen=True)
class Predictions:
    """Decisions over one split: class indices (N,), labels (N, C) of 0 and 1, or values (N,).

    Attributes:
        ids: names of the samples.
        target, fused: what is true, and the model's decision.
        probabilities: (N, C), None for regression.
        unimodal: each modality's own decision; -1 or NaN where the sample lacks the modality.
    """

    ids: list[str]
    target: Array
    fused: Array
    probabilities: NDArray[np.float64] | None
    unimodal: dict[str, Array]

    def there(self, modality: str) -> NDArray[np.bool_]:
        """(N,) true where the sample has a decision of that modality alone."""
        one = self.unimodal[modality]
        if self.probabilities is None:
            return np.isfinite(one)
        return np.asarray(one >= 0 if one.ndim == 1 else (one >= 0).all(-1))


@dataclass(frozen=True)
class Record:
    """What one run's folder holds, as plain values.

    Attributes:
        path: the folder.
        config, metrics, timing, model: contents of the files of these names.
        schema: meaning of the table's columns, from data.json.
        history: one entry an epoch.
        predictions: of the splits "valid" and "test", where they are there.
        leaderboard: rows of what a recipe tried, cells as text.
    """

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    timing: dict[str, Any]
    model: dict[str, Any]
    schema: dict[str, Any]
    history: list[dict[str, Any]]
    predictions: dict[str, Predictions]
    leaderboard: list[dict[str, str]]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def task(self) -> str:
        """Kind of task."""
        return str(self.schema["task"])

    @property
    def classes(self) -> list[str]:
        """Names of the classes or labels, in the order of the outputs."""
        return list(self.schema["classes"])

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities, in order."""
        return list(self.schema["modalities"])

    @property
    def part(self) -> str:
        """The split that figures are shown of: test, or valid where there is none."""
        return "test" if "test" in self.metrics else "valid"

    @property
    def shown(self) -> Predictions | None:
        """Predictions of that split."""
        return self.predictions.get(self.part)

    @property
    def metric(self) -> str:
        """Name of the figure of merit that the run was selected by."""
        return self.config.get("train", {}).get("metric") or TASKS[self.task].default_metric

    @property
    def metric_name(self) -> str:
        """What that figure is called in sentences."""
        return NAMES.get(self.metric, self.metric)

    @property
    def metric_title(self) -> str:
        """The same at the beginning of a heading."""
        return self.metric_name[:1].upper() + self.metric_name[1:]

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller figure is the better one."""
        return self.metric in TASKS[self.task].lower_is_better

    @property
    def stages(self) -> dict[str, list[dict[str, Any]]]:
        """The history's epochs by stage."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.history:
            found.setdefault(str(row.get("stage", "training")), []).append(row)
        return found

    def setting(self, part: str) -> str:
        """Name of the configured recipe, balancer or fusion."""
        value = self.config.get(part)
        return str(value.get("name", "")) if isinstance(value, Mapping) else str(value or "")

    def best_epoch(self, stage: str) -> int | None:
        """Epoch whose weights a stage kept."""
        found = self.metrics.get("best_epochs", {}).get(stage, self.metrics.get("best_epoch"))
        return None if found is None else int(found)


def read_record(path: str | Path) -> Record:
    """Read the folder of a finished run; nothing in it is executed.

    Raises:
        InputError: no such folder, or a file that a finished run has is missing or broken.
    """
    run = RunFolder(path, resume=True)
    if not run.path.is_dir():
        raise InputError(f"run {run.path}: no such folder")
    metrics, schema = run.read_json("metrics.json"), run.read_json("data.json")["schema"]
    if schema["task"] not in TASKS:
        raise InputError(
            f"run {run.path}: no report is made for the task {schema['task']!r}; it is one of {list(TASKS)}"
        )
    try:
        config = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{run.path / 'config.yaml'} cannot be read ({error})") from error
    return Record(
        path=run.path,
        config=config if isinstance(config, dict) else {},
        metrics=metrics,
        timing=run.read_json("timing.json") if run.has("timing.json") else {},
        model=run.read_json("model.json") if run.has("model.json") else {},
        schema=schema,
        history=_history(run.path / "history.jsonl"),
        predictions={
            part: _predictions(file, schema)
            for part in ("valid", "test")
            if schema["task"] != "retrieval"  # its predictions are ranks
            and (file := run.path / "predictions" / f"{part}.csv").is_file()
        },
        leaderboard=_rows(run.path / "leaderboard.csv"),
    )


def _history(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not whole JSON ({error}); train the run again") from error


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _predictions(path: Path, schema: Mapping[str, Any]) -> Predictions:
    csv.field_size_limit(2**31 - 1)
    rows = _rows(path)
    columns = {name: [row[name] or "" for row in rows] for name in (rows[0] if rows else ())}
    classes = list(schema["classes"])
    try:
        return Predictions(
            ids=columns["id"],
            target=_decisions(columns["target"], schema["task"], classes),
            fused=_decisions(columns["prediction"], schema["task"], classes),
            probabilities=np.array([columns[f"prob_{name}"] for name in classes], np.float64).T if classes else None,
            unimodal={
                m: _decisions(columns[f"prediction_{m}"], schema["task"], classes)
                for m in schema["modalities"]
                if f"prediction_{m}" in columns
            },
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: not what a run writes ({error}); train the run again") from error


def _decisions(cells: list[str], task: str, classes: list[str]) -> Array:
    """Cells of a predictions file as `Predictions` holds them."""
    if task == "regression":
        return np.array([cell or "nan" for cell in cells], np.float64)
    index = {name: i for i, name in enumerate(classes)}
    if task == "classification":
        return np.array([index[cell] if cell else -1 for cell in cells], np.int64)
    found = np.zeros((len(cells), len(classes)), np.int64)
    for row, cell in enumerate(cells):
        name = ""
        for piece in filter(None, cell.split("|")):
            name = f"{name}|{piece}" if name else piece  # a label's own name may hold the separator
            if name in index:
                found[row, index[name]] = 1
                name = ""
        if name:
            raise ValueError(f"unknown label {name!r}")
    return found
