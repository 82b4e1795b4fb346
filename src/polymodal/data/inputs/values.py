"""Numbers and categories as inputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from polymodal.data.columns import to_numbers
from polymodal.data.inputs.base import Input
from polymodal.data.inputs.moments import Moments
from polymodal.data.inputs.padding import Value
from polymodal.errors import InputError

__all__ = ["CategoricalInput", "NumericInput"]


@dataclass(eq=False)
class NumericInput(Input):
    """Columns of numbers. `shape` is (D,); a batch is (B, D) float32.

    Missing cells become the training part's median. After the K columns, each scaled by the training part's `mean`
    and `std`, follows one column of 0 and 1 for every column that has missing cells in the training part.
    """

    median: list[float] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    indicators: list[int] | None = None

    can_be_absent: ClassVar[bool] = False

    def check(self) -> None:
        """Any statistics will do."""

    def decode(self, cells: tuple[Any, ...], root: Path) -> NDArray[np.float64]:
        """(K,) numbers, NaN where a cell is missing."""
        row = np.empty(len(cells), dtype=object)
        row[:] = cells
        values, wrong = to_numbers(row)
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise InputError(f"column {self.modality.columns[i]!r}: {cells[i]!r} is no finite number")
        return values

    def fit(self, decoded: Iterable[NDArray[np.float64]]) -> None:
        values = np.stack(list(decoded))
        missing = np.isnan(values)
        whole = missing.all(0)
        values[:, whole] = 0.0  # a column that the training part lacks altogether says nothing
        self.median = np.nanmedian(values, axis=0).tolist()
        moments = Moments()
        moments.update(np.where(np.isnan(values), self.median, values))
        self.mean, self.std = moments.result()
        self.indicators = np.flatnonzero(missing.any(0)).tolist()

    def empty(self) -> NDArray[np.float64]:
        return np.full(len(self.modality.columns), np.nan)

    def pack(self, decoded: Sequence[NDArray[np.float64]]) -> Tensor:
        return torch.from_numpy(np.stack(decoded))

    def finish(self, packed: Value) -> Tensor:
        assert isinstance(packed, Tensor)
        if self.median is None or self.mean is None or self.std is None:
            return packed.float()
        missing = packed.isnan()
        filled = torch.where(missing, torch.tensor(self.median, dtype=packed.dtype), packed)
        scaled = (filled - torch.tensor(self.mean, dtype=packed.dtype)) / torch.tensor(self.std, dtype=packed.dtype)
        return torch.cat([scaled, missing[:, self.indicators or []].to(packed.dtype)], dim=1).float()

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.modality.columns) + len(self.indicators or ()),)


@dataclass(eq=False)
class CategoricalInput(Input):
    """Columns of categories. `shape` is (D,); a batch is (B, D) float32.

    Each column is one-hot: first a place for what the training part does not have (and for missing cells), then the
    training part's categories in sorted order.
    """

    categories: list[list[str]] | None = None

    can_be_absent: ClassVar[bool] = False

    def check(self) -> None:
        """Any categories will do."""

    def decode(self, cells: tuple[Any, ...], root: Path) -> tuple[str | None, ...]:
        return tuple(None if cell is None else str(cell).strip() for cell in cells)

    def fit(self, decoded: Iterable[tuple[str | None, ...]]) -> None:
        columns = zip(*decoded, strict=True)
        self.categories = [sorted({cell for cell in column if cell is not None}) for column in columns]

    def empty(self) -> tuple[str | None, ...]:
        return (None,) * len(self.modality.columns)

    def pack(self, decoded: Sequence[tuple[str | None, ...]]) -> Tensor:
        """(B, K) int64 place of each cell within its column's one-hot code."""
        places = [{name: i for i, name in enumerate(names, start=1)} for names in self.categories or []]
        codes = [[known.get(cell or "", 0) for known, cell in zip(places, row, strict=True)] for row in decoded]
        return torch.tensor(codes, dtype=torch.int64)

    def finish(self, packed: Value) -> Tensor:
        assert isinstance(packed, Tensor)
        sizes = [1 + len(names) for names in self.categories or []]
        return torch.cat([one_hot(packed[:, k], size) for k, size in enumerate(sizes)], dim=1).float()

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(1 + len(names) for names in self.categories or []),)
