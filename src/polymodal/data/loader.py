"""Which samples make which batch, on which process."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from polymodal.data.cache import Column
from polymodal.data.features import FeatureColumn
from polymodal.data.inputs.padding import Value
from polymodal.data.missing import ModalityDropout
from polymodal.data.samples import Decoding, Samples
from polymodal.data.workers import workers_for
from polymodal.errors import InputError
from polymodal.types import Batch, Features

__all__ = ["Loader", "batch_bounds", "permutation"]

Places = NDArray[np.int64]


def permutation(count: int, seed: int, epoch: int) -> Places:
    """Order of `count` samples in an epoch: a pure function of `seed` and `epoch`."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch_bounds(count: int, size: int, smallest: int, drop: bool | None = None) -> list[int]:
    """Where global batches begin and end in the order of an epoch: `bounds[i] : bounds[i + 1]`.

    Args:
        count: number of samples.
        size: of a global batch.
        smallest: a rest of fewer samples joins the batch before it, as BatchNorm cannot train on one sample.
        drop: true leaves the rest out, false keeps it as a batch however small, None follows `smallest`.
    """
    bounds = [*range(0, count - count % size + 1, size)]
    rest = count - bounds[-1]
    if rest and not drop:
        bounds.append(count)
        if drop is None and rest < smallest and len(bounds) > 2:
            del bounds[-2]
    return bounds


class Loader:
    """Batches of `samples` for one of `world` processes.

    With `shuffle` (training) all processes together see, batch by batch, what a single process with batches of
    `world * batch_size` sees: each takes its slice of each global batch, an uneven rest is divided evenly, and all have
    equally many batches. Without (evaluation) each process has a contiguous part in the table's order, every sample
    counts once over all processes, and parts may be unequal or even empty.

    Args:
        samples: decoded or not; see `samples.prepare`.
        batch_size: samples a process.
        shuffle: training order instead of the table's.
        seed: of the training order, the same on all processes.
        rank: number of this process.
        world: number of processes.
        workers: processes that decode; used only for what the cache does not hold; None for as many as the machine has room
            for (`workers.workers_for`).
        drop: what to do with the rest of a training epoch, see `batch_bounds`; None is almost always right.

    Raises:
        InputError: fewer training samples than processes, or than a global batch with `drop`.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world: int = 1,
        workers: int | None = 0,
        drop: bool | None = None,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch size {batch_size}: expected a positive whole number")
        if not 0 <= rank < world:
            raise InputError(f"rank {rank} of {world} processes: expected 0 to {world - 1}")
        self.samples, self.batch_size, self.shuffle, self.seed = samples, batch_size, shuffle, seed
        self.rank, self.world, self.workers, self.drop = rank, world, workers, drop
        self.epoch = 0
        self._start = 0
        self._dropout: ModalityDropout | None = None
        least = world if shuffle else 0
        if len(samples) < least or (drop and shuffle and len(samples) < world * batch_size):
            name = samples.table.source
            raise InputError(
                f"{name}: {len(samples)} samples are too few for {world} x {batch_size} at a time; add more"
            )

    def __len__(self) -> int:
        return len(self.batches())

    def __iter__(self) -> Iterator[Batch]:
        batches = self.batches()[self._start :]
        self._start = 0
        self._draw(self.epoch)
        loaded = self._load(batches)
        if self._dropout is None:
            return loaded
        there = {m: self.samples.columns[m].present for m in self._dropout.modalities}
        left = self._dropout.left(there, self.seed, self.epoch)

        def lost(places: Places, batch: Batch) -> Batch:
            index = torch.from_numpy(places)
            return batch._replace(present=(batch.present or {}) | {m: one[index] for m, one in left.items()})

        return map(lost, batches, loaded)

    def _load(self, batches: list[Places]) -> Iterator[Batch]:
        if self.samples.freeze() or self.workers == 0 or len(batches) < 2:
            return map(self.samples.batch, batches)
        workers = workers_for(self.workers, self._bytes(), self.world)
        if not workers.processes:
            return map(self.samples.batch, batches)
        # An own generator: the default one is drawn from for the workers' seeds, and results would depend on `workers`.
        loader: torch.utils.data.DataLoader[dict[str, Value]] = torch.utils.data.DataLoader(
            Decoding(self.samples),
            sampler=batches,
            batch_size=None,
            num_workers=min(workers.processes, len(batches)),
            prefetch_factor=workers.ahead,
            generator=torch.Generator(),
        )
        return map(self.samples.batch, batches, loader)

    def _bytes(self) -> int:
        """Of one batch of what is not in memory, at most: four bytes a number."""
        size = min(self.batch_size, len(self.samples))
        columns = [one for one in self.samples.columns.values() if isinstance(one, Column)]
        return sum(4 * size * math.prod(one.input.shape) for one in columns if len(one))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch
        for column in self.samples.columns.values():
            if isinstance(column, FeatureColumn):
                column.epoch = epoch

    def sample_keys(self, modality: str) -> tuple[list[str], bool]:
        """See `features.Storable`: the options of the input, the cells, and each file's size and time of change."""
        self._draw(self.epoch)
        column = self.samples.columns[modality]
        return column.keys(), column.drawn

    def raw(self, modality: str, places: Places, draw: int = 0) -> Value | Features:
        """Inputs of the samples at `places`; of an input that is drawn at random, those of epoch `draw`."""
        self._draw(draw)
        return self.samples.columns[modality].batch(places)

    def fixed(self, modalities: Sequence[str]) -> Loader:
        """The same loader whose samples of these modalities are not drawn at random but as evaluation sees them."""
        own = {m: self.samples.columns[m] for m in modalities}
        return self.replaced({m: one.fixed() for m, one in own.items() if isinstance(one, Column)})

    def _draw(self, epoch: int) -> None:
        for column in self.samples.columns.values():
            if isinstance(column, Column):
                column.seed, column.epoch = self.seed, epoch

    def replaced(self, columns: Mapping[str, FeatureColumn | Column]) -> Loader:
        """The same loader with features in the place of the inputs of some modalities."""
        loader = copy.copy(self)
        loader.samples = copy.copy(self.samples)
        loader.samples.columns = {**self.samples.columns, **cast(Mapping[str, Column], columns)}
        return loader

    def losing(self, probability: float, modalities: Sequence[str]) -> Loader:
        """The same loader whose samples lose each of these modalities with `probability`, never all; see `missing.lose`.

        Who loses what is a function of seed, epoch and place, whatever the batches, workers and processes.
        """
        loader = copy.copy(self)
        loader._dropout = ModalityDropout(probability, tuple(modalities))
        return loader

    def skip(self, batches: int) -> None:
        """Let the next iteration, and only it, begin after so many batches, as when training resumes."""
        self._start = batches

    @property
    def indices(self) -> Places:
        """Places in `samples` that this process goes through in this epoch, in order."""
        return np.concatenate([np.zeros(0, np.int64), *self.batches()])

    def batches(self) -> list[Places]:
        """Places of the samples of each batch of this process in this epoch."""
        count = len(self.samples)
        if not self.shuffle:
            own = np.array_split(np.arange(count), self.world)[self.rank]
            return [own[i : i + self.batch_size] for i in range(0, len(own), self.batch_size)]
        order = permutation(count, self.seed, self.epoch)
        bounds = batch_bounds(count, self.world * self.batch_size, 2 * self.world, self.drop)
        return [np.array_split(order[start:stop], self.world)[self.rank] for start, stop in pairwise(bounds)]
