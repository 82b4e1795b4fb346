"""Experiment files: one table or figure of a paper, its settings beside what was published."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from polymodal.config import laid, read_yaml
from polymodal.errors import InputError
from polymodal.names import nearest

__all__ = ["Cell", "DataSet", "Experiment", "Row", "read_experiment"]

Published = dict[str, dict[str, float | None]]
"""Data set -> metric -> the published figure; None where the paper only draws it."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DataSet(_Strict):
    """A data set of the file: where its table comes from, and what all of its runs share."""

    source: str | None = Field(None, description="DATASET/PRESET of `polymodal list datasets`, read below --data ROOT")
    by_seed: dict[str, list[int]] = Field(
        {}, description="options of the source that go with the seed, such as its folds: their values by turns"
    )
    table: str | None = Field(None, description="a table below --data ROOT instead")
    settings: dict[str, Any] = {}
    note: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.by_seed and (self.source is None or not all(self.by_seed.values())):
            raise ValueError("by_seed gives options of a source, each at least one value")
        return self

    def source_of(self, seed: int) -> str | None:
        """The source as a run of that seed reads it.

        Example:
            >>> [DataSet(source="cremad/mlb", by_seed={"fold": [1, 2, 3]}).source_of(seed) for seed in (0, 4)]
            ['cremad/mlb,fold=1', 'cremad/mlb,fold=2']
        """
        options = [f"{name}={values[seed % len(values)]}" for name, values in self.by_seed.items()]
        return None if self.source is None else ",".join([self.source, *options])


class Row(_Strict):
    """One row of the table: which runs, which of their figures, and what the paper prints."""

    row: str
    backbone: str = ""
    modality: str = ""
    measure: str = Field("fused", description="fused, alone:MODALITY, probe:MODALITY, gain, fact or cost")
    settings: dict[str, Any] | None = Field(
        {}, description="laid over those of the file and the data set; null: no run"
    )
    sets: dict[str, dict[str, Any]] = Field({}, description="settings on one data set alone")
    published: Published
    note: str = ""

    @property
    def label(self) -> str:
        """What names the row in tables and for --rows."""
        return " / ".join(part for part in (self.row, self.backbone, self.modality) if part)


class Experiment(_Strict):
    """A whole file."""

    paper: str
    table: str
    title: str
    note: str = Field("", description="what the paper does not say and what we chose")
    against: str | None = Field(
        None, description="label of the row that the others are compared with; the first by default"
    )
    over: str | None = Field(None, description="setting that figures are drawn over, e.g. recipe.rank")
    show: list[Literal["reliability", "agreement", "coefficients"]] = Field([], description="pictures of the runs")
    seeds: list[int] = [0, 1, 2]
    defaults: dict[str, Any] = {}
    data: dict[str, DataSet] = {}
    rows: list[Row]

    def cells(self, rows: str | None = None, sets: tuple[str, ...] = ()) -> list[Cell]:
        """What there is to measure, row by row.

        Args:
            rows: a label, or a pattern of labels such as "MMLoRA*"; all where None.
            sets: data sets; all where empty.

        Raises:
            InputError: a pattern that no row matches, or an unknown data set.
        """
        for name in sets:
            if name not in self.data:
                raise InputError(f"--sets {name}: the file has {', '.join(self.data)}{nearest(name, self.data)}")
        chosen = [row for row in self.rows if rows is None or row.label == rows or fnmatchcase(row.label, rows)]
        if not chosen:
            known = "; ".join(row.label for row in self.rows)
            raise InputError(f"--rows {rows!r} matches no row of {self.paper} {self.table}; there are: {known}")
        return [
            Cell(row, name, metrics)
            for row in chosen
            for name, metrics in row.published.items()
            if not sets or set(name.split("+")) <= set(sets)
        ]

    def settings(self, cell: Cell, name: str) -> dict[str, Any]:
        """Settings of the cell's run on one data set, without its table and seed."""
        own = laid(laid(self.defaults, self.data[name].settings), cell.row.settings or {})
        return laid(own, cell.row.sets.get(name, {}))


class Cell(NamedTuple):
    """A row on one data set, or on several that are averaged ("AVE+CREMA-D"), with its published metrics."""

    row: Row
    data: str
    published: Mapping[str, float | None]

    @property
    def sets(self) -> list[str]:
        """The data sets that it needs."""
        return self.data.split("+")


def read_experiment(path: Path) -> Experiment:
    """Read and check a file.

    Raises:
        InputError: no such file, no YAML, an unknown key, or a row with a data set that the file does not describe.
    """
    try:
        found = Experiment.model_validate(read_yaml(path))
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise InputError(f"experiment {path}: {told}") from None
    for row in found.rows:
        for name in (*(part for key in row.published for part in key.split("+")), *row.sets):
            if name not in found.data:
                raise InputError(
                    f"experiment {path}, row {row.label!r}: data set {name!r} is not under `data`{nearest(name, found.data)}"
                )
    labels = [row.label for row in found.rows]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"experiment {path}: two rows are called {label!r}; tell them apart")
    if found.against is not None and found.against not in labels:
        raise InputError(f"experiment {path}: against {found.against!r} is no row{nearest(found.against, labels)}")
    return found
