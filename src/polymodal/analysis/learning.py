"""How fast each encoder learns: the norm of its gradients and how far its weights move, epoch by epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polymodal.model import MultimodalModel
from polymodal.types import Step

__all__ = ["Learning"]


class Learning:
    """Watches the encoders during training.

    For each modality and epoch: `gradient`, the mean over optimiser steps of ||g||_2 before the balancer changes g, and
    `speed`, ||theta_end - theta_start||_2 / ||theta_start||_2. Costs a norm a step and a copy of the encoders' weights.

    Hand it to `fit(..., observe=Learning(model))`, whose history rows then hold "learning"; or call it in a loop of your
    own between `backward` and `modulate`, and `end_epoch` after each epoch.

    Args:
        model: whose trainable encoder weights are watched; one that is frozen has gradient and speed 0.

    Attributes:
        rows: one {modality: {"gradient": ..., "speed": ...}} a finished epoch.

    Source: ours, after the conditional learning speed of Wu et al. 2022, which compares gradient and weights.

    Example:
        >>> from polymodal import encoders, fusion
        >>> model = MultimodalModel({"a": encoders.MLP(2, dim=3)}, fusion.Concat({"a": 3}, outputs=2))
        >>> Learning(model).end_epoch()
        {'a': {'gradient': 0.0, 'speed': 0.0}}
    """

    def __init__(self, model: MultimodalModel) -> None:
        self.parameters: dict[str, list[nn.Parameter]] = {m: model.parameters_of(m) for m in model.modalities}
        self.rows: list[dict[str, dict[str, float]]] = []
        self._start: dict[str, list[Tensor]] = {}
        self._norms: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def __call__(self, step: Step) -> None:
        """Note the gradients of one optimiser step, which has its backward pass behind it."""
        if not self._start:  # not in the constructor: `fit` moves the model to its device
            self._start = {m: [p.detach().clone() for p in mine] for m, mine in self.parameters.items()}
        for m, mine in self.parameters.items():
            found = [p.grad for p in mine if p.grad is not None]
            self._norms.setdefault(m, []).append(_norm(found) if found else torch.zeros(()))

    @torch.no_grad()
    def end_epoch(self) -> dict[str, dict[str, float]]:
        """The figures of the epoch that ends, which also join `rows`."""
        row = {}
        for m, mine in self.parameters.items():
            norms, start = self._norms.get(m, []), self._start.get(m, [])
            moved = [p.detach() - before for p, before in zip(mine, start, strict=bool(start))]
            length = float(_norm(start)) if start else 0.0
            row[m] = {
                "gradient": sum(float(one) for one in norms) / max(len(norms), 1),
                "speed": float(_norm(moved)) / length if length else 0.0,
            }
        self._start, self._norms = {}, {}
        self.rows.append(row)
        return row


def _norm(tensors: list[Tensor]) -> Tensor:
    whole: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one.float()) for one in tensors]))
    return whole
