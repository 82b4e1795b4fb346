"""The kind of a column of features, told from its cells."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.data.media.files import kind_of
from polymodal.data.table import Table
from polymodal.errors import InputError

__all__ = ["check_cells", "infer_kind", "to_numbers"]

NOT_A_NUMBER = frozenset(("na", "n/a", "nan", "null", "none", "?", ""))
PATH = re.compile(r"(?:.*[/\\])?[^\s/\\]+\.[A-Za-z0-9]{1,5}")


def to_numbers(cells: NDArray[np.object_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cells as numbers.

    Returns:
        (N,) values, NaN where a cell is missing or says so in words ("NA", "null"); (N,) bool, true where a cell is
        neither a number nor missing, or is infinite.
    """
    values = np.full(len(cells), np.nan)
    wrong = np.zeros(len(cells), dtype=bool)
    for i, cell in enumerate(cells):
        if cell is None or (isinstance(cell, str) and cell.strip().lower() in NOT_A_NUMBER):
            continue
        # Python reads "1_000" as a thousand; in a table it is more likely a name.
        with suppress(TypeError, ValueError):
            values[i] = np.nan if isinstance(cell, str) and "_" in cell else float(cell)
        wrong[i] = not np.isfinite(values[i])
    return values, wrong


def infer_kind(table: Table, column: str) -> tuple[str | None, str]:
    """(kind, what it was told from), or (None, why the column is of no use)."""
    cells = table.cells(column)
    there = cells[~table.missing(column)]
    if not len(there):
        return None, "every cell is empty"
    if all(_is_list(cell) for cell in there):
        return ("vector", "lists of numbers") if _numbers_inside(there[0]) else (None, "lists that hold no numbers")
    if not all(isinstance(cell, (str, bool, int, float, np.number, np.bool_)) for cell in there):
        return None, f"cells of type {type(there[0]).__name__}; write them as text or numbers"
    distinct = {str(cell) for cell in there}
    if len(distinct) == 1 and len(table) > 1 and len(there) == len(cells):
        return None, f"every cell is {_short(there[0])}"
    if isinstance(there[0], (bool, np.bool_)):
        return "categorical", "true or false"
    numbers, wrong = to_numbers(cells)
    if not wrong.any() and np.isfinite(numbers).any():
        return "numeric", "numbers"
    return _infer_text_kind([str(cell) for cell in there], len(distinct))


def _infer_text_kind(cells: list[str], distinct: int) -> tuple[str | None, str]:
    kinds = [kind_of(cell) for cell in cells]
    for kind in ("image", "audio", "video"):
        if kinds.count(kind) >= 0.9 * len(cells):
            return kind, f"paths such as {_short(cells[0])}"
    if sum(bool(PATH.fullmatch(cell.strip())) for cell in cells) >= 0.9 * len(cells):
        return None, f"looks like paths ({_short(cells[0])}) to files of no one known media kind"
    if distinct == len(cells) > 1:
        return None, "every value is different, as in an identifier; use it with --modality NAME=COLUMN:text"
    words = sum(len(cell.split()) for cell in cells) / len(cells)
    if distinct <= 1000 and len(cells) >= distinct * (2 if words < 3 else 10):
        return "categorical", f"{distinct} different values"
    return "text", f"{words:.1f} words a cell"


def check_cells(table: Table, column: str, kind: str) -> None:
    """Raise if the cells of `column` cannot be of the `kind` that the user asked for.

    Raises:
        InputError: names the column, the first rows that do not fit, and what was expected.
    """
    cells = table.cells(column)
    if table.missing(column).all():
        raise InputError(f"{table.source}: every cell of column {column!r} is empty; leave it out")
    if kind == "numeric":
        wrong, expected = to_numbers(cells)[1], "a finite number"
    elif kind == "vector":
        wrong = np.array([cell is not None and not _is_list(cell) and not _is_file(cell) for cell in cells])
        expected = "a list of numbers (Parquet or JSON lines), or the path of a .npy file"
    else:
        media = kind in ("image", "audio", "video")
        wrong = np.array(
            [not isinstance(cell, str) if media and cell is not None else _is_list(cell) for cell in cells]
        )
        expected = "the path of a file" if media else "text"
    rows = np.flatnonzero(wrong)
    if len(rows):
        where = table.places(rows)
        raise InputError(
            f"{table.source}: column {column!r} is to be {kind}, so each cell must be {expected}, but in {where} it is "
            f"not: {_short(cells[rows[0]])}; correct these cells or choose another kind"
        )


def _is_list(cell: Any) -> bool:
    return isinstance(cell, (list, tuple, np.ndarray))


def _is_file(cell: Any) -> bool:
    return isinstance(cell, str) and cell.strip().endswith(".npy")


def _numbers_inside(cell: Any) -> bool:
    while _is_list(cell) and len(cell):
        cell = cell[0]
    return not isinstance(cell, str)


def _short(cell: Any) -> str:
    text = repr(cell)
    return text if len(text) <= 40 else text[:37] + "..."
