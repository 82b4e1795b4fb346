"""Decoded samples of one modality in memory, within a limit of bytes."""

from __future__ import annotations

import hashlib
import json
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.inputs import Input
from polymodal.data.inputs.base import Decoded, resolve
from polymodal.data.inputs.padding import Value, blank, trim
from polymodal.data.media.files import places
from polymodal.data.stored import Stored
from polymodal.types import Padded

__all__ = ["Cache", "Column"]

CHUNK = 256


class Cache:
    """A number of bytes that the columns of a data set share.

    Args:
        limit: bytes in all; samples beyond it are decoded again whenever they are needed.
        stored: folder of decoded samples that these are taken from instead, and written to.
    """

    def __init__(self, limit: int = 2 << 30, stored: str | Path | None = None) -> None:
        self.limit, self.stored = limit, None if stored is None else Stored(Path(stored))
        self.used = 0
        self._lock = threading.Lock()

    def take(self, size: int) -> bool:
        """Reserve `size` bytes (a negative size gives some back); false, and nothing reserved, if they do not fit."""
        with self._lock:
            if size > 0 and self.used + size > self.limit:
                return False
            self.used += size
            return True


class Column:
    """One modality of the samples of a part, decoded once.

    It begins as a list of decoded samples. With the first batch it becomes, as far as the cache allows, one tensor that
    is ready for the encoder, or one compact tensor that each batch is standardised from; batches then cost an indexing.

    In training an input that is drawn at random gives another sample in each epoch: what draws are made from is kept where it
    is the same for all, and the draw is a function of `seed`, `epoch`, the sample's row and the modality alone.

    Args:
        input: decodes and makes batches.
        cells: the cells of each sample.
        root: folder of relative paths.
        cache: the limit shared with the other columns.
        rows: (N,) numbers of the samples in their table, where they are training samples; None in evaluation.

    Attributes:
        seed, epoch: what the next draws are made of; the loader sets them.
    """

    def __init__(
        self,
        input: Input,
        cells: Sequence[tuple[Any, ...]],
        root: Path,
        cache: Cache,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self.input, self.cells, self.root, self.cache, self.rows = input, list(cells), root, cache, rows
        self.seed = self.epoch = 0
        self.present = torch.tensor([not input.can_be_absent or row[0] is not None for row in cells], dtype=torch.bool)
        self._decoded: list[Decoded | None] = [None] * len(cells)
        self._ready: Value | None = None
        self._packed: Value | None = None
        self._frozen = False

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def drawn(self) -> bool:
        """Whether each epoch has other samples."""
        return self.rows is not None and self.input.random

    def fixed(self) -> Column:
        """The same samples as evaluation sees them."""
        return Column(self.input, self.cells, self.root, self.cache) if self.drawn else self

    def decode(self, i: int) -> Decoded | None:
        """Sample `i`, or what its draws are made from: from memory, or decoded and then kept if there is room.

        None where the modality is absent.
        """
        return self._decode(i, self._random(i)) if self.drawn else self._decode(i, None)

    def _decode(self, i: int, random: np.random.Generator | None) -> Decoded | None:
        if self._decoded[i] is None and self.present[i]:
            cells, keeps = self.cells[i], random is None or self.input.keeps
            if random is not None:
                decoded = self.input.material(cells, self.root, random)
            elif self.cache.stored is not None:
                decoded = self.cache.stored.decode(self.input, cells, self.root)
            else:
                decoded = self.input.decode(cells, self.root)
            if keeps and not self._frozen and self.cache.take(_size(decoded)):
                self._decoded[i] = decoded
            return decoded
        return self._decoded[i]

    def _draw(self, i: int) -> Decoded | None:
        """Sample `i` of this epoch."""
        random = self._random(i)
        material = self._decode(i, random)
        return None if material is None else self.input.vary(material, self.cells[i], random)

    def _random(self, i: int) -> np.random.Generator:
        assert self.rows is not None
        name = zlib.crc32(self.input.modality.name.encode())
        return np.random.default_rng([self.seed, self.epoch, int(self.rows[i]), name])

    def for_statistics(self, limit: int = 1000) -> Iterator[Decoded]:
        """Decoded samples that have the modality: all if they are in memory, else `limit` spread evenly over them."""
        there = torch.nonzero(self.present).flatten().tolist()
        if (self.drawn or not all(self._decoded[i] is not None for i in there)) and len(there) > limit:
            there = [there[k * len(there) // limit] for k in range(limit)]
        if self.drawn:  # what draws are made from may have another form
            return (self.input.decode(self.cells[i], self.root) for i in there)
        return (self.decode(i) for i in there)

    def keys(self) -> list[str]:
        """What tells each sample from any other: options and statistics of the input, cells, size and time of each file."""
        draws = [self.seed] if self.drawn else []
        shared = json.dumps([type(self.input).__name__, self.input.state(), *draws], sort_keys=True, default=str)
        digest = hashlib.sha256(shared.encode())
        found = []
        for number, row in enumerate(self.cells):
            one = digest.copy()
            if self.rows is not None and self.drawn:  # equal files are drawn differently
                one.update(str(self.rows[number]).encode())
            for cell in row:
                one.update(cell.tobytes() if isinstance(cell, np.ndarray) else repr(cell).encode())
                named = isinstance(cell, str) and (self.input.reads_files or cell.strip().endswith(".npy"))
                for path in places(resolve(cell, self.root)) if named else ():
                    if path.exists():
                        facts = path.stat()
                        one.update(f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}".encode())
            found.append(one.hexdigest()[:32])
        return found

    def keep(self, places: NDArray[np.int64]) -> None:
        """Drop all samples but those at `places`."""
        dropped = np.setdiff1d(np.arange(len(self)), places)
        self.cache.take(-sum(_size(self._decoded[i]) for i in dropped))
        self.cells = [self.cells[i] for i in places]
        self._decoded = [self._decoded[i] for i in places]
        self.present = self.present[torch.from_numpy(places)]
        self.rows = None if self.rows is None else self.rows[places]

    def freeze(self) -> bool:
        """Turn decoded samples into tensors where there is room; true if no batch needs decoding or drawing from now on."""
        if self.drawn:
            self._frozen = True
            return False
        if not self._frozen:
            self._frozen = True
            there = torch.nonzero(self.present).flatten().tolist()
            if len(self) and all(self._decoded[i] is not None for i in there):
                self._assemble()
        return self._ready is not None or self._packed is not None or self._complete()

    def batch(self, places: NDArray[np.int64], packed: Value | None = None) -> Value:
        """Samples at `places` for the encoder: the same numbers from whichever form they are kept in.

        Args:
            places: numbers of samples.
            packed: what `packed(places)` gave, in this process or another; default to ask it here.
        """
        self.freeze()
        index = torch.from_numpy(places)
        if self._ready is not None:
            value = _map(self._ready, lambda one: one.index_select(0, index))
            return trim(value) if self.input.variable_length and isinstance(value, Padded) else value
        if self._packed is not None:
            packed = _map(self._packed, lambda one: one.index_select(0, index))
        elif packed is None:
            packed = self._pack(places)
        return self.input.complete(packed, self.present[index])

    def packed(self, places: NDArray[np.int64]) -> Value | None:
        """Samples at `places`, decoded and in their compact form; None where all are tensors in memory already."""
        self.freeze()
        return self._pack(places) if self._ready is None and self._packed is None else None

    def _pack(self, places: NDArray[np.int64]) -> Value:
        return self.input.stack([self._draw(int(i)) if self.drawn else self.decode(int(i)) for i in places])

    def _complete(self) -> bool:
        return all(self._decoded[i] is not None for i in torch.nonzero(self.present).flatten().tolist())

    def _assemble(self) -> None:
        held = sum(map(_size, self._decoded))
        largest = self.input.pack([max((self._whole(i) for i in range(len(self))), key=_size)])
        packed_size = len(self) * _bytes(largest)
        ready_size = len(self) * _bytes(self.input.finish(largest))
        if self.cache.take(ready_size - held):
            self._ready = self._stack(lambda chunk: self.input.finish(self.input.pack(chunk)))
            self._ready = blank(self._ready, self.present)
        elif self.cache.take(packed_size - held):
            self._packed = self._stack(self.input.pack)

    def _whole(self, i: int) -> Decoded:
        decoded = self._decoded[i]
        return self.input.empty() if decoded is None else decoded

    def _stack(self, make: Callable[[Sequence[Decoded]], Value]) -> Value:
        """All samples through `make`; each decoded one is dropped as soon as its tensor is there."""
        # Sequences of unequal length are padded to the longest of all, which no chunk knows.
        step = len(self) if self.input.variable_length else CHUNK
        stacked: Value | None = None
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            part = make([self._whole(i) for i in range(start, stop)])
            self._decoded[start:stop] = [None] * (stop - start)
            if stop - start == len(self):
                return part
            if stacked is None:
                stacked = _map(part, lambda one: one.new_empty((len(self), *one.shape[1:])))
            for whole, piece in zip(_tensors(stacked), _tensors(part), strict=True):
                whole[start:stop] = piece
        assert stacked is not None
        return stacked


def _size(decoded: Decoded | None) -> int:
    if isinstance(decoded, np.ndarray):
        return decoded.nbytes + 128
    return 0 if decoded is None else 64 * len(decoded)


def _bytes(value: Value) -> int:
    return sum(one.nbytes for one in _tensors(value))


def _tensors(value: Value) -> tuple[Tensor, ...]:
    return tuple(value) if isinstance(value, Padded) else (value,)


def _map(value: Value, function: Callable[[Tensor], Tensor]) -> Value:
    return Padded(*map(function, value)) if isinstance(value, Padded) else function(value)
