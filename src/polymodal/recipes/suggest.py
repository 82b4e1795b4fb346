"""Advice of Du et al. 2023: do the modalities of a data set have to be seen together?"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from polymodal.data.loader import permutation
from polymodal.distributed import gather_objects
from polymodal.encoders.base import width
from polymodal.errors import InputError
from polymodal.model import MultimodalModel
from polymodal.recipes.base import Setup
from polymodal.recipes.ume import ume
from polymodal.types import Batch, Features, move

__all__ = ["Advice", "suggest_ume_or_umt"]


@dataclass(frozen=True)
class Advice:
    """What `suggest_ume_or_umt` found on validation.

    Attributes:
        recipe: "ume" or "umt".
        metric: what was compared.
        ume: of the averaged uni-modal models.
        linear: of a linear head on their concatenated frozen features.
        gain: by how much the linear head is better (negative where it is worse).
        standard_error: of the gain, over the validation samples, paired.
        samples: how many those are.
    """

    recipe: str
    metric: str
    ume: float
    linear: float
    gain: float
    standard_error: float
    samples: int

    @property
    def certain(self) -> bool:
        """Whether the gain is larger than its standard error."""
        return abs(self.gain) > self.standard_error

    def __str__(self) -> str:
        doubt = "" if self.certain else "; the difference is within its standard error, so either will do"
        return (
            f"recipe {self.recipe!r}: valid {self.metric} of a linear head on frozen features {self.linear:.4f}, of averaging "
            f"{self.ume:.4f}; better by {self.gain:+.4f} (standard error {self.standard_error:.4f}, {self.samples} samples)"
            f"{doubt}"
        )


def suggest_ume_or_umt(setup: Setup, combine: str = "prob") -> Advice:
    """Train each modality alone and compare, on validation, averaging with a linear head on the concatenated features.

    Where the head is better, features matter in pairs, which an average cannot use: take recipe `umt`. Otherwise take
    `ume`. The head is trained by the run's own settings on features that are computed once and standardised by the
    training split; stages are shared with the recipes, so that following the advice trains no modality again.

    Args:
        combine: what is averaged, see `ume`.

    Raises:
        InputError: no validation split, or fewer than two modalities.

    Source: Du et al. 2023, section 4.3 (no margin is asked there; the standard error is ours).
    """
    if setup.valid is None:
        raise InputError("suggest_ume_or_umt compares on a validation split; give one")
    if len(setup.modalities) < 2:
        raise InputError(f"suggest_ume_or_umt needs two modalities or more; there is {list(setup.modalities)}")
    averaged = ume(setup, combine).model
    encoders = {m: copy.deepcopy(one).requires_grad_(False) for m, one in averaged.encoders.items()}
    train, valid = _Cached(encoders, setup.train, setup.config.seed), _Cached(encoders, setup.valid)
    for m, pooled in train.pooled.items():  # a linear head on raw features would be slow where their scales differ
        whole = torch.cat(gather_objects(pooled))
        mean, std = whole.mean(0), whole.std(0).clamp_min(1e-6)
        for part in (train, valid):
            part.pooled[m] = (part.pooled[m] - mean) / std
    frozen = replace(setup, train=train, valid=valid)

    def build() -> MultimodalModel:
        part = {"name": "concat"}
        return MultimodalModel(encoders, setup.fusion({m: width(one) for m, one in encoders.items()}, part))

    linear = frozen.evaluate(frozen.fit("frozen_concat", build)[0])
    average = setup.evaluate(averaged)
    task, metric = setup.task, setup.config.train.metric or setup.task.default_metric
    errors = [task.figures(metric, found.probabilities, found.target)[0] for found in (average, linear)]
    difference, count = errors[0] - errors[1], len(average.target)
    sign = -1.0 if metric in task.lower_is_better else 1.0
    gain = sign * (linear.metrics[metric] - average.metrics[metric])
    spread = float(difference.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    choice = "umt" if gain > 0 else "ume"
    return Advice(choice, metric, average.metrics[metric], linear.metrics[metric], gain, spread, count)


class _Cached:
    """Batches of pooled features of frozen encoders, each sample encoded once; shuffled where a seed is given."""

    def __init__(self, encoders: Mapping[str, nn.Module], loader: Iterable[Batch], seed: int | None = None) -> None:
        self.seed, self.epoch, self._start = seed, 0, 0
        batches = [_encoded(encoders, batch) for batch in loader]
        self.sizes = [len(batch.target) for batch in batches]
        self.pooled = {m: torch.cat([batch.inputs[m].pooled for batch in batches]) for m in encoders}
        self.target = torch.cat([batch.target for batch in batches])
        named = {m for batch in batches for m in batch.present or {}}
        self.present = {m: torch.cat([_there(batch, m) for batch in batches]) for m in named}

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Batch]:
        start, self._start = self._start, 0
        count = len(self.target)
        order = torch.arange(count)
        if self.seed is not None:
            order = torch.from_numpy(permutation(count, self.seed, self.epoch))
        for places in list(torch.split(order, self.sizes))[start:]:
            present = {m: one[places] for m, one in self.present.items()} or None
            inputs = {m: Features(one[places]) for m, one in self.pooled.items()}
            yield Batch(inputs, self.target[places], present)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order."""
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """Begin the next iteration after so many batches."""
        self._start = batches


@torch.no_grad()
def _encoded(encoders: Mapping[str, nn.Module], batch: Batch) -> Batch:
    inputs = {}
    for m, encoder in encoders.items():
        device = next((p.device for p in encoder.parameters()), torch.device("cpu"))
        inputs[m] = Features(encoder.eval()(move(batch.inputs[m], device)).pooled.cpu())
    return batch._replace(inputs=inputs)


def _there(batch: Batch, modality: str) -> Tensor:
    present = (batch.present or {}).get(modality)
    return torch.ones(len(batch.target), dtype=torch.bool) if present is None else present
