"""The samples of one part of a split: their inputs, targets and names, decoded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.cache import Cache, Column
from polymodal.data.decoding import Broken, Progress, decode_all
from polymodal.data.inputs import Input
from polymodal.data.inputs.padding import Value
from polymodal.data.labels import encode_labels
from polymodal.data.schema import Schema
from polymodal.data.table import Table
from polymodal.errors import InputError
from polymodal.types import Batch

__all__ = ["Decoding", "Samples", "prepare"]


class Samples:
    """Rows of a table as batches.

    Args:
        table: where the rows are from.
        rows: (N,) row numbers.
        schema: what the columns mean.
        inputs: one for each modality of the schema; shared by all parts.
        cache: limit of memory; shared by all parts.
        labelled: whether there are labels; default whether the table has the label column. Without, `target` is zero.
        training: whether inputs that are drawn at random give other samples in each epoch.

    Attributes:
        target: (N,) int64 classes or items, (N, C) float32 of 0 and 1 for several labels, (N,) float32 for a regression.
        ids: (N,) cells of the id column, or row numbers from 1.
        skipped: the broken samples that `decode_all` left out.

    Raises:
        InputError: the table lacks a column, or a label is missing or unknown.
    """

    def __init__(
        self,
        table: Table,
        rows: NDArray[np.int64],
        schema: Schema,
        inputs: Mapping[str, Input],
        *,
        cache: Cache | None = None,
        labelled: bool | None = None,
        training: bool = False,
    ) -> None:
        self.table, self.schema, self.inputs = table, schema, inputs
        self.rows = np.asarray(rows, dtype=np.int64)
        self.has_labels = schema.label in table.columns if labelled is None else labelled
        self.target = encode_labels(table, self.rows, schema) if self.has_labels else _no_labels(schema, len(self.rows))
        self.ids = _ids(table, self.rows, schema.id)
        self.skipped: list[Broken] = []
        cache = cache or Cache()
        self.columns: dict[str, Column] = {}
        self.lacking: set[str] = set()
        for name, modality in schema.modalities.items():
            cells = list(zip(*(table.cells(column) for column in modality.columns), strict=True))
            own = [cells[row] for row in self.rows]
            self.columns[name] = Column(inputs[name], own, table.root, cache, self.rows if training else None)
            # By the whole table, so that all its parts and all their batches have the same entries.
            if inputs[name].can_be_absent and table.missing(modality.columns[0]).any():
                self.lacking.add(name)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, places: Sequence[int] | NDArray[np.int64], packed: Mapping[str, Value] | None = None) -> Batch:
        """The samples at `places` (0 .. N - 1). `present` has the modalities that some row of the table lacks.

        `packed` is what `Decoding` made of them in another process; what it lacks is decoded here.
        """
        places, packed = np.asarray(places, dtype=np.int64), packed or {}
        index = torch.from_numpy(places)
        present = {name: column.present[index] for name, column in self.columns.items() if name in self.lacking}
        return Batch(
            {m: one.batch(places, packed[m]) if m in packed else one.batch(places) for m, one in self.columns.items()},
            self.target[index],
            present or None,
            [self.ids[i] for i in places],
        )

    def probe(self) -> None:
        """Let the inputs settle what decoding needs (sizes, rates) by these samples, which are the training part.

        Raises:
            InputError: no sample has a modality.
        """
        for name, column in self.columns.items():
            if not bool(column.present.any()):
                raise InputError(
                    f"{self.table.source}: modality {name!r} is empty in every training row; leave it out or fill it in"
                )
            column.input.probe([column.cells[i] for i in torch.nonzero(column.present).flatten().tolist()], column.root)

    def fit(self) -> None:
        """Let the inputs learn their statistics from these samples, which are the training part."""
        for column in self.columns.values():
            column.input.fit(column.for_statistics())

    def decode_all(self, workers: int | None = None, progress: Progress | None = None, on_error: str = "raise") -> None:
        """Decode every sample once; see `decoding.decode_all`."""
        decode_all([self], workers=workers, progress=progress, on_error=on_error)

    def freeze(self) -> bool:
        """Make batches cheap; true if none of them needs decoding. Called by the loader, after `fit`."""
        return all([column.freeze() for column in self.columns.values()])

    def drop(self, broken: Iterable[Broken]) -> None:
        """Leave out the samples of these rows, and remember why."""
        found = list(broken)
        self.skipped.extend(found)
        kept = np.flatnonzero(~np.isin(self.rows, [one.row for one in found]))
        self.rows, self.ids = self.rows[kept], [self.ids[i] for i in kept]
        self.target = self.target[torch.from_numpy(kept)]
        for column in self.columns.values():
            column.keep(kept)


class Decoding(torch.utils.data.Dataset[dict[str, Value]]):
    """What a worker process does for a batch: decode what is not in memory, and hand it over in compact form.

    Pixels then cross as bytes instead of float32, and what is in memory already does not cross at all.
    """

    def __init__(self, samples: Samples) -> None:
        self.columns = {name: one for name, one in samples.columns.items() if isinstance(one, Column)}

    def __getitem__(self, places: NDArray[np.int64]) -> dict[str, Value]:
        found = {name: column.packed(places) for name, column in self.columns.items()}
        return {name: one for name, one in found.items() if one is not None}


def prepare(
    train: Samples,
    *others: Samples,
    workers: int | None = None,
    progress: Progress | None = None,
    on_error: str = "raise",
) -> None:
    """Settle the inputs by the training part, decode all parts once, learn the statistics from the training part.

    Args:
        train: the training part.
        others: further parts, which share its inputs.
        workers: threads that decode; default one a processor.
        progress: called with the number of samples done and their total.
        on_error: "raise" to report all broken samples of all parts at once, "skip" to leave them out.

    Raises:
        InputError: broken samples, listed by row; or a part of which nothing is left.
    """
    train.probe()
    decode_all([train, *others], workers=workers, progress=progress, on_error=on_error)
    train.fit()


def _no_labels(schema: Schema, count: int) -> Tensor:
    if schema.task == "multilabel":
        return torch.zeros(count, len(schema.classes))
    if schema.task == "retrieval":
        return torch.arange(count)  # each row is about an item of its own
    return torch.zeros(count, dtype=torch.float32 if schema.task == "regression" else torch.int64)


def _ids(table: Table, rows: NDArray[np.int64], column: str | None) -> list[str]:
    if column is None or column not in table.columns:
        return [str(row + 1) for row in rows]
    cells: Any = table.cells(column)
    return [str(row + 1) if cells[row] is None else str(cells[row]) for row in rows]
