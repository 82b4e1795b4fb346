"""Vectors, and sequences of them, as inputs."""

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

from polymodal.data.inputs.base import Input, resolve
from polymodal.data.inputs.moments import Moments
from polymodal.data.inputs.padding import Value, pad_sequences
from polymodal.data.media.arrays import read_array
from polymodal.errors import InputError
from polymodal.types import Padded

__all__ = ["VectorInput"]


@dataclass(eq=False)
class VectorInput(Input):
    """Vectors, or sequences of vectors, from lists or .npy files. Features are scaled by the training part's `mean` and `std`.

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
        if self.width is not None and self.length is not None:
            return
        shapes = []
        for cell in (row[0] for row in rows if row[0] is not None):
            try:
                shapes.append(_array(cell, root).shape)
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
        values = _array(cells[0], root)
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


def _array(cell: Any, root: Path) -> NDArray[np.float32]:
    """A list, a list of lists of one length (Parquet gives arrays of arrays), or the .npy file that a text names."""
    if isinstance(cell, str) and cell.strip().endswith(".npy"):
        return read_array(resolve(cell, root))
    try:
        if len(cell) and isinstance(cell[0], (list, tuple, np.ndarray)):
            return np.stack([np.asarray(one, dtype=np.float32) for one in cell])
        return np.asarray(cell, dtype=np.float32)
    except (TypeError, ValueError):
        raise InputError("a list that holds other things than numbers, or lists of different lengths") from None
