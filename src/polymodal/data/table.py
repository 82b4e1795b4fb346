"""Reading a table of samples: CSV, TSV, JSON lines, Parquet or a pandas frame."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polymodal import names
from polymodal.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Table", "nearest", "read_table"]

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(eq=False)
class Table:
    """Samples as rows.

    Attributes:
        frame: the cells; those of CSV and TSV are strings, an empty one is None.
        root: folder that relative paths in the cells start from.
        source: the file's name as the user typed it, or "table"; every message about the table starts with it.
        lines: (N,) line of each row in the file, where the file has lines.
        classes: by label column, the classes in the order of the data's owner; without, they are sorted.
        notes: what a reader did to the owner's files, for people.
    """

    frame: pd.DataFrame
    root: Path
    source: str
    lines: NDArray[np.int64] | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    _cells: dict[str, NDArray[np.object_]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def columns(self) -> list[str]:
        return [str(name) for name in self.frame.columns]

    def cells(self, column: str) -> NDArray[np.object_]:
        """(N,) cells of `column`, None where a cell is missing.

        Raises:
            InputError: there is no such column; the message names the nearest.
        """
        if column not in self._cells:
            if column not in self.frame.columns:
                raise InputError(f"{self.source}: no column {column!r}{nearest(column, self.columns)}")
            cells = self.frame[column].to_numpy(dtype=object, copy=True)
            cells[[is_missing(cell) for cell in cells]] = None
            self._cells[column] = cells
        return self._cells[column]

    def missing(self, column: str) -> NDArray[np.bool_]:
        """(N,) true where the cell of `column` is missing."""
        return np.array([cell is None for cell in self.cells(column)], dtype=bool)

    def place(self, row: int) -> str:
        """Where row `row` (from 0) is, for messages: rows are counted from 1 without the header."""
        line = "" if self.lines is None else f" (line {self.lines[row]})"
        return f"row {row + 1}{line}"

    def places(self, rows: Iterable[int], limit: int = 5) -> str:
        """The first `limit` of `rows` by place, and how many more there are."""
        found = list(rows)
        more = f" and {len(found) - limit} more" if len(found) > limit else ""
        return ", ".join(self.place(int(row)) for row in found[:limit]) + more


def is_missing(cell: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, NaT or an empty string (the text "NA" is a value)."""
    if cell is None or (isinstance(cell, str) and cell == ""):
        return True
    return not isinstance(cell, (list, tuple, np.ndarray)) and bool(cell != cell)


def nearest(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: the nearest known one, and all of them if they are few."""
    found = list(known)
    shown = ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
    return names.nearest(name, found) + (f" (there are: {shown})" if found else "")


def read_table(source: str | Path | pd.DataFrame | Table, root: Path | None = None) -> Table:
    """Read a table of samples; what the cells mean is `schema.infer`'s business.

    Args:
        source: path of a .csv, .tsv, .jsonl or .parquet file, or a pandas frame; a table is handed back.
        root: folder that relative paths in cells start from; default the table's folder, for a frame the current one.

    Raises:
        InputError: the file is missing, unreadable, of another type, or has no rows; a row has more or fewer cells
            than the header; two columns share a name.
    """
    if isinstance(source, Table):
        return source
    if not isinstance(source, (str, Path)):
        return _table(source.reset_index(drop=True), root or Path.cwd(), "table")
    path, name = Path(source), str(source)
    if not path.is_file():
        what = "is a folder, not a table" if path.is_dir() else "no such file"
        raise InputError(f"{name}: {what}; give a table with one row a sample ({', '.join(SUFFIXES)})")
    root = root or path.parent
    suffix = path.suffix.lower()
    if path.stat().st_size == 0:
        raise InputError(f"{name}: the file is empty; a table has a header and one row a sample")
    if suffix == ".parquet":
        return _table(_read_parquet(path, name), root, name)
    if suffix not in SUFFIXES:
        raise InputError(f"{name}: unknown kind of table {path.suffix!r}; expected one of {', '.join(SUFFIXES)}")
    reader = _read_jsonl if suffix == ".jsonl" else _read_delimited
    try:
        frame, lines = reader(path, name)
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8 text (byte {error.start}); save the table with UTF-8 encoding") from None
    return _table(frame, root, name, lines)


def _table(frame: pd.DataFrame, root: Path, source: str, lines: Sequence[int] | None = None) -> Table:
    frame.columns = [str(name) for name in frame.columns]
    _check_header(list(frame.columns), source)
    if not len(frame):
        raise InputError(f"{source}: the table has no rows; it needs one row a sample below the header")
    return Table(frame, Path(root), source, None if lines is None else np.asarray(lines))


def _check_header(names: Sequence[str], source: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{source}: duplicate column name {', '.join(map(repr, twice))}; rename or remove one")
    if "" in names:
        number = list(names).index("") + 1
        raise InputError(f"{source}: column {number} has no name in the header; name or remove it")


def _read_delimited(path: Path, source: str) -> tuple[pd.DataFrame, list[int]]:
    # Not pandas' reader: it fills rows that are too short with missing cells and takes the first column of rows that
    # are too long as an index, both without a word.
    import pandas as pd

    rows: list[list[str | None]] = []
    lines: list[int] = []
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        header_line = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=_delimiter(path, header_line), strict=True)
        line = 1
        try:
            header: list[str] = []
            for cells in reader:
                start, line = line, reader.line_num + 1
                if not cells:
                    continue
                if not header:
                    header = [name.strip() for name in cells]
                    _check_header(header, source)
                    continue
                if len(cells) != len(header):
                    raise InputError(
                        f"{source}, row {len(rows) + 1} (line {start}): {len(cells)} cells, but the header names "
                        f"{len(header)} columns; quote cells that hold the delimiter, or fill the missing ones"
                    )
                rows.append([cell or None for cell in cells])
                lines.append(start)
        except csv.Error as error:
            remedy = "check its quotes and its encoding"
            raise InputError(f"{source}, row {len(rows) + 1} (line {line}): {error}; {remedy}") from None
    return pd.DataFrame(rows, columns=pd.Index(header), dtype=object), lines


def _delimiter(path: Path, header: str) -> str:
    """Tab for TSV; for CSV a comma, unless the header has none and has semicolons or tabs (spreadsheets write both)."""
    if path.suffix.lower() == ".tsv" or ("," not in header and "\t" in header):
        return "\t"
    return ";" if "," not in header and ";" in header else ","


def _read_jsonl(path: Path, source: str) -> tuple[pd.DataFrame, list[int]]:
    import pandas as pd

    rows, lines = [], []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{source}, line {number}: not JSON ({error}); write one object a line") from None
            if not isinstance(row, dict):
                raise InputError(f"{source}, line {number}: a {type(row).__name__}; write one JSON object a line")
            rows.append(row)
            lines.append(number)
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(name) for name in names] for row in rows]
    return pd.DataFrame(cells, columns=pd.Index(names), dtype=object), lines


def _read_parquet(path: Path, source: str) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path).reset_index(drop=True)
    except Exception as error:  # pyarrow has many kinds, all of them mean the same to the user
        reason = str(error).split("\n")[0][:200]
        raise InputError(f"{source}: not a readable Parquet file ({reason}); write it again") from None
