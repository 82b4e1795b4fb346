"""OGM and OGM-GE: on-the-fly gradient modulation (Peng et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from polymodal.balancers.base import Balancer
from polymodal.balancers.collapse import Bound
from polymodal.balancers.mlb import mlb_ratios
from polymodal.balancers.scores import Score
from polymodal.errors import InputError
from polymodal.sharding import own_share, own_tensor, whole_tensor
from polymodal.types import Model, Task

__all__ = ["OGM", "OGM_GE", "ogm_coefficients", "ogm_noise_std", "ogm_ratios"]

_FILTERS: dict[str, tuple[Callable[[nn.Parameter], bool], str]] = {
    "conv": (lambda p: p.ndim == 4, "4-D (2-D convolution) weights, as the authors' code does"),
    "weights": (lambda p: p.ndim >= 2, "matrices and convolutions, no biases or norms"),
    "all": (lambda p: True, "every parameter"),
}


def ogm_ratios(scores: Tensor, *, errors: bool = False, eps: float = 0.0) -> Tensor:
    """rho_m = s_m / mean_{j != m} s_j of (M,) scores; above 1 where modality m leads.

    With `errors` a larger score is worse and the ratio is turned over. For M > 2 this is our extension.

    Source: Peng et al. 2022, eq. 8 (two modalities).

    Example:
        >>> ogm_ratios(torch.tensor([0.6, 0.3]))
        tensor([2.0000, 0.5000])
    """
    return mlb_ratios(scores, errors=not errors, eps=eps)


def ogm_coefficients(ratios: Tensor, alpha: float) -> Tensor:
    """k_m = 1 - tanh(alpha rho_m) for the leading modality, 1 for the others; (M,) -> (M,).

    The first of two modalities leads in a tie: the authors' `else` branch, which jumps from 1 to 1 - tanh(alpha) at
    rho = 1. With more than two, every modality above the mean of the others is slowed.

    Source: Peng et al. 2022, eq. 10.

    Example:
        >>> ogm_coefficients(torch.tensor([2.0, 0.5]), alpha=0.1)
        tensor([0.8026, 1.0000])
        >>> ogm_coefficients(torch.tensor([1.0, 1.0]), alpha=0.3)
        tensor([0.7087, 1.0000])
    """
    leads = ratios > 1 + 1e-6  # above 1 by rounding alone, equal scores would all be slowed
    if len(ratios) == 2:
        leads = torch.stack([ratios[1] <= 1, ratios[1] > 1])
    return torch.where(leads, 1 - torch.tanh(alpha * ratios), torch.ones_like(ratios))


def ogm_noise_std(grad: Tensor) -> Tensor:
    """Deviation of the noise added to one gradient tensor: its own, unbiased and before scaling, plus 1e-8; 0-dim.

    A tensor of one element has none, and gets no noise.

    Source: Peng et al. 2022, section 3.4; the scalar per tensor is the authors' code, the paper has a covariance.

    Example:
        >>> ogm_noise_std(torch.tensor([0.1, -0.2, 0.3, 0.4]))
        tensor(0.2646)
    """
    return grad.std() + 1e-8 if grad.numel() > 1 else torch.zeros_like(grad.sum())


class OGM(Balancer):
    """Joint training that slows the encoder of the leading modality: g <- k_m g, k_m of `ogm_coefficients`.

    L = CE(z, y); the scores are those of each modality's share of a linear fused head.

    Args:
        alpha: strength, > 0 (the authors use 0.1 and 0.3; 0.6 to 1.0 in later re-runs).
        param_filter: "conv", "weights" or "all" of the parameters in scope. The authors' "conv" leaves a Transformer
            almost untouched.
        epochs: first and last epoch of modulation (the authors stop after epoch 50).
        score: "parts", which needs an additive fusion, or "heads", which needs heads that something trains.
        scope, apply_to: see `Balancer`.

    Raises:
        InputError: fewer than two modalities, or a filter that matches nothing (before the first step).

    Source: Peng et al. 2022, eq. 7 to 11.
    Differs from the authors' code: scores are summed over micro-batches and processes; any number of modalities (ours).
    """

    default_score = "parts"

    def __init__(
        self,
        alpha: float = 0.3,
        param_filter: str = "conv",
        *,
        epochs: tuple[int, int] | None = (0, 50),
        score: str | Score | None = None,
        scope: Iterable[str] = ("encoder",),
        apply_to: str = "grad",
        eps: float = 1e-8,
    ) -> None:
        super().__init__(score=score, scope=scope, apply_to=apply_to, epochs=epochs)
        if not alpha > 0:
            raise InputError(f"{type(self).__name__}: alpha={alpha}; the strength must be above 0")
        if param_filter not in _FILTERS:
            raise InputError(f"{type(self).__name__}: param_filter={param_filter!r}; there are {list(_FILTERS)}")
        self.alpha, self.param_filter, self.eps = alpha, param_filter, eps

    def coefficients(self, scores: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
        ratios = ogm_ratios(torch.stack(list(scores.values())), errors=task.score_is_error, eps=self.eps)
        return dict(zip(scores, ogm_coefficients(ratios, self.alpha), strict=True))

    def bounds(self) -> tuple[Bound, ...]:
        # A leading modality gets this much or less; one that lags is left alone.
        return (Bound(1 - math.tanh(self.alpha), "1 - tanh(alpha)", "alpha"),)

    def parameters_of(self, model: Model, modality: str) -> list[nn.Parameter]:
        keep, _ = _FILTERS[self.param_filter]
        return [p for p in super().parameters_of(model, modality) if keep(p)]

    def filter_hint(self) -> str:
        return f" with param_filter={self.param_filter!r} ({_FILTERS[self.param_filter][1]}; try 'weights' or 'all')"


class OGM_GE(OGM):
    """OGM with generalisation enhancement: g <- k_m g + N(0, std(g)^2), std of the unscaled gradient tensor.

    Args:
        seed: of the noise; every process draws the same, so that replicas stay alike.

    Source: Peng et al. 2022, eq. 12 and 13. Differs from the authors' code: the noise comes from a generator of its own,
    whose state a checkpoint keeps; the modality with k_m = 1 gets noise as well, as in their code.
    """

    noise_state: Tensor

    def __init__(self, alpha: float = 0.3, param_filter: str = "conv", *, seed: int = 0, **options: object) -> None:
        super().__init__(alpha, param_filter, **options)  # type: ignore[arg-type]
        if self.apply_to == "update":
            raise InputError("OGM_GE adds noise to gradients; apply_to='update' has no place for it, use 'ogm'")
        self._generator = torch.Generator().manual_seed(seed)
        self.register_buffer("noise_state", self._generator.get_state())
        self._scratch = torch.empty(0)

    def modulate(self, step: object) -> dict[str, Tensor]:
        self._generator.set_state(self.noise_state.cpu())
        found = super().modulate(step)  # type: ignore[arg-type]
        self.noise_state.copy_(self._generator.get_state())
        return found

    def rescale(self, grad: Tensor, coefficient: Tensor) -> None:
        # Of a tensor that is cut over processes, the deviation and the noise are those of the whole.
        std = ogm_noise_std(whole_tensor(grad))
        # One piece of memory for all tensors: asking for a fresh one each time costs a quarter of the draw.
        if self._scratch.dtype != grad.dtype or self._scratch.numel() < grad.numel():
            self._scratch = torch.empty(grad.numel(), dtype=grad.dtype)
        noise = self._scratch[: grad.numel()].view(grad.shape).normal_(generator=self._generator)
        own = own_tensor(grad)
        own.mul_(coefficient.to(own)).addcmul_(own_share(noise, grad).to(own.device), std)
