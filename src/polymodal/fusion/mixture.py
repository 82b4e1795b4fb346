"""Mixture fusion: the average of the uni-modal predictions, by probabilities or by logits."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from polymodal.errors import InputError
from polymodal.fusion.base import Fusion
from polymodal.types import Features

__all__ = ["Mixture", "log_mixture", "logit_mixture"]


def log_mixture(logits: Tensor, log_weights: Tensor) -> Tensor:
    """Log sum_m w_m softmax(z_m): (M, B, C) and log w (M, B) -> log-probabilities (B, C).

    Never the logarithm of an average: probabilities as small as exp(-100) keep their gradient.

    Source: anonymous 2023 (MMLoRA), eq. 3.

    Example:
        >>> logits = torch.tensor([[[3.0, 2.9, -8.0]], [[-2.0, -0.5, 4.0]]])
        >>> log_mixture(logits, torch.full((2, 1), 0.5).log()).argmax(-1)  # averaged logits would choose class 1
        tensor([2])
    """
    return torch.logsumexp(F.log_softmax(logits, -1) + log_weights[..., None], 0)


def logit_mixture(logits: Tensor, log_weights: Tensor) -> Tensor:
    """logit(sum_m w_m sigmoid(z_m)) a label: (M, B, C) and log w (M, B) -> logits (B, C) of a mixture of Bernoullis.

    Example:
        >>> z = torch.tensor([[[2.0]], [[-0.5]]])
        >>> logit_mixture(z, torch.full((2, 1), 0.5).log()).sigmoid()
        tensor([[0.6292]])
    """
    on = torch.logsumexp(F.logsigmoid(logits) + log_weights[..., None], 0)
    off = torch.logsumexp(F.logsigmoid(-logits) + log_weights[..., None], 0)
    return on - off


class Mixture(Fusion):
    """The average of the uni-modal heads: logits whose softmax (or sigmoid) is sum_m w_m P_m.

    With `combine="prob"` the cross-entropy of the result is -log sum_m w_m P_m(y), the loss of MMLoRA: its gradient goes
    to the modality that is already right. With `combine="logit"` it is sum_m w_m z_m, which shares the gradient equally.
    Over samples that lack a modality the weights of the others are scaled up to sum to 1.

    Args:
        dims: the modalities (widths are not used).
        outputs: C.
        combine: "prob" or "logit".
        weights: w_m >= 0 that sum to 1; equal by default.
        kind: "categorical", "bernoulli" (several labels) or "mean" (regression, where both rules are the same).

    Raises:
        InputError: weights that are negative, do not sum to 1 or do not name the modalities.

    Source: anonymous 2023 (MMLoRA), eq. 2 and 3; Du et al. 2023 (UME).
    Differs from the authors' code: none is public; the multi-label form is ours.

    Example:
        >>> mixture = Mixture({"a": 2, "v": 2}, outputs=2)
        >>> mixture({}, {"a": torch.tensor([[0.0, 0.0]]), "v": torch.tensor([[9.0, -9.0]])}).exp()
        tensor([[0.7500, 0.2500]])
    """

    needs_heads = True

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        combine: str = "prob",
        weights: Mapping[str, float] | None = None,
        kind: str = "categorical",
    ) -> None:
        super().__init__(dims, outputs)
        if combine not in ("prob", "logit"):
            raise InputError(f"Mixture: combine={combine!r}; it is 'prob' (average probabilities) or 'logit'")
        if kind not in ("categorical", "bernoulli", "mean"):
            raise InputError(f"Mixture: kind={kind!r}; it is 'categorical', 'bernoulli' or 'mean'")
        given = dict(weights) if weights is not None else dict.fromkeys(dims, 1 / len(dims))
        if set(given) != set(dims) or min(given.values()) < 0 or abs(sum(given.values()) - 1) > 1e-6:
            raise InputError(f"Mixture: weights {given}; give one >= 0 for each of {list(dims)}, summing to 1")
        self.combine, self.kind, self.weights = combine, kind, given

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor:
        logits = torch.stack([unimodal[m] for m in self.weights])
        weights = logits.new_tensor(list(self.weights.values()))[:, None].expand(logits.shape[:2])
        present = [features[m].present if m in features else None for m in self.weights]
        if any(one is not None for one in present):
            there = torch.stack([torch.ones_like(weights[0], dtype=torch.bool) if p is None else p for p in present])
            # A sample that lacks every modality of any weight falls back to all of them rather than to NaN.
            usable = there & (weights > 0)
            weights = torch.where(usable | ~usable.any(0), weights, torch.zeros_like(weights))
            weights = weights / weights.sum(0)
        if self.combine == "logit" or self.kind == "mean":
            return (weights[..., None] * logits).sum(0)
        return (log_mixture if self.kind == "categorical" else logit_mixture)(logits, weights.log())
