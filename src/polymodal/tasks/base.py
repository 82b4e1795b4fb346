"""What a model is trained for: the loss, the per-sample score, the prediction and the metrics of a kind of target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.types import Batch, Output

__all__ = ["Array", "Task", "count_dtype"]

Array = NDArray[Any]


class Task:
    """What a model is trained for.

    A task gives losses and scores for each sample (B,), never their mean: means are formed once, over micro-batches and
    processes (`polymodal.types.Totals`). One that has more to go by than logits (retrieval) overrides `fused_losses`, which
    sees the whole output.
    """

    score_is_error: ClassVar[bool] = False
    """True where a larger score means a worse modality (regression)."""
    default_metric: ClassVar[str]
    """What model selection goes by when the user names nothing."""
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "ece", "mae", "mse"})
    mixture: ClassVar[str]
    """How probabilities of several models are averaged: "categorical", "bernoulli" or "mean"."""

    outputs: int
    """C, the width of the logits."""

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Weighted loss of each sample (B,)."""
        raise NotImplementedError

    def fused_losses(self, output: Output, batch: Batch) -> Tensor:
        """Weighted loss of each sample's fused prediction (B,)."""
        if output.logits is None:
            raise TypeError(f"{type(self).__name__} needs fused logits, and the model's fusion yields none")
        return self.losses(output.logits, batch.target)

    def weights(self, target: Tensor) -> Tensor:
        """What each sample adds to the denominator of a mean loss (B,)."""
        return torch.ones(len(target), device=target.device, dtype=count_dtype(target))

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """How well a modality does on each sample (B,)."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (B, C), or the predicted value (B, 1) for regression."""
        raise NotImplementedError

    def over_split(self, output: Output) -> tuple[Tensor, ...]:
        """What of a batch is kept until the whole split is there, each (B, ...)."""
        if output.logits is None:
            raise TypeError("the model yields no fused logits; a retrieval model is evaluated with the task Retrieval")
        wide = output.logits.float() if output.logits.device.type == "mps" else output.logits.double()
        return (self.probabilities(wide),)

    def joined(self, kept: Sequence[Array], target: Array) -> Array:
        """Probabilities (N, C) of the whole split from the concatenated parts of `over_split`."""
        return np.asarray(kept[0], np.float64)

    def predict(self, probabilities: Array) -> Array:
        """The decision: class index (N,), labels (N, C) or value (N,)."""
        raise NotImplementedError

    def metrics(self, probabilities: Array, target: Array) -> dict[str, float]:
        """Figures of merit by name over a whole split, from probabilities (N, C)."""
        raise NotImplementedError

    def figures(self, metric: str, probabilities: Array, target: Array) -> list[NDArray[np.float64]]:
        """What each sample adds to the error and to the loss, two arrays (N,) of which smaller is better.

        `metric` chooses the first where it is a mean over samples; otherwise (F1, ECE) the share of wrong decisions stands
        for it.
        """
        decided = self.predict(probabilities)
        wrong = (decided != target).astype(np.float64)
        return [wrong if wrong.ndim == 1 else wrong.mean(-1), self.sample_losses(probabilities, target)]

    def sample_losses(self, probabilities: Array, target: Array) -> NDArray[np.float64]:
        """The unweighted loss of each sample (N,), from probabilities (N, C)."""
        raise NotImplementedError


def count_dtype(like: Tensor) -> torch.dtype:
    """Type of counts on the device of `like`."""
    # Counts are sums over whole epochs; Apple's GPUs alone have no float64.
    return torch.float32 if like.device.type == "mps" else torch.float64
