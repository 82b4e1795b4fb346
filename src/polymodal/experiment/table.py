"""The runner of an experiment file: which runs its cells need, training what is missing, and the figures of every cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polymodal.errors import Diverged, InputError
from polymodal.experiment.claims import Claims
from polymodal.experiment.costs import costs
from polymodal.experiment.facts import facts
from polymodal.experiment.figures import Measured, figure_of, summarise
from polymodal.experiment.file import Cell, Experiment, Row, read_experiment
from polymodal.experiment.mini import Miniatures
from polymodal.experiment.page import write
from polymodal.experiment.results import Line, Results
from polymodal.experiment.runs import fingerprint, measure
from polymodal.names import nearest
from polymodal.run import logger

__all__ = ["Sources", "Table", "plan", "run_table"]

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

    def table(self, name: str) -> str:
        """What `polymodal fit` would be given for a data set of the file.

        Raises:
            InputError: the root lacks it.
        """
        one = self.experiment.data[name]
        if self.mini is not None:
            return self.mini.table(name, one)
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
        return f"{one.source}:{folder}"


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
                for rival in _rivals(table, cell):
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
        values |= {"table": sources.table(name), "seed": seed}
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


def run_table(
    file: Path,
    *,
    data: Path | None = None,
    mini: bool = False,
    rows: str | None = None,
    sets: tuple[str, ...] = (),
    seeds: Sequence[int] | None = None,
    out: Path = Path("tables"),
    show: bool | None = None,
    measure: Callable[..., dict[str, Any]] = measure,
) -> Results:
    """Train what an experiment file's cells lack, and put its figures beside the published ones.

    Several processes may work on the same folder at once: each takes runs that no other has. A run that fails leaves its
    cells empty; the others are run, and the error comes at the end.

    Args:
        file: the experiment file.
        data: folder that holds the data sets.
        mini: take miniatures and small encoders instead.
        rows: pattern of row labels.
        sets: data sets.
        seeds: instead of the file's.
        out: folder that tables share: its `runs` are reused by every cell with the same settings.
        show: force progress bars on or off.
        measure: trains one run.

    Raises:
        InputError: a wrong file, row, set or setting, before anything is run; or what made runs fail, after the others.
    """
    experiment = read_experiment(file)
    cells = experiment.cells(rows, sets)
    small = Miniatures(out / "miniatures") if mini else None
    sources = Sources(experiment, data, small)
    table = plan(experiment, cells, tuple(seeds or experiment.seeds), sources)
    claims = Claims(out)
    began, total = time.perf_counter(), len(table.runs)
    missing = [key for key in table.runs if claims.result(key) is None]
    logger.info("%d runs, %d of them done", total, total - len(missing), extra={"note": True})

    def train(key: str) -> dict[str, Any]:
        values = dict(table.runs[key])
        begin = values.get("recipe", {}).get("start_from") if isinstance(values.get("recipe"), Mapping) else None
        if isinstance(begin, str) and begin.startswith("run:"):
            values["recipe"] = {**values["recipe"], "start_from": str(out / "runs" / begin.removeprefix("run:"))}
        try:
            return measure(values, out / "runs" / key, probe=key in table.probes, show=show)
        except Diverged as error:
            return {"diverged": str(error)}
        except InputError as error:
            table.failed[key] = str(error)
            raise

    def told(key: str, found: Mapping[str, Any]) -> None:
        table.found[key] = dict(found)
        if key not in missing:
            return
        left = sum(one not in table.found for one in missing)
        spent, done = time.perf_counter() - began, len(missing) - left
        ahead = f", about {spent / done * left / 60:.0f} min left" if done > 0 and left else ""
        logger.info("%d of %d runs%s: %s", total - left, total, ahead, _named(table, key), extra={"note": True})

    error: InputError | None = None
    try:
        for group in _in_order(table):
            claims.work(group, train, found=told)
    except InputError as raised:
        error = raised
    _probe_later(table, claims, out, measure)
    runs = {place: out / "runs" / key for place, key in table.of.items()}
    results = Results(experiment, _lines(table, sources), out, mini=mini, runs=runs)
    write(results)
    if error is not None:
        raise InputError(f"{_told(table) or error}; the other cells are in {results.markdown}") from error
    return results


def _told(table: Table) -> str:
    """What went wrong, each message once, with the first run that it stopped and how many more."""
    runs: dict[str, list[str]] = {}
    for key, message in table.failed.items():
        runs.setdefault(message, []).append(_named(table, key))
    told = [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {message}"
        for message, names in runs.items()
    ]
    return f"{len(table.failed)} of {len(table.runs)} runs failed. " + "; ".join(told) if told else ""


def _in_order(table: Table) -> list[list[str]]:
    """Runs that others begin with first."""
    before = {
        str(values["recipe"]["start_from"]).removeprefix("run:")
        for values in table.runs.values()
        if isinstance(values.get("recipe"), Mapping) and values["recipe"].get("start_from")
    }
    first = [key for key in table.runs if key in before]
    return [first, [key for key in table.runs if key not in before]]


def _probe_later(table: Table, claims: Claims, out: Path, measure: Callable[..., dict[str, Any]]) -> None:
    """Probe runs that were finished before a cell asked for it."""
    for key in (one for one in table.runs if one in table.probes):
        if key in table.found and not {"probe", "diverged"} & set(table.found[key]):
            table.found[key] = measure(table.runs[key], out / "runs" / key, probe=True)


def _of_runs(table: Table, cell: Cell, metric: str) -> tuple[Measured, str]:
    """A metric of a cell's runs, and why there is none."""
    if cell.row.settings is None:
        return Measured({}), ""
    try:
        return table.figures(cell, metric), ""
    except InputError as error:
        return Measured({}), str(error)


def _trouble(table: Table, key: str) -> str:
    """Why a run has no figures; empty where it has."""
    return table.failed.get(key) or str(table.found.get(key, {}).get("diverged", ""))


def _rivals(table: Table, cell: Cell) -> list[Row]:
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


def _gain(table: Table, cell: Cell, metric: str) -> Measured:
    """Least or greatest accuracy in points that a row's run is ahead of the file's other rows of its backbone."""
    least = {"gain_points_min": min, "gain_points_max": max}.get(metric)
    if least is None:
        raise InputError(f"row {cell.row.label!r}: gain is gain_points_min or gain_points_max, not {metric!r}")

    def accuracy(row: Row) -> Mapping[int, float]:
        one = row.model_copy(update={"measure": "fused"})
        return table.figures(Cell(one, cell.data, {}), "top1").values

    own = accuracy(cell.row)
    others = [accuracy(one) for one in _rivals(table, cell)]
    gaps = {seed: [value - one[seed] for one in others if seed in one] for seed, value in own.items()}
    return Measured({seed: least(found) for seed, found in gaps.items() if found})


def _named(table: Table, key: str) -> str:
    """The first row that uses a run."""
    row, name, seed = next(place for place, one in table.of.items() if one == key)
    return f"{row} on {name}, seed {seed}"


def _lines(table: Table, sources: Sources) -> list[Line]:
    """Every published figure with what was measured of it."""
    lines = []
    for cell in table.cells:
        for metric, published in cell.published.items():
            note = ""
            if cell.row.measure == "fact":
                measured = Measured(
                    {0: v} if (v := facts(table.experiment, cell, metric, sources.table)) is not None else {}
                )
            elif cell.row.measure == "cost":
                measured = Measured(costs(cell.row.settings, metric))
            elif cell.row.measure == "gain":
                measured = _gain(table, cell, metric)
            else:
                measured, note = _of_runs(table, cell, metric)
                keys = [table.of.get((cell.row.label, name, seed)) for name in cell.sets for seed in table.seeds]
                note = next((text for key in keys if key is not None and (text := _trouble(table, key))), note)
            lines.append(Line(cell.row, cell.data, metric, published, measured, note))
    return lines
