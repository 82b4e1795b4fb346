"""What every kind of input does: decode one sample, learn statistics from the training part, make batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.schema import Modality
from polymodal.errors import InputError
from polymodal.types import Padded

__all__ = ["Input", "Moments", "Value", "blank", "pad_sequences", "trim"]

Value = Tensor | Padded
Decoded = Any


@dataclass(eq=False)
class Input(ABC):
    """One modality's way from the cells of a row to a tensor.

    The fields of a subclass are its options. One that is None is settled by `probe` or `fit` from the training part;
    one that the user gives is left as it is. Order of calls: `probe`, `decode` every sample, `fit`, then `collate`.
    """

    modality: Modality

    reads_files: ClassVar[bool] = False
    can_be_absent: ClassVar[bool] = True
    variable_length: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.check()

    @abstractmethod
    def check(self) -> None:
        """Raise `InputError` if an option has a value that it cannot have."""

    def probe(self, rows: Sequence[tuple[Any, ...]], root: Path) -> None:  # noqa: B027
        """Settle what decoding needs to know (sizes, rates) from the cells of training rows; broken ones are passed."""

    @abstractmethod
    def decode(self, cells: tuple[Any, ...], root: Path) -> Decoded | None:
        """One sample as small arrays that depend on nothing else, or None where it lacks the modality.

        Raises:
            InputError: the file or the cell is broken.
        """

    def fit(self, decoded: Iterable[Decoded]) -> None:  # noqa: B027
        """Learn statistics from the decoded samples of the training part."""

    @abstractmethod
    def empty(self) -> Decoded:
        """What stands for the decoded sample where there is none."""

    @abstractmethod
    def pack(self, decoded: Sequence[Decoded]) -> Value:
        """Samples as one compact array, before standardisation."""

    def finish(self, packed: Value) -> Value:
        """What the encoder takes, from what `pack` made."""
        return packed

    def collate(self, decoded: Sequence[Decoded | None]) -> Value:
        """A batch for the encoder; zeros stand where a sample lacks the modality."""
        present = torch.tensor([one is not None for one in decoded], dtype=torch.bool)
        packed = self.pack([self.empty() if one is None else one for one in decoded])
        value = blank(self.finish(packed), present)
        return trim(value) if self.variable_length and isinstance(value, Padded) else value

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample, by which encoders are built; see the subclass."""

    def state(self) -> dict[str, Any]:
        """Options and statistics as plain JSON values."""
        fields = asdict(self)
        modality = {"name": self.modality.name, "columns": list(self.modality.columns), "kind": self.modality.kind}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()} | {
            "modality": modality
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Self:
        """The input that `state` was taken from."""
        saved = state["modality"]
        modality = Modality(saved["name"], tuple(saved["columns"]), saved["kind"])
        return cls(**{**state, "modality": modality})

    def require(self, name: str, ok: bool, expected: str) -> None:
        """Raise unless the value of option `name` is `ok`."""
        if not ok:
            value = getattr(self, name)
            raise InputError(f"input {self.modality.name!r}: {name} is {value!r}, expected {expected}")

    def require_numbers(self, *names: str, whole: bool = True) -> None:
        """Raise unless each option is None or a positive number, a whole one if asked for."""
        for name in names:
            value = getattr(self, name)
            kinds = (int,) if whole else (int, float)
            ok = value is None or (isinstance(value, kinds) and not isinstance(value, bool) and value > 0)
            self.require(name, ok, "a positive whole number" if whole else "a positive number")


class Moments:
    """Mean and deviation of D features over any number of arrays, by merging (Chan et al. 1983, equations 1.5)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(1)
        self.squares: NDArray[np.float64] = np.zeros(1)

    def update(self, values: NDArray[Any]) -> None:
        """Take in (n, D) values."""
        n = len(values)
        if not n:
            return
        mean = values.mean(0, dtype=np.float64)
        squares = values.var(0, dtype=np.float64) * n
        shift, total = mean - self.mean, self.count + n
        self.squares = self.squares + squares + shift**2 * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.count = total

    def result(self) -> tuple[list[float], list[float]]:
        """(D,) means and (D,) deviations; 1 for a feature that does not vary, so that it is only centred."""
        std = np.sqrt(self.squares / max(self.count, 1))
        std = np.where(std > 1e-7 * np.abs(self.mean), std, 1.0)
        return self.mean.tolist(), std.tolist()


def resolve(cell: Any, root: Path) -> Path:
    """Path of a media cell."""
    return root / str(cell).strip()


def readable(cells: Iterable[Any], root: Path, probe: Any) -> list[Any]:
    """What `probe` tells about each file that it can read; the others are reported when all files are decoded."""
    found = []
    for cell in cells:
        try:
            found.append(probe(resolve(cell, root)))
        except InputError:
            continue
    return found


def spread(rows: Sequence[tuple[Any, ...]], limit: int) -> list[Any]:
    """The first cell of at most `limit` rows that have one, spread evenly over them."""
    cells = [row[0] for row in rows if row[0] is not None]
    if len(cells) <= limit:
        return cells
    return [cells[i * len(cells) // limit] for i in range(limit)]


def pad_sequences(sequences: Sequence[NDArray[Any]], length: int) -> Padded:
    """(L_i, ...) arrays as (B, length, ...) padded with zeros; a sequence of no tokens counts as one token of zeros."""
    first = sequences[0]
    values = torch.zeros((len(sequences), length, *first.shape[1:]), dtype=torch.from_numpy(first[:0]).dtype)
    mask = torch.zeros((len(sequences), length), dtype=torch.bool)
    for i, sequence in enumerate(sequences):
        tokens = min(len(sequence), length)
        values[i, :tokens] = torch.from_numpy(np.ascontiguousarray(sequence[:tokens]))
        mask[i, : max(tokens, 1)] = True
    return Padded(values, mask)


def trim(value: Padded) -> Padded:
    """The same batch (B, L, ...) without the columns that are padding in every sample."""
    longest = max(1, int(value.mask.sum(1).max()))
    return value if longest == value.mask.shape[1] else Padded(value.values[:, :longest], value.mask[:, :longest])


def blank(value: Value, present: Tensor) -> Value:
    """The same batch with zeros where `present` (B,) is false.

    The first position of an absent sequence keeps its mask, so that no encoder averages over nothing.
    """
    if bool(present.all()):
        return value
    if isinstance(value, Padded):
        mask = value.mask & present[:, None]
        mask[:, 0] = True
        return Padded(_zero(value.values, present), mask)
    return _zero(value, present)


def _zero(values: Tensor, present: Tensor) -> Tensor:
    return values.masked_fill(~present.reshape(-1, *[1] * (values.dim() - 1)), 0)
