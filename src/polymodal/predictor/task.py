"""The task of a run: from its schema, and from what its folder says of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.data.schema import Schema
from polymodal.errors import InputError
from polymodal.tasks import Classification, MultiLabel, Regression, Retrieval, Task

__all__ = ["describe_task", "metrics_of", "task_from", "task_of"]


def task_of(schema: Schema, target: NDArray[np.float64], *, sentiment: bool = False) -> Task:
    """The task that a schema asks for; `target` are the training targets, by which a regression is centred and scaled.

    Raises:
        InputError: `sentiment` of labels that are no numbers from -3 to 3.
    """
    if sentiment and (schema.task != "regression" or not len(target) or np.abs(target).max() > 3):
        found = f"from {target.min():g} to {target.max():g}" if schema.task == "regression" else f"of a {schema.task}"
        raise InputError(f"data.sentiment: labels are numbers from -3 to 3, and these are {found}; leave it out")
    if schema.task == "retrieval":
        return Retrieval()
    if schema.task == "regression":
        return Regression(mean=float(target.mean()), std=float(target.std()), sentiment=sentiment)
    return Classification(len(schema.classes)) if schema.task == "classification" else MultiLabel(len(schema.classes))


def describe_task(kind: str, task: Task) -> dict[str, Any]:
    """What `task_from` needs, to be written as JSON."""
    described: dict[str, Any] = {"kind": kind, "outputs": task.outputs}
    if isinstance(task, Regression):
        described |= {"mean": task.mean, "std": task.std, "sentiment": task.sentiment}
    return described


def task_from(described: Mapping[str, Any]) -> Task:
    """The task that `describe_task` described."""
    if described["kind"] == "retrieval":
        return Retrieval()
    if described["kind"] == "regression":
        return Regression(mean=described["mean"], std=described["std"], sentiment=described.get("sentiment", False))
    make = Classification if described["kind"] == "classification" else MultiLabel
    return make(described["outputs"])


def metrics_of(task: Task) -> list[str]:
    """Names of a task's metrics, learnt from two made-up samples."""
    if isinstance(task, Retrieval):
        return list(task.metrics(np.eye(2), np.arange(2)))
    probabilities = np.full((2, task.outputs), 1 / task.outputs)
    target: NDArray[Any] = np.zeros((2, task.outputs)) if isinstance(task, MultiLabel) else np.zeros(2)
    return list(task.metrics(probabilities, target))
