"""Sequence fusion as the paper defines it, without factors: slow references of `sequence_fusion`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from polymodal.adapters.sequence_fusion import vector_fusion

__all__ = ["dense_weight", "sf_op", "sf_vf"]


def dense_weight(factors: Sequence[Tensor]) -> Tensor:
    """The tensor that CP factors (R, K, n_m) stand for: W[k, i_1..i_M] = sum_r prod_m w_m[r, k, i_m].

    Source: Guo et al. 2025, eqs. 5, 6, 11 and 12.

    Example:
        >>> dense_weight([torch.ones(3, 2, 4), torch.ones(3, 2, 5)]).shape
        torch.Size([2, 4, 5])
    """
    joined = factors[0]
    for factor in factors[1:]:
        joined = joined[..., None] * factor.view(*factor.shape[:2], *[1] * (joined.ndim - 2), -1)
    return joined.sum(0)


def sf_op(h: Sequence[Tensor], w_t: Tensor, w_h: Tensor) -> Tensor:
    """SF-OP, W_t . H . W_h with the outer product H of all tokens and features held: (B, d_t, d_h).

    Args:
        h: (B, l_m, d_m) of each modality.
        w_t: (d_t, l_1..l_M).
        w_h: (d_h, d_1..d_M).

    Source: Guo et al. 2025, eqs. 9 and 10.

    Example:
        >>> sf_op([torch.ones(1, 2, 3), torch.ones(1, 4, 5)], torch.ones(6, 2, 4), torch.ones(7, 3, 5))[0, 0, 0].item()
        120.0
    """
    outer = h[0]
    for x in h[1:]:
        outer = outer[:, :, None, :, None] * x[:, None, :, None, :]
        outer = outer.flatten(1, 2).flatten(2, 3)
    return w_t.flatten(1) @ (outer @ w_h.flatten(1).mT)


def sf_vf(h: Sequence[Tensor], w_t: Tensor, w_h: Sequence[Tensor]) -> Tensor:
    """SF-VF, a vector fusion for every tuple of tokens, then W_t: (B, d_t, d_h).

    Args:
        h: (B, l_m, d_m) of each modality.
        w_t: (d_t, l_1..l_M).
        w_h: factors (R, d_h, d_m).

    Source: Guo et al. 2025, eqs. 8 and 10.

    Example:
        >>> h = [torch.ones(1, 2, 3), torch.ones(1, 4, 5)]
        >>> sf_vf(h, torch.ones(6, 2, 4), [torch.ones(1, 7, 3), torch.ones(1, 7, 5)])[0, 0, 0].item()
        120.0
    """
    tuples = product(*(range(x.shape[1]) for x in h))
    fused = [vector_fusion([x[:, i] for x, i in zip(h, places, strict=True)], w_h) for places in tuples]
    return w_t.flatten(1) @ torch.stack(fused, 1)
