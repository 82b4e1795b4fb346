"""G-Blending: gradient blending by overfitting and generalisation (Wang et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gblend_overfitting", "gblend_ratios", "gblend_weights"]


def gblend_overfitting(train_n: Tensor, val_n: Tensor, train_N: Tensor, val_N: Tensor) -> tuple[Tensor, Tensor]:
    """Generalisation G_k and overfitting O_k of each head between checkpoints n < N, from mean losses (K,).

    G_k = Lval_k(n) - Lval_k(N); O_k = (Lval_k - Ltrain_k)(N) - (Lval_k - Ltrain_k)(n).

    Source: Wang et al. 2020, section 3.1.

    Example:
        >>> one = torch.ones(1)
        >>> gblend_overfitting(2.0 * one, 2.5 * one, 1.0 * one, 1.75 * one)
        (tensor([0.7500]), tensor([0.2500]))
    """
    return val_n - val_N, (val_N - train_N) - (val_n - train_n)


def gblend_ratios(generalization: Tensor, overfitting: Tensor) -> Tensor:
    """G_k / O_k^2, the optimal weights before they are scaled to sum to 1; (K,), (K,) -> (K,).

    A head that did not generalise (G < 0) gets 0, and O^2 is at least 1e-8.

    Source: Wang et al. 2020, proposition 1; the guards are ours.

    Example:
        >>> gblend_ratios(torch.tensor([0.5, -0.1]), torch.tensor([0.5, 0.2]))
        tensor([2., 0.])
    """
    return generalization.clamp_min(0) / overfitting.square().clamp_min(1e-8)


def gblend_weights(train_n: Tensor, val_n: Tensor, train_N: Tensor, val_N: Tensor) -> Tensor:
    """w_k = (1 / Z) G_k / O_k^2, summing to 1, of the heads (modalities and fused) from mean losses (K,) -> (K,).

    Losses are means over samples, of training and validation at the checkpoints n < N. If no head generalised the
    weights are equal.

    Source: Wang et al. 2020, eq. 2 to 6.

    Example:
        >>> train, val = torch.tensor([2.0, 2.0]), torch.tensor([2.0, 2.0])
        >>> gblend_weights(train, val, torch.tensor([1.0, 1.0]), torch.tensor([1.5, 1.25]))
        tensor([0.1429, 0.8571])
    """
    raw = gblend_ratios(*gblend_overfitting(train_n, val_n, train_N, val_N))
    return torch.where(
        raw.sum() > 0, raw / raw.sum().clamp_min(torch.finfo(raw.dtype).tiny), torch.full_like(raw, 1 / len(raw))
    )
