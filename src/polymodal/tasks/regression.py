"""One number a sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from polymodal import metrics
from polymodal.errors import InputError
from polymodal.tasks.base import Array, Task

__all__ = ["Regression"]


class Regression(Task):
    """One number a sample: target (B,), loss the squared or absolute error of the logit (B, 1), score the squared error.

    Targets keep their unit; centre and scale the output with `mean` and `std` of the training targets, so that a network
    whose outputs are of order one starts near the answer.

    Args:
        loss: "mse" or "mae".
        mean, std: prediction = mean + std * logit, in the unit of the target.
        sentiment: also give the figures of `metrics.sentiment`, for targets in [-3, 3].
    """

    score_is_error = True
    default_metric = "mae"
    mixture = "mean"

    def __init__(self, loss: str = "mse", mean: float = 0.0, std: float = 1.0, sentiment: bool = False) -> None:
        if loss not in ("mse", "mae"):
            raise InputError(f"loss {loss!r} of a regression; it is 'mse' or 'mae'")
        if not std > 0:
            raise InputError(f"std {std} of the training targets; it must be above 0 (are all targets equal?)")
        self.outputs, self.loss, self.mean, self.std, self.sentiment = 1, loss, mean, std, sentiment

    def _error(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.squeeze(-1) - (target.to(logits) - self.mean) / self.std

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        error = self._error(logits, target)
        return error.square() if self.loss == "mse" else error.abs()

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        return self._error(logits, target).square()

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.mean + self.std * logits

    def predict(self, probabilities: Array) -> Array:
        return np.asarray(probabilities[:, 0])

    def metrics(self, probabilities: Array, target: Array) -> dict[str, float]:
        value = self.predict(probabilities)
        loss = float(self.sample_losses(probabilities, target).mean())
        errors = {"mae": metrics.mae(value, target), "mse": metrics.mse(value, target), "loss": loss}
        return errors | (metrics.sentiment(value, target) if self.sentiment else {})

    def figures(self, metric: str, probabilities: Array, target: Array) -> list[NDArray[np.float64]]:
        error = np.abs(self.predict(probabilities) - target).astype(np.float64)
        return [error**2 if metric == "mse" else error, self.sample_losses(probabilities, target)]

    def sample_losses(self, probabilities: Array, target: Array) -> NDArray[np.float64]:
        error = np.abs(self.predict(probabilities) - target) / self.std
        return np.asarray(error**2 if self.loss == "mse" else error, np.float64)
