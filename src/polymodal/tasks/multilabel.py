"""Any number of labels a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from polymodal import metrics
from polymodal.errors import InputError
from polymodal.tasks.base import Array, Task

__all__ = ["MultiLabel"]


class MultiLabel(Task):
    """Any number of C labels a sample: target (B, C) of 0 and 1, loss the binary cross-entropy averaged over labels.

    The score is the mean probability given to each label's true value.

    Args:
        labels: number of labels C.
        positive_weights: (C,) weight of each label's positive term (Kiela et al. 2019 use N / n_c on MM-IMDB).
        threshold: a label is predicted where its probability reaches this.
    """

    default_metric = "f1_macro"
    mixture = "bernoulli"

    def __init__(self, labels: int, positive_weights: Sequence[float] | None = None, threshold: float = 0.5) -> None:
        if positive_weights is not None and len(positive_weights) != labels:
            raise InputError(f"{len(positive_weights)} positive weights for {labels} labels; give one a label")
        self.outputs = labels
        self.positive_weights = (
            None if positive_weights is None else torch.tensor(positive_weights, dtype=torch.float64)
        )
        self.threshold = threshold

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        weight = None if self.positive_weights is None else self.positive_weights.to(logits)
        losses = F.binary_cross_entropy_with_logits(logits, target.to(logits), pos_weight=weight, reduction="none")
        return losses.mean(-1)

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return torch.where(target > 0.5, wide, -wide).sigmoid().mean(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def predict(self, probabilities: Array) -> Array:
        return (probabilities >= self.threshold).astype(np.int64)

    def metrics(self, probabilities: Array, target: Array) -> dict[str, float]:
        prediction = self.predict(probabilities)
        return {
            "f1_micro": metrics.f1(prediction, target, "micro"),
            "f1_macro": metrics.f1(prediction, target, "macro"),
            "f1_weighted": metrics.f1(prediction, target, "weighted"),
            "accuracy": float((prediction == target).all(-1).mean()),
            "loss": float(self.sample_losses(probabilities, target).mean()),
        }

    def sample_losses(self, probabilities: Array, target: Array) -> NDArray[np.float64]:
        given = np.where(target > 0.5, probabilities, 1 - probabilities)
        return np.asarray(-np.log(given.clip(1e-12)).mean(-1), np.float64)
