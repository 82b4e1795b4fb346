"""Which runs the cells of an experiment file need, and the figures that were found for each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polymodal.errors import InputError
from polymodal.experiment.figures import Measured, figure_of, summarise
from polymodal.experiment.file import Cell, Experiment, Row
from polymodal.experiment.fingerprints import fingerprint
from polymodal.experiment.mini import Miniatures
from polymodal.names import nearest

__all__ = ["Sources", "Table", "plan", "rivals"]

OTHER_ROW = "row:"
"""Begins a setting `start_from` that names another row of the file, whose run this one begins with."""


class Sources:
    """Where the tables of a file's data sets are: below one folder, or miniatures of them.

    Args:
        experiment: the file.
        root: folder with a folder a data set, named as in `polymodal list datasets`.
        mini: makes miniatures instead.

    Raises:
        InputError: neither or both are given.
    """

    def __init__(self, experiment: Experiment, root: Path | None, mini: Miniatures | None) -> None:
        if (root is None) == (mini is None):
            raise InputError("say where the data sets are with --data ROOT, or take made-up ones with --mini")
        self.experiment, self.root, self.mini = experiment, root, mini

    def table(self, name: str, seed: int = 0) -> str:
        """What `polymodal fit` would be given for a data set of the file in a run of that seed.

        Raises:
            InputError: the root lacks it.
        """
        one = self.experiment.data[name]
        if self.mini is not None:
            return self.mini.table(name, one, seed)
        assert self.root is not None
        if one.table is not None:
            path = self.root / one.table
            if not path.is_file():
                raise InputError(
                    f"{name}: no table {path}; {one.note or 'put it there'}, or leave the set out with --sets"
                )
            return str(path)
        if one.source is None:
            raise InputError(f"data set {name!r} of the file has neither a source nor a table")
        reader = one.source.partition("/")[0]
        folder = self.root / reader
        if not folder.is_dir():
            raise InputError(
                f"{name}: --data {self.root} has no folder {reader}; `polymodal data fetch-help {reader}` says what belongs "
                "there; leave the set out with --sets, or try the file with --mini"
            )
        return f"{one.source_of(seed)}:{folder}"


@dataclass
class Table:
    """What is to be run for a file's cells, and what was found.

    Attributes:
        experiment: the file.
        cells: in the file's order.
        seeds: of each cell.
        runs: settings of each distinct run by its fingerprint; one that begins with another comes after it.
        of: fingerprint of a row's run on a data set by seed.
        probes: fingerprints of runs whose encoders are probed.
        found: what `measure` said of each run.
        failed: messages of those that could not be run.
    """

    experiment: Experiment
    cells: list[Cell]
    seeds: Sequence[int]
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    of: dict[tuple[str, str, int], str] = field(default_factory=dict)
    probes: set[str] = field(default_factory=set)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def named(self, key: str) -> str:
        """The first cell that uses a run."""
        row, name, seed = next(place for place, one in self.of.items() if one == key)
        return f"{row} on {name}, seed {seed}"

    def figures(self, cell: Cell, metric: str) -> Measured:
        """A metric of a cell over the seeds whose runs are there.

        Raises:
            InputError: the runs do not have that metric.
        """
        return summarise([self._on(cell.row, name, metric) for name in cell.sets])

    def _on(self, row: Row, name: str, metric: str) -> Measured:
        keys = {seed: self.of.get((row.label, name, seed)) for seed in self.seeds}
        return Measured(
            {
                seed: figure_of(self.found[key], metric, row.measure)
                for seed, key in keys.items()
                if key is not None and "diverged" not in self.found.get(key, {"diverged": ""})
            }
        )


def plan(experiment: Experiment, cells: list[Cell], seeds: Sequence[int], sources: Sources) -> Table:
    """Which runs the cells need; cells that share settings share runs.

    Raises:
        InputError: a data set that is not there, or settings that are wrong: nothing is run then.
    """
    table = Table(experiment, cells, seeds)
    for cell in cells:
        if cell.row.settings is None or cell.row.measure in ("fact", "cost"):
            continue
        for name in cell.sets:
            for seed in seeds:
                for rival in rivals(table, cell):
                    _add(table, rival, name, seed, sources)
                key = _add(table, cell.row, name, seed, sources)
                if cell.row.measure.startswith("probe"):
                    table.probes.add(key)
    return table


def _add(table: Table, row: Row, name: str, seed: int, sources: Sources, seen: tuple[str, ...] = ()) -> str:
    """Note the run of a row on a data set, after those that it begins with, and return its fingerprint."""
    place = (row.label, name, seed)
    if place in table.of:
        return table.of[place]
    where = f"{table.experiment.paper} {table.experiment.table}, row {row.label!r} on {name}"
    if row.label in seen:
        raise InputError(f"{where}: begins with itself, by way of {' and '.join(seen)}")
    try:
        values = table.experiment.settings(Cell(row, name, {}), name)
        values |= {"table": sources.table(name, seed), "seed": seed}
        if sources.mini is not None:
            values = sources.mini.shrunk(values)
        begin = values.get("recipe", {}).get("start_from") if isinstance(values.get("recipe"), Mapping) else None
        if isinstance(begin, str) and begin.startswith(OTHER_ROW):
            other, _, data = begin.removeprefix(OTHER_ROW).rpartition("@")
            rows = {one.label: one for one in table.experiment.rows}
            if other not in rows or data not in table.experiment.data:
                raise InputError(f"start_from {begin!r}: write row:LABEL@DATA SET{nearest(other, rows)}")
            before = _add(table, rows[other], data, seed, sources, (*seen, row.label))
            values["recipe"] = {**values["recipe"], "start_from": f"run:{before}"}
        key = fingerprint(values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    table.of[place] = key
    table.runs.setdefault(key, values)
    return key


def rivals(table: Table, cell: Cell) -> list[Row]:
    """The rows that a gain is over: those of the same backbone and data set; none for another measure."""
    return [
        one
        for one in table.experiment.rows
        if cell.row.measure == "gain"
        and one.backbone == cell.row.backbone
        and one.measure == "fused"
        and one.settings is not None
        and cell.data in one.published
    ]
