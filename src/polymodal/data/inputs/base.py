"""What every kind of input does: decode one sample, learn statistics from the training part, make batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from torch import Tensor

from polymodal.data.inputs.padding import Value, blank, trim
from polymodal.data.schema import Modality
from polymodal.errors import InputError
from polymodal.types import Padded

__all__ = ["Decoded", "Input", "probe_files", "resolve"]

Decoded = Any
T = TypeVar("T")


@dataclass(eq=False)
class Input(ABC):
    """One modality's way from the cells of a row to a tensor.

    The fields of a subclass are its options. One that is None is settled by `probe` or `fit` from the training part;
    one that the user gives is left as it is. Order of calls: `probe`, `decode` every sample, `fit`, then `stack` and `complete`.
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

    @property
    def random(self) -> bool:
        """Whether a training sample is drawn anew in each epoch, by `material` and `vary`."""
        return False

    @property
    def keeps(self) -> bool:
        """Whether `material` is the same for all draws, so that it is worth keeping."""
        return True

    @abstractmethod
    def decode(self, cells: tuple[Any, ...], root: Path) -> Decoded | None:
        """One sample as small arrays that depend on nothing else, or None where it lacks the modality.

        Raises:
            InputError: the file or the cell is broken.
        """

    def material(self, cells: tuple[Any, ...], root: Path, random: np.random.Generator) -> Decoded | None:
        """What `vary` makes a training sample of; None where the sample lacks the modality. Raises as `decode`."""
        return self.decode(cells, root)

    def vary(self, material: Decoded, cells: tuple[Any, ...], random: np.random.Generator) -> Decoded:
        """One draw of a training sample, of the form that `decode` gives. `material` stays as it is."""
        return material

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

    def stack(self, decoded: Sequence[Decoded | None]) -> Value:
        """What `pack` makes of samples some of which may lack the modality."""
        return self.pack([self.empty() if one is None else one for one in decoded])

    def complete(self, packed: Value, present: Tensor) -> Value:
        """A batch for the encoder from what `stack` made of it, with zeros where `present` (B,) is false."""
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

    def keep(self, folder: Path) -> None:  # noqa: B027
        """Write the files that `restore` needs besides `state` into a folder of the run; most need none."""

    @classmethod
    def restore(cls, state: dict[str, Any], folder: Path | None = None) -> Self:
        """The input that `state` was taken from; `folder` is where `keep` wrote."""
        saved = state["modality"]
        modality = Modality(saved["name"], tuple(saved["columns"]), saved["kind"])
        return cls(**{**state, "modality": modality})

    def unsettled(self) -> InputError:
        """The error of a modality that no training sample has told anything about."""
        columns = ", ".join(map(repr, self.modality.columns))
        return InputError(
            f"modality {self.modality.name!r}: no training sample has a readable cell in column {columns}; leave the "
            "modality out, or give its options by hand"
        )

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


def resolve(cell: Any, root: Path) -> Path:
    """Path of a media cell."""
    return root / str(cell).strip()


def probe_files(rows: Sequence[tuple[Any, ...]], limit: int, root: Path, probe: Callable[[Path], T]) -> list[T]:
    """What `probe` tells about at most `limit` files, spread evenly over the rows.

    Broken files are passed over: they are reported when all files are decoded. If all of the sample are broken, any
    other file that is not will do.
    """
    cells = [row[0] for row in rows if row[0] is not None]
    sample = sorted({i * len(cells) // limit for i in range(limit)}) if len(cells) > limit else range(len(cells))
    found = [info for i in sample if (info := _try(probe, resolve(cells[i], root))) is not None]
    if found:
        return found
    others = (_try(probe, resolve(cell, root)) for cell in cells)
    return [info for info in others if info is not None][:1]


def _try(probe: Callable[[Path], T], path: Path) -> T | None:
    try:
        return probe(path)
    except InputError:
        return None
