"""From a table and the data settings to the decoded parts of its split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from polymodal.config import Config
from polymodal.data.cache import Cache
from polymodal.data.inputs import Input, make_input
from polymodal.data.labels import check_labels
from polymodal.data.samples import Samples, prepare
from polymodal.data.schema import Modality, Schema, infer
from polymodal.data.split import split_rows
from polymodal.data.table import Table, read_table
from polymodal.errors import InputError
from polymodal.names import nearest
from polymodal.progress import Progress

__all__ = ["Parts", "assemble"]


@dataclass
class Parts:
    """The decoded samples of a run.

    Attributes:
        schema: what the columns mean.
        inputs: from cells to tensors, with the training part's statistics.
        samples: by part "train", "valid", "test"; a part that is empty is left out.
        notes: what was inferred, left out, split and skipped, for people.
    """

    schema: Schema
    inputs: dict[str, Input]
    samples: dict[str, Samples]
    notes: list[str]

    @property
    def train_target(self) -> Tensor:
        """Targets of the training part."""
        return self.samples["train"].target

    def class_counts(self) -> dict[str, dict[str, int]]:
        """Samples of each class in each part; empty for a regression."""
        counts = {}
        for part, samples in self.samples.items():
            if self.schema.task == "classification":
                found = np.bincount(samples.target.numpy(), minlength=len(self.schema.classes))
            elif self.schema.task == "multilabel":
                found = samples.target.sum(0).numpy().astype(int)
            else:
                continue
            counts[part] = {name: int(n) for name, n in zip(self.schema.classes, found, strict=True)}
        return counts


Preprocessing = Callable[[Modality, Mapping[str, Any]], dict[str, Any]]


def assemble(
    config: Config,
    source: str | pd.DataFrame | Table,
    valid: str | pd.DataFrame | Table | None = None,
    *,
    fold: tuple[int, int] | None = None,
    show: bool | None = None,
    preprocessing: Preprocessing = lambda modality, given: {},
) -> Parts:
    """Read, understand, split and decode a table.

    Args:
        config: `label`, `data` and `seed` decide.
        source: path of the table, a pandas frame or a table that was read.
        valid: a second table that is the validation part.
        fold: (k, n) for the k-th of n folds of the training and validation rows, see `split.split_rows`; by default that of
            `data.fold`.
        show: force the progress bar on or off.
        preprocessing: options of a modality's input that its encoder calls for, from those that the user set; these win.

    Raises:
        InputError: whatever is wrong with the tables, their labels, splits or files.
    """
    settings = config.data
    table = read_table(source)
    schema = infer(
        table,
        config.label,
        modalities=settings.modalities,
        task=settings.task,
        id=settings.id,
        split=settings.split,
        group=settings.group,
        separator=settings.separator,
    )
    second = None if valid is None else read_table(valid)
    fold = fold or settings.fold
    split = split_rows(table, schema, valid=second, seed=config.seed, fractions=settings.fractions, fold=fold)
    tables: dict[str, Table] = {part: table for part in split.rows}
    if second is not None:
        tables["valid"] = second
    check_labels(schema, {part: (tables[part], rows) for part, rows in split.rows.items()})
    for name in settings.inputs:
        if name not in schema.modalities:
            raise InputError(f"data.inputs.{name}: no such modality{nearest(name, schema.modalities)}")
    given = {m: settings.inputs.get(m, {}) for m in schema.modalities}
    inputs = {m: make_input(one, **(preprocessing(one, given[m]) | given[m])) for m, one in schema.modalities.items()}
    cache = Cache(settings.cache_bytes, settings.decoded)
    samples = {
        part: Samples(tables[part], rows, schema, inputs, cache=cache, training=part == "train")
        for part, rows in split.rows.items()
        if len(rows)
    }
    total = sum(len(one) for one in samples.values()) * len(inputs)
    with Progress("decoding", total, show=show) as bar:
        seen = 0

        def advance(done: int, _: int) -> None:
            nonlocal seen
            bar.advance(done - seen)
            seen = done

        others = [one for part, one in samples.items() if part != "train"]
        prepare(samples["train"], *others, workers=settings.workers, progress=advance, on_error=settings.on_error)
    skipped = [one for part in samples.values() for one in part.skipped]
    notes = [*table.notes, *schema.notes, *split.notes]
    if skipped:
        notes.append(f"skipped {len(skipped)} broken samples: " + "; ".join(str(one) for one in skipped[:5]))
    return Parts(schema, inputs, samples, notes)
