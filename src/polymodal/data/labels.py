"""What a label column asks for: classes, several labels at once, or a number; and its cells as targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.columns import to_numbers
from polymodal.data.table import Table, nearest
from polymodal.errors import InputError

__all__ = ["LabelKind", "Labelled", "check_labels", "encode_labels", "infer_label", "labels_of"]

TASKS = ("classification", "multilabel", "regression", "retrieval")
FEW = 20
LIST = (list, tuple, np.ndarray)
MULTI_HOT = "multi-hot"


class LabelKind(NamedTuple):
    """What `infer_label` found; see `schema.Schema`."""

    task: str
    classes: tuple[str, ...]
    separator: str | None
    note: str


class Labelled(Protocol):
    """What the functions here need of a `schema.Schema`."""

    @property
    def label(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def separator(self) -> str | None: ...


def infer_label(table: Table, label: str, *, task: str = "auto", separator: str | None = None) -> LabelKind:
    """Tell the task from the cells of the label column.

    Text is classes; whole numbers with at most 20 values that repeat, or the digits 0-9, are classes; other numbers
    are a regression (retrieval is never told from cells); lists, or cells with a given separator, are several labels.

    Raises:
        InputError: an unknown task, a missing label, one class only, or cells that do not suit the task asked for.
    """
    if task not in ("auto", *TASKS):
        raise InputError(f"--task {task}: unknown task{nearest(task, ('auto', *TASKS))}")
    cells = table.cells(label)
    _require_labels(table, label, np.arange(len(table)), text_is_missing=task == "regression")
    lists = any(isinstance(cell, LIST) for cell in cells)
    why = "as asked for"
    if task == "auto":
        task, why = _task_of(cells, lists, separator)
    if task == "regression":
        _numbers(table, label, np.arange(len(table)))
        return LabelKind(task, (), None, f"label {label!r}: regression ({why})")
    if task == "retrieval" and not lists:
        items = len({_name(cell) for cell in cells})
        if items < 2:
            raise InputError(f"{table.source}: label column {label!r} names one item only; retrieval needs several")
        return LabelKind(task, (), None, f"label {label!r}: retrieval of {items} items ({why})")
    if lists and task != "multilabel":
        raise InputError(f"{table.source}: label column {label!r} holds lists, which need --task multilabel")
    separator = (
        (MULTI_HOT if _is_multi_hot(cells) else None) if lists else separator or "|" if task == "multilabel" else None
    )
    classes = _classes(table, label, task, separator)
    if len(classes) < 2:
        only = f"only one class, {classes[0]!r}" if classes else "no label at all"
        raise InputError(f"{table.source}: label column {label!r} has {only}; at least two classes are needed")
    return LabelKind(task, classes, separator, f"label {label!r}: {task} with {len(classes)} classes ({why})")


def _classes(table: Table, label: str, task: str, separator: str | None) -> tuple[str, ...]:
    """The classes of the label column: sorted, or in the order of the data's owner, those without a sample included."""
    known = table.classes.get(label)
    names: dict[str, int] = {}
    for row, cell in enumerate(table.cells(label)):
        for name in labels_of(cell, task, separator):
            names.setdefault(name, row)
    if known is None:
        return tuple(sorted(names, key=_order))
    for name, row in names.items():
        if name not in known:
            place = f"{table.source}, {table.place(row)}"
            raise InputError(f"{place}: unknown class {name!r} in {label!r}{nearest(name, known)}")
    return known


def labels_of(cell: Any, task: str, separator: str | None) -> list[str]:
    """Names of the classes in one cell: one of them unless the task is "multilabel"."""
    if task != "multilabel":
        return [_name(cell)]
    if isinstance(cell, LIST):
        items = list(cell)
        if len(items) > 1 and all(
            isinstance(one, (int, float, np.number, np.bool_)) and one in (0, 1) for one in items
        ):
            return [str(i) for i, one in enumerate(items) if one]  # multi-hot
        return [_name(one) for one in items]
    parts = _name(cell).split(separator) if separator else [_name(cell)]
    return [part.strip() for part in parts if part.strip()]


def encode_labels(table: Table, rows: NDArray[np.int64], schema: Labelled) -> Tensor:
    """Targets of `rows`: (N,) int64 classes, (N, C) float32 of 0 and 1 for several labels, (N,) float32 numbers.

    For retrieval (N,) int64 numbers of the items, in the order in which the whole table names them.

    Raises:
        InputError: a label is missing, is no number, or is a class that the schema does not have.
    """
    _require_labels(table, schema.label, rows, text_is_missing=schema.task == "regression")
    if schema.task == "regression":
        return torch.from_numpy(_numbers(table, schema.label, rows).astype(np.float32))
    cells = table.cells(schema.label)
    if schema.task == "retrieval":
        numbers: dict[str, int] = {}
        for cell in cells:
            if cell is not None:
                numbers.setdefault(_name(cell), len(numbers))
        return torch.tensor([numbers[_name(cells[row])] for row in rows], dtype=torch.int64)
    index = {name: i for i, name in enumerate(schema.classes)}
    hot = torch.zeros(len(rows), len(index))
    for n, row in enumerate(rows):
        for name in labels_of(cells[row], schema.task, schema.separator):
            if name not in index:
                place = f"{table.source}, {table.place(row)}"
                raise InputError(f"{place}: unknown class {name!r} in {schema.label!r}{nearest(name, index)}")
            hot[n, index[name]] = 1
    return hot if schema.task == "multilabel" else hot.argmax(1)


def check_labels(schema: Labelled, parts: Mapping[str, tuple[Table, NDArray[np.int64]]]) -> None:
    """Raise if the training part cannot teach the classes that another part asks for.

    Args:
        schema: label column and task.
        parts: "train", and "valid" and "test" where there are any: the table and its rows.

    Raises:
        InputError: a label is missing, the training part has one class only, or another part has a class that the
            training part lacks.
    """
    for table, rows in parts.values():
        _require_labels(table, schema.label, rows, text_is_missing=schema.task == "regression")
        if schema.task == "regression":
            _numbers(table, schema.label, rows)
    if schema.task == "regression":
        return
    if schema.task == "retrieval":
        for part, (table, rows) in parts.items():
            if len(rows) and len({_name(table.cells(schema.label)[row]) for row in rows}) < 2:
                raise InputError(f"{table.source}: the {part} part names one item only in {schema.label!r}; add others")
        return
    where = {part: _class_rows(table, rows, schema) for part, (table, rows) in parts.items()}
    known = where["train"]
    if len(known) < 2:
        names = ", ".join(map(repr, known))
        raise InputError(f"{parts['train'][0].source}: the training part has one class only ({names}); add others")
    for part, found in where.items():
        new = sorted(set(found) - set(known), key=_order)
        if new:
            table = parts[part][0]
            raise InputError(
                f"{table.source}: class {new[0]!r} of {schema.label!r} occurs in the {part} part "
                f"({table.places(found[new[0]])}) but not in the training part{_others(new)}; "
                "move some of its samples to the training part, or leave the class out"
            )


def _class_rows(table: Table, rows: NDArray[np.int64], schema: Labelled) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    cells = table.cells(schema.label)
    for row in rows:
        for name in labels_of(cells[row], schema.task, schema.separator):
            found.setdefault(name, []).append(int(row))
    return found


def _task_of(cells: NDArray[np.object_], lists: bool, separator: str | None) -> tuple[str, str]:
    if lists:
        return "multilabel", "lists of labels"
    if separator is not None:
        return "multilabel", f"several labels in a cell, separated by {separator!r}"
    if any(isinstance(cell, (bool, np.bool_)) for cell in cells):
        return "classification", "true or false"
    numbers, wrong = to_numbers(cells)
    if wrong.any() or np.isnan(numbers).any():
        return "classification", "text"
    values = np.unique(numbers)
    if (values != np.round(values)).any():
        return "regression", "numbers with fractions"
    digits = values[0] >= 0 and values[-1] <= 9
    if digits or (len(values) <= FEW and 2 * len(values) <= len(cells)):
        return "classification", f"whole numbers with {len(values)} values; --task regression if they are quantities"
    return "regression", f"whole numbers with {len(values)} values; --task classification if they are classes"


def _is_multi_hot(cells: NDArray[np.object_]) -> bool:
    """Lists of one length greater than 1, all of 0 and 1; lists of class numbers differ in length or in numbers."""
    if len({len(cell) for cell in cells if isinstance(cell, LIST)}) != 1 or len(cells[0]) < 2:
        return False
    return all(not isinstance(one, str) and one in (0, 1) for cell in cells for one in cell)


def _require_labels(table: Table, label: str, rows: NDArray[np.int64], *, text_is_missing: bool) -> None:
    cells = table.cells(label)
    empty = [int(row) for row in rows if cells[row] is None or (isinstance(cells[row], str) and not cells[row].strip())]
    if not empty and not text_is_missing:
        # A column of numbers with "nan" in it has missing labels; in a column of text "nan" is a class.
        numbers, wrong = to_numbers(cells)
        text_is_missing = not wrong.any() and bool(np.isfinite(numbers).any())
    if not empty and text_is_missing:
        numbers, wrong = to_numbers(cells)
        empty = [int(row) for row in rows if np.isnan(numbers[row]) and not wrong[row]]
    if empty:
        remedy = "fill them in or remove these rows"
        raise InputError(f"{table.source}: missing label in column {label!r}: {table.places(empty)}; {remedy}")


def _numbers(table: Table, label: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    numbers, wrong = to_numbers(table.cells(label))
    bad = rows[wrong[rows]]
    if len(bad):
        cell = table.cells(label)[bad[0]]
        raise InputError(
            f"{table.source}: label column {label!r} must hold finite numbers for a regression, but not in "
            f"{table.places(bad)}: {cell!r}; correct them or use --task classification"
        )
    return numbers[rows]


def _name(cell: Any) -> str:
    if isinstance(cell, (float, np.floating)) and float(cell).is_integer():
        cell = int(cell)  # an integer column with a missing cell elsewhere is read as floats
    return str(cell).strip()


def _order(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def _others(names: list[str]) -> str:
    return f" (and so do {len(names) - 1} other classes)" if len(names) > 1 else ""
