"""Numbers, categories and vectors as inputs."""

from __future__ import annotations

from collections import Counter
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
from polymodal.data.inputs.base import Input, Moments, Value, pad_sequences, spread
from polymodal.errors import InputError
from polymodal.types import Padded

__all__ = ["CategoricalInput", "NumericInput", "VectorInput"]


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


@dataclass(eq=False)
class VectorInput(Input):
    """Vectors, or sequences of vectors, from lists. Features are scaled by the training part's `mean` and `std`.

    `shape` is (D,) and a batch (B, D) float32; for sequences `shape` is (L, D) and a batch
    `Padded(values (B, l, D), mask (B, l))` with l the longest of the batch. Sequences longer than L are cut.

    Options:
        width: D; default the most common one of the training part.
        length: L; default the longest of the training part; 0 says that cells are single vectors.
        standardize: whether to scale.
    """

    width: int | None = None
    length: int | None = None
    standardize: bool = True
    mean: list[float] | None = None
    std: list[float] | None = None

    variable_length: ClassVar[bool] = True

    def check(self) -> None:
        self.require_numbers("width")
        self.require("length", self.length is None or self.length >= 0, "0 or a positive whole number")

    def probe(self, rows: Sequence[tuple[Any, ...]], root: Path) -> None:
        shapes = []
        for cell in spread(rows, len(rows)):
            try:
                shapes.append(_array(cell).shape)
            except InputError:
                continue
        shapes = [shape for shape in shapes if len(shape) in (1, 2)]
        if not shapes:
            return
        dims = Counter(len(shape) for shape in shapes).most_common(1)[0][0]
        if self.length is None:
            self.length = 0 if dims == 1 else max(1, *(shape[0] for shape in shapes if len(shape) == 2))
        if self.width is None:
            self.width = Counter(shape[-1] for shape in shapes if len(shape) == dims).most_common(1)[0][0]

    def decode(self, cells: tuple[Any, ...], root: Path) -> NDArray[np.float32] | None:
        if cells[0] is None:
            return None
        column = self.modality.columns[0]
        values = _array(cells[0])
        wanted = f"{self.width} numbers" if not self.length else f"lists of {self.width} numbers"
        if values.ndim != (2 if self.length else 1) or values.shape[-1] != self.width:
            raise InputError(f"column {column!r}: a list of shape {values.shape}, expected {wanted}")
        if not np.isfinite(values).all():
            raise InputError(f"column {column!r}: NaN or infinite at place {int(np.argmin(np.isfinite(values)))}")
        return values[: self.length] if self.length else values

    def fit(self, decoded: Iterable[NDArray[np.float32]]) -> None:
        if not self.standardize or (self.mean is not None and self.std is not None):
            return
        moments = Moments()
        if self.length:
            for values in decoded:
                moments.update(values)
        else:
            moments.update(np.stack(list(decoded)))
        self.mean, self.std = moments.result()

    def empty(self) -> NDArray[np.float32]:
        return np.zeros((0, self.width or 1) if self.length else (self.width or 1), np.float32)

    def pack(self, decoded: Sequence[NDArray[np.float32]]) -> Value:
        if not self.length:
            return torch.from_numpy(np.stack(decoded))
        return pad_sequences(decoded, max(1, *map(len, decoded)))

    def finish(self, packed: Value) -> Value:
        if not self.standardize or self.mean is None or self.std is None:
            return packed
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        if isinstance(packed, Tensor):
            return (packed - mean) / std
        return Padded(((packed.values - mean) / std).masked_fill_(~packed.mask[:, :, None], 0), packed.mask)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length, self.width or 0) if self.length else (self.width or 0,)


def _array(cell: Any) -> NDArray[np.float32]:
    """A list, or a list of lists of one length, as float32 (Parquet gives arrays of arrays)."""
    try:
        if len(cell) and isinstance(cell[0], (list, tuple, np.ndarray)):
            return np.stack([np.asarray(one, dtype=np.float32) for one in cell])
        return np.asarray(cell, dtype=np.float32)
    except (TypeError, ValueError):
        raise InputError("a list that holds other things than numbers, or lists of different lengths") from None
