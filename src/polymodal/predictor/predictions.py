"""Predictions as people read them: class names instead of numbers, in frames with a row a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polymodal.data.schema import Schema
from polymodal.evaluate import Evaluation
from polymodal.metrics import own_columns, ranks
from polymodal.tasks import Retrieval, Task

__all__ = ["decisions", "prediction_frame", "probability_frame", "scored_frame"]


def decisions(found: Evaluation, task: Task, schema: Schema) -> list[Any]:
    """The decision for each row: class name, list of labels, number, or for retrieval the id of an item's first row."""
    if isinstance(task, Retrieval):
        return list(_found_items(found)["prediction"])
    return _decided(found.probabilities, task, schema)


def probability_frame(found: Evaluation, task: Task, schema: Schema) -> pd.DataFrame:
    """Probability of each class (columns) for each row, indexed by id; for retrieval the similarity of each item."""
    retrieves = isinstance(task, Retrieval)
    columns = _item_names(found) if retrieves else list(schema.classes or ("value",))
    return pd.DataFrame(found.probabilities, index=pd.Index(found.ids, name="id"), columns=columns)


def prediction_frame(found: Evaluation, task: Task, schema: Schema) -> pd.DataFrame:
    """Columns `id`, `prediction` and `prob_<class>`; for retrieval those of what each query found."""
    if isinstance(task, Retrieval):
        return _found_items(found)
    return _frame(found.ids, found.probabilities, task, schema)


def scored_frame(found: Evaluation, task: Task, schema: Schema) -> pd.DataFrame:
    """What predictions/<part>.csv holds: also the target and each modality's own prediction."""
    frame = prediction_frame(found, task, schema)
    if isinstance(task, Retrieval):
        return frame
    target: list[Any] = list(found.target)
    classes = schema.classes
    if found.target.ndim == 2:
        target = ["|".join(n for n, on in zip(classes, row, strict=True) if on > 0.5) for row in found.target]
    elif classes:
        target = [classes[int(i)] for i in found.target]
    frame.insert(1, "target", target)
    for m, rows in found.unimodal.items():
        there = np.asarray(~np.isnan(rows).any(-1))
        alone = _frame(found.ids, np.nan_to_num(rows), task, schema)["prediction"].astype(object)
        frame[f"prediction_{m}"] = alone.where(there)  # an empty cell where the sample lacks the modality
    return frame


def _decided(probabilities: NDArray[Any], task: Task, schema: Schema) -> list[Any]:
    decided, classes = task.predict(probabilities), schema.classes
    if decided.ndim == 2:
        return [[name for name, on in zip(classes, row, strict=True) if on] for row in decided]
    return [classes[int(i)] for i in decided] if classes else [float(value) for value in decided]


def _frame(ids: list[str], probabilities: NDArray[Any], task: Task, schema: Schema) -> pd.DataFrame:
    decided = ["|".join(one) if isinstance(one, list) else one for one in _decided(probabilities, task, schema)]
    columns: dict[str, Any] = {"id": ids, "prediction": decided}
    columns |= {f"prob_{name}": probabilities[:, i] for i, name in enumerate(schema.classes)}
    return pd.DataFrame(columns)


def _item_names(found: Evaluation) -> list[str]:
    """Names of the columns of similarities: the id of the first row of each item."""
    return [found.ids[row] for row in own_columns(found.target)[1]]


def _found_items(found: Evaluation) -> pd.DataFrame:
    """What each query found: a row a query."""
    column, _ = own_columns(found.target)
    names = np.array(_item_names(found), dtype=object)
    best, rows = found.probabilities.argmax(-1), np.arange(len(found.ids))
    return pd.DataFrame(
        {
            "id": found.ids,
            "item": names[column],
            "prediction": names[best],
            "similarity": found.probabilities[rows, best],
            "similarity_of_item": found.probabilities[rows, column],
            "rank": ranks(found.probabilities, found.target).query,
        }
    )
