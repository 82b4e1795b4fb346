"""One class a sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from polymodal import metrics
from polymodal.errors import InputError
from polymodal.tasks.base import Array, Task, count_dtype

__all__ = ["Classification"]


class Classification(Task):
    """One class a sample: target (B,) class index, loss the cross-entropy, score the probability of the true class.

    Args:
        classes: number of classes C.
        class_weights: (C,) weight of each class in the loss, whose mean then divides by the sum of the weights.
    """

    default_metric = "accuracy"
    mixture = "categorical"

    def __init__(self, classes: int, class_weights: Sequence[float] | None = None) -> None:
        if classes < 2:
            raise InputError(f"{classes} class: classification needs two or more")
        if class_weights is not None and len(class_weights) != classes:
            raise InputError(f"{len(class_weights)} class weights for {classes} classes; give one a class")
        self.outputs = classes
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64)

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        weight = None if self.class_weights is None else self.class_weights.to(logits)
        return F.cross_entropy(logits, target, weight=weight, reduction="none")

    def weights(self, target: Tensor) -> Tensor:
        if self.class_weights is None:
            return super().weights(target)
        return self.class_weights.to(target.device, count_dtype(target))[target]

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        # In half precision the probability of a hopeless class would round to zero and the ratio of scores to infinity.
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return wide.softmax(-1).gather(-1, target[:, None]).squeeze(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def predict(self, probabilities: Array) -> Array:
        return np.asarray(probabilities.argmax(-1))

    def metrics(self, probabilities: Array, target: Array) -> dict[str, float]:
        prediction = self.predict(probabilities)
        confidence = probabilities.max(-1).clip(0, 1)
        return {
            "accuracy": metrics.accuracy(prediction, target),
            "f1_macro": metrics.f1(prediction, target, "macro"),
            "f1_weighted": metrics.f1(prediction, target, "weighted"),
            "ece": metrics.ece(confidence, prediction == target),
            "loss": float(self.sample_losses(probabilities, target).mean()),
        }

    def sample_losses(self, probabilities: Array, target: Array) -> NDArray[np.float64]:
        true = np.take_along_axis(probabilities, target[:, None].astype(np.int64), -1)[:, 0]
        return np.asarray(-np.log(true.clip(1e-12)), np.float64)
