"""MLB: multi-loss balanced training (Kontras et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from polymodal.balancers.collapse import Bound
from polymodal.balancers.multi_loss import MultiLoss
from polymodal.balancers.scores import Score
from polymodal.errors import InputError
from polymodal.types import Task

__all__ = ["MLB", "mean_of_others", "mlb_coefficients", "mlb_ratios"]


def mean_of_others(scores: Tensor) -> Tensor:
    """(1 / (M - 1)) sum_{j != m} s_j for each of (M,) scores."""
    return (scores.sum() - scores) / (len(scores) - 1)


def mlb_ratios(scores: Tensor, *, errors: bool = False, eps: float = 0.0) -> Tensor:
    """r_m = mean_{j != m} s_j / s_m of (M,) scores, M >= 2; above 1 where modality m lags behind.

    With `errors` a larger score is worse and r_m = s_m / mean_{j != m} s_j. `eps` joins the denominator.

    Source: Kontras et al. 2024, eq. 5 (the regression form is in the authors' code only).

    Example:
        >>> mlb_ratios(torch.tensor([0.6, 0.3]))
        tensor([0.5000, 2.0000])
    """
    others = mean_of_others(scores)
    return scores / (others + eps) if errors else others / (scores + eps)


def mlb_coefficients(ratios: Tensor, alpha: float, beta_max: float | None = None) -> Tensor:
    """k_m = 1 + (beta_m - 1) tanh(alpha (r_m - 1)), beta_m = beta_max where r_m > 1, else 2; (M,) -> (M,).

    k_m lies in (1 - tanh(alpha), beta_max) and is 1 at equal scores. `beta_max=None` is 2, the same in both directions.

    Source: Kontras et al. 2024, eq. 6 and 7.

    Example:
        >>> mlb_coefficients(torch.tensor([0.5, 1.0, 2.0]), alpha=0.5, beta_max=10)
        tensor([0.7551, 1.0000, 5.1591])
    """
    beta = torch.where(ratios > 1, 2.0 if beta_max is None else float(beta_max), 2.0).to(ratios)
    return 1 + (beta - 1) * torch.tanh(alpha * (ratios - 1))


class MLB(MultiLoss):
    """Multi-Loss with a coefficient per encoder that speeds up the lagging modality and slows down the leading one.

    L = CE(z, y) + sum_m w_m CE(z_m, y); after backward the gradient (or, with `apply_to="update"`, the learning rate) of
    every parameter of modality m is multiplied by k_m of `mlb_coefficients`, from the scores of this batch.

    Args:
        alpha: slope of the tanh, > 0 (the authors use 0.5 to 5).
        beta_max: bound of the acceleration, >= 1 (1 is none; None is 2; the authors use 2 to 20).
        weights: w_m of the uni-modal losses.
        apply_to: "grad" as the authors' code does, "update" as their eq. 2 says. Adam is nearly blind to the first.
        scope: "encoder" and "head" are the paper's; the authors' code also scales the modality's block of the fusion
            weight ("fusion"), never the fusion bias nor a shared fusion network.
        score: what the coefficients come from; the uni-modal heads by default.
        eps: added to the denominator of the ratio, against scores that round to zero; 0 is the authors' code.

    Raises:
        InputError: fewer than two modalities, or a scope that matches nothing (before the first step).

    Source: Kontras et al. 2024, eq. 2 to 7.
    Differs from the authors' code: scores are means over the whole optimiser step (all micro-batches and processes),
    probabilities are taken in single precision, `eps` guards the ratio. Eq. 4 prints a sum; the ratio is the same.

    Example:
        >>> from polymodal.tasks import Classification
        >>> scores = {"a": torch.tensor(0.6), "v": torch.tensor(0.3)}
        >>> MLB(alpha=0.5, beta_max=10).coefficients(scores, Classification(3))
        {'a': tensor(0.7551), 'v': tensor(5.1591)}
    """

    default_score = "heads"

    def __init__(
        self,
        alpha: float = 0.5,
        beta_max: float | None = 10.0,
        weights: float | Mapping[str, float] = 1.0,
        *,
        apply_to: str = "grad",
        scope: Iterable[str] = ("encoder", "head", "fusion"),
        score: str | Score | None = None,
        eps: float = 1e-8,
        epochs: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(weights, score=score, scope=scope, apply_to=apply_to, epochs=epochs)
        if not alpha > 0:
            raise InputError(f"MLB: alpha={alpha}; the slope must be above 0 (the authors use 0.5 to 5)")
        if beta_max is not None and not beta_max >= 1:
            raise InputError(f"MLB: beta_max={beta_max}; the bound must be 1 (no acceleration) or more")
        self.alpha, self.beta_max, self.eps = alpha, beta_max, eps

    def coefficients(self, scores: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
        ratios = mlb_ratios(torch.stack(list(scores.values())), errors=task.score_is_error, eps=self.eps)
        return dict(zip(scores, mlb_coefficients(ratios, self.alpha, self.beta_max), strict=True))

    def bounds(self) -> tuple[Bound, ...]:
        fastest = 2.0 if self.beta_max is None else float(self.beta_max)
        slowest = 1 - math.tanh(self.alpha)
        return Bound(slowest, "1 - tanh(alpha)", "alpha"), Bound(fastest, "beta_max", "beta_max")
