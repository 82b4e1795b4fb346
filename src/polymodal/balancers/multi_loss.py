"""Multi-Loss: uni-modal losses beside the fused one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from polymodal.balancers.base import Balancer
from polymodal.errors import InputError
from polymodal.types import Model, Step, Task

__all__ = ["MultiLoss"]


class MultiLoss(Balancer):
    """Adds the loss of a uni-modal head of each encoder: L = CE(z, y) + sum_m w_m CE(z_m, y).

    The heads are layers of their own on the pooled features, not the split fusion weight; the gradient of z_m reaches
    encoder m alone. A sample that lacks modality m does not count in its term.

    Args:
        weights: w_m, one number for all or one a modality; all 1 in the authors' configurations.

    Raises:
        InputError: the weights do not name the model's modalities (before the first step).

    Source: Vielzeuf et al. 2018; Kontras et al. 2024, eq. 3.

    Example:
        >>> MultiLoss(weights={"audio": 0.5, "video": 1.0}).weight_of("audio")
        0.5
    """

    needs_heads = True

    def __init__(self, weights: float | Mapping[str, float] = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.weights = dict(weights) if isinstance(weights, Mapping) else float(weights)

    def weight_of(self, modality: str) -> float:
        """w_m of one modality."""
        return float(self.weights[modality]) if isinstance(self.weights, dict) else self.weights

    def check(self, model: Model, task: Task) -> None:
        super().check(model, task)
        if isinstance(self.weights, dict) and set(self.weights) != set(model.modalities):
            raise InputError(
                f"{type(self).__name__}: weights name {sorted(self.weights)} and the model has the modalities "
                f"{sorted(model.modalities)}; give one weight for each"
            )

    def loss(self, step: Step) -> Tensor:
        loss = step.fused_loss()
        for modality in step.output.unimodal:
            loss = loss + self.weight_of(modality) * step.unimodal_loss(modality)
        return loss
