"""Exact forms of sequence fusion after the token sums: one result, of different time and memory.

All take y_m = w_t,m h_m (R_t, Q, d_m), where a row q of Q stands for one output token of one sample, and
b_m = w_h,m (R_h, K, d_m), and yield sum_r sum_s prod_m (y_m[r] b_m[s]^T), a (Q, K) matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

__all__ = ["choose_form", "core", "plain", "stream"]

BLOCK = 2**16
"""Elements of one modality's product that `stream` holds at a time, where it may join ranks."""
CHUNK = 2**21
"""Elements of the Khatri-Rao products that `core` holds at a time."""
LARGEST_CORE = 2**16
"""Columns of the Khatri-Rao products up to which `core` is considered."""


def choose_form(widths: Sequence[int], rows: int, columns: int, rank_t: int, rank_h: int) -> str:
    """The form expected to be fastest: "core" where one product over all index tuples beats R_t R_h small ones.

    core iff  D (1 + 5 (R_t / K + R_h / Q)) < R_t R_h (sum_m d_m + 13 M)  and  D <= 2^16, where D = prod_m d_m; else
    "stream", and "plain" for a single pair of ranks.

    Args:
        widths: d_m of each modality.
        rows: Q, samples times output tokens.
        columns: K, the output width.
        rank_t: R_t.
        rank_h: R_h.

    Example:
        >>> choose_form([16, 16, 16], 24 * 16, 256, 8, 8), choose_form([16] * 7, 16 * 16, 512, 8, 8)
        ('core', 'stream')
    """
    if rank_t * rank_h == 1:
        return "plain"
    tuples = prod(widths)
    joined = tuples * (1 + 5 * (rank_t / columns + rank_h / rows))
    apart = rank_t * rank_h * (sum(widths) + 13 * len(widths))
    return "core" if tuples <= LARGEST_CORE and joined < apart else "stream"


def plain(ys: Sequence[Tensor], bs: Sequence[Tensor], shared: bool = False) -> Tensor:
    """All ranks at once, R_t R_h Q K numbers a modality: differentiable any number of times, and under `torch.func`."""
    ranks = "rqj,rkj->rqk" if shared else "rqj,skj->rsqk"
    factors = [torch.einsum(ranks, y, b) for y, b in zip(ys, bs, strict=True)]
    whole = factors[0]
    for factor in factors[1:]:
        whole = whole * factor
    return whole.flatten(0, -3).sum(0)


def stream(ys: Sequence[Tensor], bs: Sequence[Tensor], shared: bool = False) -> Tensor:
    """Rank block by rank block, computed anew in backward: time as R_t R_h sum_m d_m, memory without R_t R_h.

    Args:
        ys: (R_t, Q, d_m) each.
        bs: (R_h, K, d_m) each.
        shared: one rank index for both, sum_r prod_m (y_m[r] b_m[r]^T).
    """
    return _apply(_Stream, ys, bs, shared)


def core(ys: Sequence[Tensor], bs: Sequence[Tensor]) -> Tensor:
    """Ranks summed before the modalities meet: Z C^T with Z[q, j_1..j_M] = sum_r prod_m y_m[r, q, j_m] and C likewise of b_m.

    Time as prod_m d_m, almost without R_t and R_h; in chunks over j_1, computed anew in backward.
    """
    return _apply(_Core, ys, bs, False)


def _apply(form: type[torch.autograd.Function], ys: Sequence[Tensor], bs: Sequence[Tensor], shared: bool) -> Tensor:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return plain(ys, bs, shared)
    result: Tensor = form.apply(shared, *ys, *bs)
    return result


def _halves(factors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    half = len(factors) // 2
    return factors[:half], factors[half:]


def _again(grad: Tensor, factors: Sequence[Tensor], shared: bool) -> tuple[Tensor, ...] | None:
    """Gradients of the plain form where they must themselves be differentiable or mapped over; None elsewhere."""
    twice = torch.is_grad_enabled()
    if not twice and not torch._C._functorch.is_legacy_batchedtensor(grad):
        return None
    with torch.enable_grad():
        # Views, so that a tensor that serves two modalities gets one gradient for each place.
        inputs = [f.view_as(f) if f.requires_grad else f.detach().requires_grad_() for f in factors]
        return torch.autograd.grad(plain(*_halves(inputs), shared), inputs, grad, create_graph=twice)


class _Stream(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared: bool, *factors: Tensor) -> Tensor:
        ctx.shared = shared
        ctx.save_for_backward(*factors)
        ys, bs = _halves(factors)
        taken = 1 if shared else _ranks_at_once(ys, bs)
        lefts, rights = _by_rank(ys, 1), _by_rank(bs, taken)
        total, whole, factor = lefts[0][0].new_empty(3, len(lefts[0][0]), len(rights[0][0])).unbind(0)
        total.zero_()
        for r, s in _pairs(len(lefts), len(rights), shared):
            for m, (y, b) in enumerate(zip(lefts[r], rights[s], strict=True)):
                torch.mm(y, b.mT, out=factor if m else whole)
                if m:
                    whole.mul_(factor)
            total.add_(whole)
        return total.view(len(total), taken, -1).sum(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        factors: tuple[Tensor, ...] = ctx.saved_tensors
        found = _again(grad, factors, ctx.shared)
        if found is not None:
            return (None, *found)
        ys, bs = _halves(factors)
        taken = 1 if ctx.shared else _ranks_at_once(ys, bs)
        sums = [torch.zeros_like(factor, memory_format=torch.contiguous_format) for factor in factors]
        lefts, rights = _by_rank(ys, 1), _by_rank(bs, taken)
        into_left, into_right = _by_rank(sums[: len(ys)], 1), _by_rank(sums[len(ys) :], taken)
        grad = grad.contiguous() if taken == 1 else grad.repeat(1, taken)
        # Memory taken anew in each round would go back to the system and cost more than the products.
        room = grad.new_empty(2 * len(ys) - 1, *grad.shape).unbind(0)
        with torch.autocast(grad.device.type, enabled=False):
            for r, s in _pairs(len(lefts), len(rights), ctx.shared):
                for m, one in enumerate(_product_grads(lefts[r], rights[s], grad, room)):
                    into_left[r][m].addmm_(one, rights[s][m])
                    into_right[s][m].addmm_(one.mT, lefts[r][m])
        return (None, *sums)


def _ranks_at_once(ys: Sequence[Tensor], bs: Sequence[Tensor]) -> int:
    """The largest divisor of R_h that keeps a block within `BLOCK` elements, 1 at least."""
    rank, cells = bs[0].shape[0], ys[0].shape[1] * bs[0].shape[1]
    return max(s for s in range(1, rank + 1) if rank % s == 0 and (s == 1 or s * cells <= BLOCK))


def _by_rank(factors: Sequence[Tensor], taken: int) -> list[tuple[Tensor, ...]]:
    """Views of (R, N, d_m) factors as R / taken blocks, each with one (taken N, d_m) matrix a modality."""
    blocks = [factor.reshape(-1, taken * factor.shape[1], factor.shape[2]).unbind(0) for factor in factors]
    return list(zip(*blocks, strict=True))


def _pairs(left: int, right: int, shared: bool) -> list[tuple[int, int]]:
    return [(r, r) for r in range(left)] if shared else list(product(range(left), range(right)))


def _product_grads(
    left: Sequence[Tensor], right: Sequence[Tensor], grad: Tensor, room: Sequence[Tensor]
) -> list[Tensor]:
    """The gradient of prod_m (y_m b_m^T) for each factor: grad times all others. Fills `room`, 2 M - 1 matrices."""
    factors = [torch.mm(y, b.mT, out=one) for y, b, one in zip(left, right, room, strict=False)]
    *rooms, after = room[len(factors) :]
    before = [factors[0]]
    for factor, one in zip(factors[1:], rooms, strict=False):
        before.append(torch.mul(before[-1], factor, out=one))
    found = [before.pop().mul_(grad)]
    torch.mul(grad, factors[-1], out=after)
    for factor in reversed(factors[1:-1]):
        found.append(before.pop().mul_(after))
        after.mul_(factor)
    return [after, *reversed(found)]


class _Core(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared: bool, *factors: Tensor) -> Tensor:
        ctx.save_for_backward(*factors)
        ys, bs = map(_ranks_last, _halves(factors))
        total = ys[0].new_zeros(len(ys[0]), len(bs[0]))
        for chunk in _chunks(ys, bs):
            total.addmm_(_rank_summed(_cut(ys, chunk)), _rank_summed(_cut(bs, chunk)).mT)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        factors: tuple[Tensor, ...] = ctx.saved_tensors
        found = _again(grad, factors, False)
        if found is not None:
            return (None, *found)
        ys, bs = map(_ranks_last, _halves(factors))
        into_left, into_right = ([torch.zeros_like(factor) for factor in side] for side in (ys, bs))
        with torch.autocast(grad.device.type, enabled=False):
            for chunk in _chunks(ys, bs):
                left, right = _cut(ys, chunk), _cut(bs, chunk)
                # One side after the other, so that no product stands beside its own gradient.
                _add_grads(_cut(into_left, chunk), left, grad @ _rank_summed(right))
                _add_grads(_cut(into_right, chunk), right, grad.mT @ _rank_summed(left))
        return (None, *(total.permute(2, 0, 1) for total in (*into_left, *into_right)))


def _ranks_last(factors: Sequence[Tensor]) -> list[Tensor]:
    """(R, Q, d_m) factors as (Q, d_m, R), laid out so where sums over features follow, which then run fast."""
    views = [factor.permute(1, 2, 0) for factor in factors]
    return views if len(views) == 2 else [view.contiguous() for view in views]


def _chunks(ys: Sequence[Tensor], bs: Sequence[Tensor]) -> list[slice]:
    """Slices of j_1 of about equal size, each with at most `CHUNK` elements of Z and C together where that is possible."""
    first, *others = (y.shape[1] for y in ys)
    cells = (len(ys[0]) + len(bs[0])) * prod(others)
    size = ceil(first / ceil(first / max(1, CHUNK // cells)))
    return [slice(low, low + size) for low in range(0, first, size)]


def _cut(factors: Sequence[Tensor], chunk: slice) -> list[Tensor]:
    return [factors[0][:, chunk], *factors[1:]]


def _rank_summed(factors: Sequence[Tensor]) -> Tensor:
    """sum_r of the Khatri-Rao product of (Q, d_m, R) factors: (Q, prod_m d_m)."""
    first, second = map(_khatri_rao, _two(factors))
    return torch.bmm(first, second.mT).flatten(1)


def _two(factors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    half = (len(factors) + 1) // 2
    return factors[:half], factors[half:]


def _khatri_rao(factors: Sequence[Tensor]) -> Tensor:
    joined = factors[0]
    for factor in factors[1:]:
        joined = (joined[:, :, None] * factor[:, None]).flatten(1, 2)
    return joined


def _add_grads(totals: Sequence[Tensor], factors: Sequence[Tensor], grad: Tensor) -> None:
    """Add to `totals` what the gradient (Q, prod_m d_m) of the rank sum means for each factor."""
    (first, second), (into_first, into_second) = _two(factors), _two(totals)
    one, other = _khatri_rao(first), _khatri_rao(second)
    grad = grad.view(len(grad), one.shape[1], other.shape[1])
    for into, some, part, met in ((into_first, first, grad, other), (into_second, second, grad.mT, one)):
        _add_khatri_rao_grads(into, some, torch.bmm(part, met))  # not baddbmm_: slow for factors with ranks in front


def _add_khatri_rao_grads(totals: Sequence[Tensor], factors: Sequence[Tensor], grad: Tensor) -> None:
    """Add to `totals` what the gradient (Q, prod_m d_m, R) of the Khatri-Rao product means for each factor."""
    *before, last = factors
    if not before:
        totals[0].add_(grad)
        return
    joined = _khatri_rao(before)
    grad = grad.reshape(len(grad), joined.shape[1], last.shape[1], -1)
    totals[-1].add_((grad * joined[:, :, None]).sum(1))
    _add_khatri_rao_grads(totals[:-1], before, (grad * last[:, None]).sum(2))
