"""The samples that a trained model is asked about: rows of a table, read as those of its training were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polymodal.config import Config
from polymodal.data.cache import Cache
from polymodal.data.inputs import Input
from polymodal.data.loader import Loader
from polymodal.data.samples import Samples
from polymodal.data.schema import Schema
from polymodal.data.split import split_rows
from polymodal.data.table import Table
from polymodal.datasets import canonical, open_table
from polymodal.distributed import rank, world_size
from polymodal.errors import InputError

__all__ = ["Reader", "Source", "make_loader", "read"]

Source = str | Path | pd.DataFrame


def read(source: Source) -> Table:
    """The table of a frame, a file or a data set."""
    return open_table(source if isinstance(source, pd.DataFrame) else str(source))


def make_loader(samples: Samples, config: Config, batch: int, *, shuffle: bool = False) -> Loader:
    """Batches of so many samples in training (`shuffle`), of no fewer than 256 otherwise."""
    size, workers = batch if shuffle else max(batch, 256), config.data.workers
    return Loader(samples, size, shuffle=shuffle, seed=config.seed, rank=rank(), world=world_size(), workers=workers)


@dataclass(frozen=True)
class Reader:
    """Reads tables by the schema and with the inputs of a run.

    Attributes:
        config: settings of the run.
        schema: what the columns mean.
        inputs: from cells to tensors, with the statistics of the run's training part.
    """

    config: Config
    schema: Schema
    inputs: Mapping[str, Input]

    def samples(self, source: Source, *, labelled: bool = False, split: str | None = None) -> Samples:
        """All rows of a table, or those of one part of its split.

        Raises:
            InputError: a column is missing, a file is broken, or there is no such part.
        """
        table = read(source)
        rows = np.arange(len(table), dtype=np.int64)
        if split is not None:
            table, rows = self._part(table, split)
        cache = Cache(self.config.data.cache_bytes, self.config.data.decoded)
        samples = Samples(table, rows, self.schema, dict(self.inputs), cache=cache, labelled=labelled)
        samples.decode_all(workers=self.config.data.workers, on_error=self.config.data.on_error)
        return samples

    def labelled(self, table: Source | None, split: str | None) -> Samples:
        """Rows with their labels; the test part of the run's own table where none is named."""
        if table is None:
            if self.config.table is None:
                raise InputError("the run was trained on a frame; give the table to evaluate on")
            table, split = self.config.table, split or "test"
        return self.samples(table, labelled=True, split=split)

    def _part(self, table: Table, split: str) -> tuple[Table, NDArray[np.int64]]:
        """The table that holds a part, and its rows: the second table where validation came from one."""
        known = {"train": "train", "test": "test"} | dict.fromkeys(("val", "valid", "validation", "dev"), "valid")
        if split not in known:
            raise InputError(f"split {split!r} is unknown; there are train, valid and test")
        config, data = self.config, self.config.data
        own = config.table is not None and canonical(table.source) == canonical(config.table)
        second = open_table(config.valid) if own and config.valid is not None else None
        found = split_rows(
            table,
            self.schema,
            valid=second,
            seed=config.seed,
            fractions=data.fractions,
            fold=data.fold if own else None,
        )
        rows = found.rows[known[split]]
        if not len(rows):
            raise InputError(
                f"{table.source}: its split has no {split} rows; name another with --split, or give a table"
            )
        return (second if second is not None and known[split] == "valid" else table), rows
