"""Every published figure of an experiment file with what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping

from polymodal.errors import InputError
from polymodal.experiment.costs import costs
from polymodal.experiment.facts import facts
from polymodal.experiment.figures import Measured
from polymodal.experiment.file import Cell, Row
from polymodal.experiment.plan import Sources, Table, rivals
from polymodal.experiment.results import Line

__all__ = ["lines_of"]


def lines_of(table: Table, sources: Sources) -> list[Line]:
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


def _gain(table: Table, cell: Cell, metric: str) -> Measured:
    """Least or greatest accuracy in points that a row's run is ahead of the file's other rows of its backbone."""
    least = {"gain_points_min": min, "gain_points_max": max}.get(metric)
    if least is None:
        raise InputError(f"row {cell.row.label!r}: gain is gain_points_min or gain_points_max, not {metric!r}")

    def accuracy(row: Row) -> Mapping[int, float]:
        one = row.model_copy(update={"measure": "fused"})
        return table.figures(Cell(one, cell.data, {}), "top1").values

    own = accuracy(cell.row)
    others = [accuracy(one) for one in rivals(table, cell)]
    gaps = {seed: [value - one[seed] for one in others if seed in one] for seed, value in own.items()}
    return Measured({seed: least(found) for seed, found in gaps.items() if found})
