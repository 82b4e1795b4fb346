"""Sequence fusion with whole weights, one number a tuple of tokens or features: what `SequenceFusion` has factors for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from math import prod

import torch
from torch import Tensor, nn

from polymodal.adapters.sequence_fusion import check_length, check_lengths, check_sizes, counted
from polymodal.errors import InputError

__all__ = ["WholeFusion", "outer_product_fusion", "vector_tuple_fusion"]

LARGEST = 2**28
"""Numbers of one whole weight at most: 1 GiB in single precision, four times that with its gradient and Adam's moments."""


def outer_product_fusion(h: Sequence[Tensor], w_t: Tensor, w_h: Tensor) -> Tensor:
    """SF-OP, W_t . H . W_h with H the outer product of all sequences: (B, d_t, d_h).

    H, with B prod_m l_m d_m numbers, is never held: the tokens of one modality after another are summed into its features,
    from the last to the first, and W_h comes at the end. What is held is B d_t l_1..l_{m-1} d_m..d_M numbers in turn.

    Args:
        h: (B, l_m, d_m) of each modality.
        w_t: (d_t, l_1, ..., l_M).
        w_h: (d_h, d_1, ..., d_M).

    Source: Guo et al. 2025, eqs. 9 and 10.

    Example:
        >>> h = [torch.ones(1, 2, 3), torch.ones(1, 4, 5)]
        >>> outer_product_fusion(h, torch.ones(6, 2, 4), torch.ones(7, 3, 5))[0, 0, 0].item()
        120.0
    """
    *others, last = h
    summed = w_t.flatten(0, -2) @ last  # (B, d_t l_1..l_{M-1}, d_M)
    for x in reversed(others):
        apart = summed.unflatten(1, (-1, x.shape[1]))  # type: ignore[no-untyped-call]
        summed = torch.einsum("bplx,bld->bpdx", apart, x).flatten(2)
    return summed @ w_h.flatten(1).mT


def vector_tuple_fusion(h: Sequence[Tensor], w_t: Tensor, w_h: Sequence[Tensor]) -> Tensor:
    """SF-VF, a vector fusion of every tuple of tokens, then W_t: (B, d_t, d_h).

    All B d_h prod_m l_m results of the vector fusions are held.

    Args:
        h: (B, l_m, d_m) of each modality.
        w_t: (d_t, l_1, ..., l_M).
        w_h: feature factors (R, d_h, d_m) of each modality.

    Source: Guo et al. 2025, eqs. 7, 8 and 10, with the sum over ranks outside of the product.

    Example:
        >>> h = [torch.ones(1, 2, 3), torch.ones(1, 4, 5)]
        >>> vector_tuple_fusion(h, torch.ones(6, 2, 4), [torch.ones(1, 7, 3), torch.ones(1, 7, 5)])[0, 0, 0].item()
        120.0
    """
    *others, last = (torch.einsum("bld,rkd->bklr", x, w) for x, w in zip(h, w_h, strict=True))
    joined = reduce(lambda one, other: (one[:, :, :, None] * other[:, :, None]).flatten(2, 3), others)
    tuples = (joined @ last.mT).flatten(2)  # (B, d_h, prod_m l_m)
    return (tuples @ w_t.flatten(1).mT).mT


class WholeFusion(nn.Module):
    """The weights of `outer_product_fusion`, or of `vector_tuple_fusion` where a rank is given, times a fixed scale.

    W_t is zero at first, so that the fusion starts at 0; W_h ~ N(0, 1), its factors N(0, 1/d_m). The scale holds the sums over
    n = prod_m L_m (and prod_m d_m) products to the size of one. It stands in the place of a small spread, since an optimiser
    whose steps are all of one size, such as Adam, would move a sum of 10^5 weights by 10^5 times its rate. A tuple with a
    token that does not count has no share. A sample that lacks one of the modalities therefore yields 0: whole weights have no
    part that could be left out.

    Args:
        dims: d_m of each modality.
        lengths: largest sequence length L_m of each.
        tokens: d_t, tokens of the output.
        width: d_h, their width.
        rank: R of the feature factors; None for a whole W_h.
        scale: (prod_m L_m d_m)^(-1/2) by default, with a rank (R prod_m L_m)^(-1/2); 1 is the formula of the paper.

    Raises:
        InputError: fewer than two modalities, sizes below 1, or a weight of more than 2^28 numbers.

    Example:
        >>> fusion = WholeFusion({"a": 4, "v": 3}, {"a": 9, "v": 5}, tokens=2, width=6)
        >>> tuple(fusion.w_t.shape), tuple(fusion.w_h.shape)
        ((2, 9, 5), (6, 4, 3))
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        lengths: Mapping[str, int],
        *,
        tokens: int,
        width: int,
        rank: int | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if len(dims) < 2:
            raise InputError(f"fusion of {list(dims)}: it multiplies modalities, so it needs at least two")
        check_sizes(tokens=tokens, width=width, **({} if rank is None else {"rank": rank}))
        check_lengths(dims, lengths)
        self.lengths = {m: lengths[m] for m in dims}
        summed = prod(self.lengths.values()) * (prod(dims.values()) if rank is None else rank)
        self.scale = summed**-0.5 if scale is None else scale
        time, feature = (tokens, *self.lengths.values()), (width, *dims.values())
        _check_whole("W_t", time, "sequences (lengths=...) or fewer tokens")
        self.w_t = nn.Parameter(torch.zeros(time))
        if rank is None:
            _check_whole("W_h", feature, "features (down=..., or narrower encoders)")
            self.w_h: nn.Parameter | nn.ParameterDict = nn.Parameter(torch.randn(feature))
        else:
            self.w_h = nn.ParameterDict({m: torch.randn(rank, width, dim) * dim**-0.5 for m, dim in dims.items()})

    def forward(
        self,
        h: Mapping[str, Tensor],
        masks: Mapping[str, Tensor | None] | None = None,
        present: Mapping[str, Tensor | None] | None = None,
        tokens: int | None = None,
    ) -> Tensor:
        """Fused tokens (B, d_t, d_h); arguments as for `SequenceFusion`, whose `present` the masks tell already.

        Raises:
            InputError: a sequence longer than its maximum.
        """
        for m, most in self.lengths.items():
            check_length(m, h[m].shape[1], most)
        shown = [counted(h[m], None if masks is None else masks.get(m)).to(self.w_t.dtype) for m in self.lengths]
        w_t = self.w_t[tuple(slice(size) for size in (tokens, *(x.shape[1] for x in shown)))]
        with torch.autocast(
            w_t.device.type, enabled=False
        ):  # a product of M terms: always in the weights' own precision
            if isinstance(self.w_h, nn.ParameterDict):
                return vector_tuple_fusion(shown, w_t, [self.w_h[m] for m in self.lengths]) * self.scale
            return outer_product_fusion(shown, w_t, self.w_h) * self.scale

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """The feature factors of one modality; whole weights belong to all together."""
        return [self.w_h[modality]] if isinstance(self.w_h, nn.ParameterDict) else []


def _check_whole(name: str, shape: Sequence[int], remedy: str) -> None:
    size = prod(shape)
    if size > LARGEST:
        raise InputError(
            f"whole weight {name} of {' x '.join(map(str, shape))} = {size:.3g} numbers ({4 * size / 1e9:.3g} GB), and at most "
            f"{LARGEST:.3g} are allowed; use fusion='sequence', which holds its factors, or smaller {remedy}"
        )
