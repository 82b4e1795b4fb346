"""Looking into a table before training: what is in it, what is broken, and what crosses the splits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polymodal.data.decoding import Broken
from polymodal.data.facts import Facts, facts_of
from polymodal.data.labels import infer_label, labels_of
from polymodal.data.schema import SPLIT_NAMES, Modality, find_modalities
from polymodal.data.table import Table, read_table
from polymodal.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Check", "Column", "Crossing", "check_table"]

SHOWN = 5


@dataclass(frozen=True)
class Column:
    """One modality: its columns and kind, the cells that are there, the distinct files or values, and `ranges`.

    `ranges` are (least, median, largest) by what is measured: "pixels high", "seconds", "words", ...; `rates` counts
    samples by sampling rate in Hz or frames a second.
    """

    name: str
    columns: tuple[str, ...]
    kind: str
    cells: int
    distinct: int
    ranges: dict[str, tuple[float, float, float]]
    rates: dict[float, int]


@dataclass(frozen=True)
class Crossing:
    """The same content, or the same group, in more than one part of the split.

    Attributes:
        what: modality or column.
        count: how many contents, or groups, cross.
        samples: rows that hold them.
        parts: those parts between which they lie.
        places: rows of the first, for people.
    """

    what: str
    count: int
    samples: int
    parts: tuple[str, ...]
    places: str


@dataclass(frozen=True)
class Check:
    """What a table holds; `notes` say what was inferred, `problems` what will stop training.

    Attributes:
        source: of the table.
        parts: samples of each part of the split; "all" where there is no split column.
        columns: the modalities.
        classes: samples of each class in each part; empty without a label, or for a regression.
        values: (least, median, largest) label in each part of a regression.
        duplicates: contents that lie in more than one part.
        repeated: distinct contents of each modality that more than one row has, wherever they lie.
        groups: groups that lie in more than one part.
        broken: samples that cannot be decoded, by row.
    """

    source: str
    parts: dict[str, int]
    columns: list[Column]
    classes: dict[str, dict[str, int]]
    values: dict[str, tuple[float, float, float]]
    duplicates: list[Crossing]
    repeated: dict[str, int]
    groups: list[Crossing]
    broken: list[Broken]
    problems: list[str]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {
            "columns": [vars(one) | {"columns": list(one.columns)} for one in self.columns],
            "duplicates": [vars(one) for one in self.duplicates],
            "groups": [vars(one) for one in self.groups],
            "broken": [one._asdict() | {"row": one.row + 1} for one in self.broken],
        }

    def text(self) -> str:
        """One page of plain text."""
        lines = [f"{self.source}: " + ", ".join(f"{n} {part}" for part, n in self.parts.items()) + " samples", ""]
        lines += [_line(one, sum(self.parts.values()), self.repeated.get(one.name, 0)) for one in self.columns]
        lines += ["", *_balance(self.classes)] if self.classes else []
        lines += [f"label     {part}: {_range(one)}" for part, one in self.values.items()]
        for title, found in (("duplicates", self.duplicates), ("groups", self.groups)):
            lines += [""] * bool(found) + [
                f"{title} cross {' and '.join(one.parts)}: {one.count} of {one.what} in {one.samples} samples, the first in "
                f"{one.places}"
                for one in found
            ]
        if self.broken:
            rows = len({one.row for one in self.broken})
            lines += ["", f"{rows} broken samples:", *(f"  {one}" for one in self.broken[:20])]
            lines += [f"  and {len(self.broken) - 20} more"] if len(self.broken) > 20 else []
        lines += [""] * bool(self.problems) + [f"problem: {one}" for one in self.problems]
        lines += [""] * bool(self.notes) + [f"note: {one}" for one in self.notes]
        clean = not (self.broken or self.problems or self.duplicates or self.groups)
        return "\n".join([*lines, *(["", "Nothing is broken, and nothing crosses the split."] if clean else [])])


def check_table(
    source: str | Path | pd.DataFrame | Table,
    *,
    label: str | None = None,
    modalities: Sequence[str] = (),
    task: str = "auto",
    split: str | None = None,
    group: str | None = None,
    id: str | None = None,
    separator: str | None = None,
    workers: int | None = None,
    show: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Check:
    """Read every file of a table once, and tell what is in it; nothing is trained or written.

    Args:
        source: path of the table, a pandas frame or a table that was read.
        label: label column; without it there is no class balance, and the column may be inferred as a modality.
        modalities: "NAME=COLUMN:KIND" each; inferred from the cells by default.
        task: of the label; told from its cells by default.
        split: column that says train, valid or test; default the column "split", if it says that.
        group: column whose equal cells should not be divided between parts.
        id: column that names samples; default "id".
        separator: what stands between several labels in one cell.
        workers: threads that decode; default one a processor, 0 for none.
        show: force the progress bar on or off; by default it shows on a terminal.
        progress: called with the number of files that were read and their total.

    Raises:
        InputError: no readable table, an unknown column or kind. Broken files, labels and splits are reported instead.
    """
    table = read_table(source)
    for column in filter(None, (label, split, group, id)):
        table.cells(column)
    split = split or ("split" if "split" in table.columns and label != "split" and _says_split(table) else None)
    id = id or ("id" if "id" in table.columns and label != "id" else None)
    chosen, notes = find_modalities(table, modalities, label, {one for one in (id, split, group) if one})
    notes = [*table.notes, *notes]
    problems: list[str] = (
        [] if chosen else ["no column can be used as a modality; name one with --modality NAME=COLUMN:KIND"]
    )
    parts = _parts(table, split, problems)
    if split is None:
        notes.append(
            "no split column: rows are divided at random, so repeated contents may lie in two parts; see --group"
        )
    classes: dict[str, dict[str, int]] = {}
    values: dict[str, tuple[float, float, float]] = {}
    if label is not None:
        try:
            kind = infer_label(table, label, task=task, separator=separator)
            notes.append(kind.note)
            classes, values = _labels(table, label, kind.task, kind.classes, kind.separator, parts, problems)
        except InputError as error:
            problems.append(str(error))
    columns, duplicates, repeated, broken = [], [], {}, []
    found = facts_of(table, chosen, workers=workers, show=show, progress=progress)
    for name, modality in chosen.items():
        columns.append(_column(table, modality, found[name]))
        broken += [Broken(i, table.place(i), name, one) for i, one in enumerate(found[name].errors) if one]
        rows = _same(found[name].contents)
        repeated[name] = len(rows)
        duplicates += _crossings(table, name, rows, parts)
    groups = [] if group is None else _crossings(table, group, _same(table.cells(group)), parts)
    if group is not None and table.missing(group).any():
        problems.append(f"group column {group!r} is empty in {table.places(np.flatnonzero(table.missing(group)))}")
    sizes = Counter(parts) if split else {"all": len(table)}
    order = {part: sizes[part] for part in ("all", "train", "valid", "test", "?") if sizes.get(part)}
    return Check(
        table.source, order, columns, classes, values, duplicates, repeated, groups, sorted(broken), problems, notes
    )  # fmt: skip


def _says_split(table: Table) -> bool:
    return any(isinstance(cell, str) and cell.strip().lower() in SPLIT_NAMES for cell in table.cells("split"))


def _parts(table: Table, split: str | None, problems: list[str]) -> list[str]:
    """(N,) part of each row: "all" without a split column, "?" where it says something else."""
    if split is None:
        return ["all"] * len(table)
    parts = [SPLIT_NAMES.get(str(cell).strip().lower(), "?") for cell in table.cells(split)]
    wrong = [i for i, part in enumerate(parts) if part == "?"]
    if wrong:
        problems.append(f"column {split!r} says neither train, valid nor test in {table.places(wrong)}")
    if "train" not in parts:
        problems.append(f"no row is marked 'train' in column {split!r}")
    return parts


def _labels(
    table: Table,
    label: str,
    task: str,
    names: Sequence[str],
    separator: str | None,
    parts: Sequence[str],
    problems: list[str],
) -> tuple[dict[str, dict[str, int]], dict[str, tuple[float, float, float]]]:
    cells: dict[str, list[Any]] = defaultdict(list)
    for part, cell in zip(parts, table.cells(label), strict=True):
        cells[part].append(cell)
    if task == "regression":
        return {}, {part: _spread([float(cell) for cell in found]) for part, found in cells.items()}
    if task == "retrieval":
        return {}, {}
    classes = {}
    for part, found in cells.items():
        count = Counter(one for cell in found for one in labels_of(cell, task, separator))
        classes[part] = {name: count[name] for name in names}
    for part, count_of in classes.items():
        new = [name for name, n in count_of.items() if n and not classes.get("train", count_of)[name]]
        if new:
            problems.append(f"classes {', '.join(map(repr, new[:SHOWN]))} occur in the {part} part and not in training")
    return classes, {}


def _column(table: Table, modality: Modality, found: Facts) -> Column:
    measured: dict[str, list[float]] = defaultdict(list)
    rates: Counter[float] = Counter()
    for one in found.measures:
        for name, value in one.items():
            if name == "rate":
                rates[value] += 1
            else:
                measured[name].append(value)
    return Column(
        modality.name,
        modality.columns,
        modality.kind,
        sum(found.there),
        len({one for one in found.contents if one is not None}),
        {name: _spread(values) for name, values in measured.items()},
        dict(rates.most_common()),
    )


def _same(contents: Iterable[Any]) -> list[list[int]]:
    """Rows of each content that more than one row has."""
    rows: dict[Any, list[int]] = defaultdict(list)
    for row, content in enumerate(contents):
        if content is not None:
            rows[content if isinstance(content, bytes) else str(content)].append(row)
    return [found for found in rows.values() if len(found) > 1]


def _crossings(table: Table, what: str, same: Sequence[Sequence[int]], parts: Sequence[str]) -> list[Crossing]:
    crossing: dict[tuple[str, ...], list[Sequence[int]]] = defaultdict(list)
    for rows in same:
        between = tuple(part for part in ("train", "valid", "test") if any(parts[row] == part for row in rows))
        if len(between) > 1:
            crossing[between].append(rows)
    return [
        Crossing(what, len(found), sum(map(len, found)), between, table.places(found[0]))
        for between, found in crossing.items()
    ]


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return float(min(values)), float(np.median(values)), float(max(values))


def _range(one: tuple[float, float, float]) -> str:
    least, middle, most = one
    return f"{least:.4g}" if least == most else f"{least:.4g} to {most:.4g} (median {middle:.4g})"


def _line(one: Column, samples: int, repeated: int) -> str:
    what = [f"{one.name:12} {one.kind} from {', '.join(one.columns)}"]
    what += [f"{name} {_range(value)}" for name, value in one.ranges.items()]
    if one.rates:
        rates = ", ".join(
            f"{rate:.5g}" + (f" ({n})" if len(one.rates) > 1 else "") for rate, n in list(one.rates.items())[:SHOWN]
        )
        what.append(f"{'Hz' if one.kind == 'audio' else 'frames a second'} {rates}")
    if one.cells < samples:
        what.append(f"lacking in {samples - one.cells}")
    if repeated:
        what.append(f"{repeated} contents in more than one row")
    return "; ".join(what)


def _balance(classes: Mapping[str, Mapping[str, int]]) -> list[str]:
    lines = []
    for part, count in classes.items():
        ordered = sorted(count.items(), key=lambda item: -item[1])
        shown = ordered if len(ordered) <= 12 else [*ordered[:6], *ordered[-6:]]
        names = [f"{name} {n}" for name, n in shown]
        if len(ordered) > 12:
            names.insert(6, f"... ({len(ordered) - 12} more)")
        lines.append(f"{part:12} " + ", ".join(names))
    return lines
