"""MMPareto: Pareto integration of uni-modal and fused gradients (Wei and Hu 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from polymodal.balancers.multi_loss import MultiLoss
from polymodal.distributed import average
from polymodal.errors import InputError
from polymodal.types import Model, Step, Task

__all__ = ["MMPareto", "mmpareto_combine", "mmpareto_cosine", "mmpareto_factor", "mmpareto_weights"]


def mmpareto_cosine(multi: Tensor, uni: Tensor) -> Tensor:
    """cos(g_mm, g_u) of two gradients (P,), 0 where one of them is zero; 0-dim.

    Example:
        >>> mmpareto_cosine(torch.tensor([1.0, 0.5]), torch.tensor([0.5, 1.0]))
        tensor(0.8000)
    """
    norms = multi.norm() * uni.norm()
    return torch.where(norms > 0, torch.dot(multi, uni) / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)


def mmpareto_weights(multi: Tensor, uni: Tensor) -> Tensor:
    """(w, 1 - w) of g_mm and g_u (P,): one half each where cos > 0, else the shortest convex combination; (2,).

    w = (g_u.g_u - g_mm.g_u) / (|g_mm|^2 + |g_u|^2 - 2 g_mm.g_u), 0.999 or 0.001 where one vector alone is the shortest.

    Source: Wei and Hu 2024, eq. 5 and 6; the bounds are the authors' code.

    Example:
        >>> mmpareto_weights(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0]))
        tensor([0.6000, 0.4000])
    """
    mm, uu, mu = multi @ multi, uni @ uni, multi @ uni
    w = (uu - mu) / (mm + uu - 2 * mu).clamp_min(torch.finfo(mm.dtype).tiny)
    w = torch.where(mu >= uu, torch.full_like(w, 0.001), w)
    w = torch.where(mu >= mm, torch.full_like(w, 0.999), w)
    # Two zero gradients neither agree nor conflict.
    agree = (mmpareto_cosine(multi, uni) > 0) | (mm + uu == 0)
    w = torch.where(agree, torch.full_like(w, 0.5), w)
    return torch.stack([w, 1 - w])


def mmpareto_combine(multi: Tensor, uni: Tensor) -> Tensor:
    """Gradient g = 2 w g_mm + 2 (1 - w) g_u: the plain sum where the two agree; (P,), (P,) -> (P,).

    Source: Wei and Hu 2024, eq. 5 and 6.

    Example:
        >>> mmpareto_combine(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0]))
        tensor([0.4000, 0.8000])
    """
    weights = 2 * mmpareto_weights(multi, uni)
    return weights[0] * multi + weights[1] * uni


def mmpareto_factor(total: Tensor, combined: Tensor) -> Tensor:
    """max(|g_mm + g_u| / |g|, 1) of one tensor's plain sum and combination; 1 where |g| is 0 but for rounding.

    Source: Wei and Hu 2024, eq. 8, as coded: a combination is never shorter than the sum.

    Example:
        >>> mmpareto_factor(torch.tensor([0.0, 1.0]), torch.tensor([0.4, 0.8]))
        tensor(1.1180)
    """
    norm, length = combined.norm(), total.norm()
    ratio = length / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    # Where the two cancel, only rounding is left, and no gain makes a direction of that.
    kept = norm > length * torch.finfo(norm.dtype).eps ** 0.5
    return torch.where(kept, ratio.clamp_min(1), torch.ones_like(ratio))


class MMPareto(MultiLoss):
    """Multi-Loss whose encoders follow a Pareto combination of their fused and their uni-modal gradient.

    L = CE(z, y) + sum_m w_m CE(z_m, y). In encoder m, g_mm is the gradient of the first term and g_u that of the
    others; it follows gamma max(lambda, 1) g with g of `mmpareto_combine` over the whole encoder and lambda of
    `mmpareto_factor` tensor by tensor. Heads, fusion and adapters keep the plain sum.

    `backward` runs the whole loss backwards as usual and keeps g_u (one more backward pass of the encoders); `modulate`
    finds g_mm as the difference and writes the combination. So micro-batches, processes and loss scaling are exact.

    Args:
        gamma: gain, > 0 (the authors use 1.5).
        weights: w_m of the uni-modal losses; 1 by the authors.

    Raises:
        InputError: a model without heads, with fewer than two modalities, or with a frozen encoder.

    Source: Wei and Hu 2024, eq. 5 to 8 and algorithm 1.
    Differs from the authors' code: one extra backward pass instead of three; gradients of length zero are guarded;
    gradients are summed over micro-batches and processes before the rule.
    """

    shardable = False  # the gradient of one term alone is taken with respect to whole parameters

    def __init__(self, gamma: float = 1.5, weights: float | Mapping[str, float] = 1.0) -> None:
        super().__init__(weights, scope=("encoder",))
        if not gamma > 0:
            raise InputError(f"MMPareto: gamma={gamma}; the gain must be above 0 (the authors use 1.5)")
        self.gamma = float(gamma)
        self.last_cosines: dict[str, Tensor] = {}
        self._unimodal: dict[str, Tensor] = {}

    def check(self, model: Model, task: Task) -> None:
        super().check(model, task)
        self.check_comparison(model, task)
        self.check_scope(model)

    def backward(self, step: Step, run: Callable[[Tensor], Any] = Tensor.backward) -> Tensor:
        self.check_once(step)
        names = step.model.modalities
        owned = {m: self.parameters_of(step.model, m) for m in names}
        unimodal = torch.stack([self.weight_of(m) * step.unimodal_loss(m) for m in names]).sum()
        grads = iter(
            torch.autograd.grad(
                unimodal,
                [p for m in names for p in owned[m]],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )
        for m in names:
            flat = torch.cat([next(grads).flatten() for _ in owned[m]])
            self._unimodal[m] = self._unimodal[m] + flat if m in self._unimodal else flat
        loss = step.fused_loss() + unimodal
        run(loss)
        return loss.detach()

    @torch.no_grad()
    def modulate(self, step: Step) -> dict[str, Tensor]:
        """Write the combined gradients; returns nothing, since no single coefficient says what was done."""
        unimodal, self._unimodal = self._unimodal, {}
        average(list(unimodal.values()))
        for m, uni in unimodal.items():
            parameters = self.parameters_of(step.model, m)
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            total = torch.cat([grad.flatten() for grad in grads])
            multi = total - uni
            self.last_cosines[m] = mmpareto_cosine(multi, uni)
            combined = mmpareto_combine(multi, uni)
            sizes = [p.numel() for p in parameters]
            halves = torch.split(combined, sizes), torch.split(total, sizes)
            for p, grad, new, old in zip(parameters, grads, *halves, strict=True):
                p.grad = grad.copy_((self.gamma * mmpareto_factor(old, new) * new).view_as(grad))
        return {}
