"""UMT: uni-modal teachers (Du et al. 2023)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.balancers.base import Balancer
from polymodal.errors import InputError
from polymodal.types import Features, Model, Step, Task

__all__ = ["UMT", "feature_distances"]


def feature_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """(1 / D) ||h_n - t_n||^2 of each sample, no gradient into t: (B, D), (B, D) -> (B,).

    Source: Du et al. 2023, section 4.2.

    Example:
        >>> feature_distances(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]]))
        tensor([2.5000])
    """
    return (student - teacher.detach().to(student)).square().mean(-1)


class UMT(Balancer):
    """Joint training whose encoders imitate frozen uni-modal teachers: L = CE(z, y) + lambda sum_m MSE(h_m, t_m).

    h_m and t_m are the pooled features of student and teacher; the mean runs over features and over the samples that
    have the modality, with the weights that the samples have in the task's loss (all 1 without class weights).

    The teachers are copied, run in eval mode without gradients whatever mode the balancer is in, and are no part of its
    state: give them again to resume.

    Args:
        teachers: the trained uni-modal encoder of each modality, or of those that shall have one.
        weight: lambda, >= 0 (10 in a public benchmark).

    Raises:
        InputError: a teacher of an unknown modality or of another width than the encoder; precomputed features as
            input.

    Source: Du et al. 2023, eq. 3.
    Differs from the authors' code: none is public. A public benchmark leaves its teachers in train mode, so that their
    BatchNorm statistics drift.

    Example:
        >>> from polymodal.encoders import MLP
        >>> UMT({"audio": MLP(6, dim=8), "video": MLP(5, dim=4)}, weight=10.0).weight
        10.0
    """

    def __init__(self, teachers: Mapping[str, nn.Module], weight: float = 10.0) -> None:
        super().__init__()
        if not teachers:
            raise InputError("UMT: no teachers; give the trained uni-modal encoder of each modality")
        if not weight >= 0:
            raise InputError(f"UMT: weight={weight}; lambda is 0 or above (10 in a public benchmark)")
        # In a plain dictionary they are no submodules: neither `train()` nor the state reaches them.
        self.teachers = {m: copy.deepcopy(one).eval().requires_grad_(False) for m, one in teachers.items()}
        self.weight = float(weight)

    def check(self, model: Model, task: Task) -> None:
        super().check(model, task)
        if not set(self.teachers) <= set(model.modalities):
            raise InputError(f"UMT: teachers of {sorted(self.teachers)} for a model of {sorted(model.modalities)}")
        for m, teacher in self.teachers.items():
            student = model.encoders[m]
            if getattr(teacher, "dim", None) != student.dim:
                raise InputError(
                    f"UMT: the teacher of {m!r} yields width {getattr(teacher, 'dim', None)} and its encoder "
                    f"{student.dim}; train the teacher with the same encoder"
                )
            for parameter in student.parameters():
                teacher.to(parameter.device)
                break

    def loss(self, step: Step) -> Tensor:
        loss = step.fused_loss()
        weights = step.task.weights(step.batch.target)
        for m, teacher in self.teachers.items():
            x = step.batch.inputs[m]
            if isinstance(x, Features):
                raise InputError(
                    f"UMT: the input of {m!r} is precomputed features, which no encoder can be taught to change"
                )
            with torch.no_grad():
                target: Features = teacher(x)
            distances = feature_distances(step.output.features[m].pooled, target.pooled)
            distances = distances * weights.to(distances)
            present = step.present(m)
            if present is not None:
                distances = torch.where(present, distances, torch.zeros_like(distances))
            loss = loss + self.weight * distances.sum() / step.totals.unimodal[m]
        return loss

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> UMT:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for teacher in self.teachers.values():
            teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self
