"""Low-rank fusion of the vectors, or of whole token sequences, of any number of modalities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from polymodal.adapters.sequence_fusion_forms import choose_form, core, plain, stream
from polymodal.encoders.base import masked_mean
from polymodal.errors import InputError
from polymodal.names import check_modalities

__all__ = ["SequenceFusion", "VectorFusion", "sequence_fusion", "vector_fusion"]

FORMS = ("auto", "stream", "core", "plain")
RANK_SUMS = ("outside", "inside")


def sequence_fusion(
    h: Sequence[Tensor],
    w_t: Sequence[Tensor],
    w_h: Sequence[Tensor],
    *,
    present: Sequence[Tensor | None] | None = None,
    rank_sum: str = "outside",
    shared_rank: bool = False,
    form: str = "auto",
) -> Tensor:
    """Every token of a modality meets every token of all others, in low rank.

    SF(h) = sum_{r=1..R_t} sum_{s=1..R_h} prod_m (w_t,m^(r) h_m w_h,m^(s)^T), products element by element: (B, d_t, d_h).

    Args:
        h: (B, l_m, d_m) of each modality, zero at tokens that do not count.
        w_t: time factors (R_t, d_t, L_m) with L_m >= l_m; the first l_m columns are used.
        w_h: feature factors (R_h, d_h, d_m).
        present: (B,) bool or None (always there) of each modality. One that a sample lacks leaves the product as it is (its
            factor is 1); a sample without any yields 0.
        rank_sum: "outside" the product, as above; "inside" is what the paper prints last in eq. 13,
            prod_m ((sum_r w_t,m^(r)) h_m (sum_s w_h,m^(s))^T), whose ranks are 1 whatever R_t and R_h.
        shared_rank: one index for both factors, sum_r prod_m (w_t,m^(r) h_m w_h,m^(r)^T), a joint CP of fewer products.
        form: how it is computed, with one result: "stream" (little memory), "core" (ranks first), "plain" (all ranks at
            once), or "auto", the one that `choose_form` expects to be fastest.

    Raises:
        InputError: sequences longer than their time factors, ranks that a shared index cannot join, unknown options.

    Source: Guo et al. 2025, eqs. 8 to 13. Differs from the authors' code: what is known of it computes "inside", which is
    not eq. 10.

    Example:
        >>> h = [torch.ones(1, 2, 1), 3 * torch.ones(1, 1, 1)]
        >>> w_t, w_h = [torch.ones(2, 1, 2), torch.ones(2, 1, 1)], [torch.ones(1, 1, 1)] * 2
        >>> sequence_fusion(h, w_t, w_h).item(), sequence_fusion(h, w_t, w_h, rank_sum="inside").item()
        (12.0, 24.0)
    """
    _check_options(rank_sum, shared_rank, form)
    for x, w in zip(h, w_t, strict=True):
        if x.shape[1] > w.shape[2]:
            raise InputError(
                f"a sequence of {x.shape[1]} tokens, and its time factor is for at most {w.shape[2]}; cut the sequence "
                "or make the fusion for longer ones"
            )
    if shared_rank and w_t[0].shape[0] != w_h[0].shape[0]:
        raise InputError(
            f"shared_rank=True with {w_t[0].shape[0]} time and {w_h[0].shape[0]} feature ranks; make them equal"
        )
    if rank_sum == "inside":
        w_t, w_h = [w.sum(0, keepdim=True) for w in w_t], [w.sum(0, keepdim=True) for w in w_h]
    with torch.autocast(h[0].device.type, enabled=False):  # a product of M terms: always in the factors' own precision
        ys = [_tokens_first(x.to(w.dtype), w) for x, w in zip(h, w_t, strict=True)]
        bs = list(w_h)
        if present is not None:
            ys, bs = _neutral_where_absent(ys, bs, present)
        fused = _in_form(form, ys, bs, shared_rank)
        fused = fused.view(-1, h[0].shape[0], fused.shape[1]).transpose(0, 1)
    return fused if present is None else _zero_where_nothing(fused, present)


def vector_fusion(
    h: Sequence[Tensor],
    w_h: Sequence[Tensor],
    *,
    present: Sequence[Tensor | None] | None = None,
    rank_sum: str = "outside",
) -> Tensor:
    """VF(h) = sum_{s=1..R} prod_m (w_h,m^(s) h_m): vectors (B, d_m) and factors (R, d_h, d_m) to (B, d_h).

    Args:
        h: one vector a sample and modality.
        w_h: feature factors.
        present: as for `sequence_fusion`.
        rank_sum: "outside" the product; "inside" as printed in eq. 7, prod_m sum_s w_h,m^(s) h_m, which is of rank 1.

    Source: Guo et al. 2025, eqs. 5 to 7, without the bias.

    Example:
        >>> w = [torch.tensor([[[1.0]], [[2.0]]])] * 2
        >>> [vector_fusion([torch.ones(1, 1)] * 2, w, rank_sum=one).item() for one in ("outside", "inside")]
        [5.0, 9.0]
    """
    ones = [w.new_ones(1, 1, 1) for w in w_h]
    sequences = [vector[:, None] for vector in h]
    return sequence_fusion(sequences, ones, w_h, present=present, rank_sum=rank_sum, form="plain").squeeze(1)


class SequenceFusion(nn.Module):
    """The factors of one `sequence_fusion`, times a fixed scale.

    w_h ~ N(0, 1/d_m) and w_t ~ N(0, 1/L_m), except the time factor of one modality, which is zero: the fusion starts at 0,
    that factor learns in the first step and all others from the second. (With every time factor zero nothing would ever
    learn.) `scale` holds the variance of the output at that of the input.

    Args:
        dims: d_m of each modality.
        lengths: largest sequence length L_m of each.
        tokens: d_t, tokens of the output.
        width: d_h, their width.
        rank_t: R_t.
        rank_h: R_h.
        rank_sum: see `sequence_fusion`.
        shared_rank: see `sequence_fusion`.
        zero: the modality whose time factor starts at zero, best one that no sample lacks; the last by default.
        scale: the number of products to the power -1/2 by default; 1 is the formula of the paper.
        form: see `sequence_fusion`.

    Raises:
        InputError: fewer than two modalities, lengths of others, sizes below 1, unknown options.

    Example:
        >>> fusion = SequenceFusion({"a": 4, "v": 3}, {"a": 9, "v": 5}, tokens=2, width=6)
        >>> fusion({"a": torch.ones(7, 9, 4), "v": torch.ones(7, 3, 3)}).abs().sum().item()
        0.0
        >>> [tuple(fusion.w_t[m].shape) for m in "av"], [tuple(fusion.w_h[m].shape) for m in "av"]
        ([(8, 2, 9), (8, 2, 5)], [(8, 6, 4), (8, 6, 3)])
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        lengths: Mapping[str, int],
        *,
        tokens: int,
        width: int,
        rank_t: int = 8,
        rank_h: int = 8,
        rank_sum: str = "outside",
        shared_rank: bool = False,
        zero: str | None = None,
        scale: float | None = None,
        form: str = "auto",
    ) -> None:
        super().__init__()
        self.zero = _check_modalities(dims, zero)
        _check_options(rank_sum, shared_rank, form)
        check_sizes(tokens=tokens, width=width, rank_t=rank_t, rank_h=rank_h)
        check_lengths(dims, lengths)
        if shared_rank and rank_t != rank_h:
            raise InputError(f"shared_rank=True with rank_t={rank_t} and rank_h={rank_h}; make them equal")
        self.lengths, self.tokens = {m: lengths[m] for m in dims}, tokens
        self.rank_sum, self.shared_rank, self.form = rank_sum, shared_rank, form
        self.scale = (rank_t if shared_rank else rank_t * rank_h) ** -0.5 if scale is None else scale
        self.w_t = nn.ParameterDict({m: torch.empty(rank_t, tokens, lengths[m]) for m in dims})
        self.w_h = nn.ParameterDict({m: torch.empty(rank_h, width, dims[m]) for m in dims})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the factors anew."""
        for m, length in self.lengths.items():
            nn.init.normal_(self.w_t[m], std=length**-0.5)
            nn.init.normal_(self.w_h[m], std=self.w_h[m].shape[2] ** -0.5)
        nn.init.zeros_(self.w_t[self.zero])

    def forward(
        self,
        h: Mapping[str, Tensor],
        masks: Mapping[str, Tensor | None] | None = None,
        present: Mapping[str, Tensor | None] | None = None,
        tokens: int | None = None,
    ) -> Tensor:
        """Fused tokens (B, d_t, d_h).

        Args:
            h: (B, l_m, d_m) of each modality.
            masks: (B, l_m) bool, true where a token counts; None where all do.
            present: (B,) bool, true where the sample has the modality.
            tokens: how many of the d_t output tokens are wanted, the first ones.

        Raises:
            InputError: a sequence longer than its maximum.
        """
        for m, most in self.lengths.items():
            check_length(m, h[m].shape[1], most)
        w_t = [self.w_t[m] if tokens is None else self.w_t[m][:, :tokens] for m in self.lengths]
        fused = sequence_fusion(
            [counted(h[m], None if masks is None else masks.get(m)) for m in self.lengths],
            w_t,
            [self.w_h[m] for m in self.lengths],
            present=_listed(self.lengths, present),
            rank_sum=self.rank_sum,
            shared_rank=self.shared_rank,
            form=self.form,
        )
        return fused * self.scale

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """The factors of one modality."""
        return [self.w_t[modality], self.w_h[modality]]


class VectorFusion(nn.Module):
    """The factors of one `vector_fusion` of the mean tokens, times a fixed scale: what remains without the token sums.

    w_h ~ N(0, 1/d_m), except that of one modality, which is zero.

    Args:
        dims: d_m of each modality.
        width: d_h.
        rank: R.
        rank_sum: see `vector_fusion`.
        zero: the modality whose factor starts at zero; the last by default.
        scale: R to the power -1/2 by default.

    Raises:
        InputError: fewer than two modalities, sizes below 1, an unknown `rank_sum`.

    Example:
        >>> VectorFusion({"a": 4, "v": 3}, width=6)({"a": torch.ones(7, 9, 4), "v": torch.ones(7, 5, 3)}).shape
        torch.Size([7, 1, 6])
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        *,
        width: int,
        rank: int = 8,
        rank_sum: str = "outside",
        zero: str | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        self.zero = _check_modalities(dims, zero)
        _check_options(rank_sum, False, "auto")
        check_sizes(width=width, rank=rank)
        self.rank_sum = rank_sum
        self.scale = rank**-0.5 if scale is None else scale
        self.w_h = nn.ParameterDict({m: torch.empty(rank, width, dim) for m, dim in dims.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the factors anew."""
        for factor in self.w_h.values():
            nn.init.normal_(factor, std=factor.shape[2] ** -0.5)
        nn.init.zeros_(self.w_h[self.zero])

    def forward(
        self,
        h: Mapping[str, Tensor],
        masks: Mapping[str, Tensor | None] | None = None,
        present: Mapping[str, Tensor | None] | None = None,
        tokens: int | None = None,
    ) -> Tensor:
        """One fused token (B, 1, d_h); arguments as for `SequenceFusion`, whatever number of `tokens` is wanted."""
        vectors = [masked_mean(h[m], None if masks is None else masks.get(m)) for m in self.w_h]
        factors = list(self.w_h.values())
        fused = vector_fusion(vectors, factors, present=_listed(self.w_h, present), rank_sum=self.rank_sum)
        return fused[:, None] * self.scale

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """The factor of one modality."""
        return [self.w_h[modality]]


def counted(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens (B, L, D) with zeros where `mask` (B, L) says that they do not count."""
    return tokens if mask is None else torch.where(mask[..., None], tokens, torch.zeros_like(tokens))


def check_length(modality: str, length: int, most: int) -> None:
    """Raise `InputError` for a sequence longer than an adapter was made for."""
    if length > most:
        raise InputError(
            f"modality {modality!r}: {length} tokens, and the adapter takes at most {most}; cut the sequence, or make the "
            f"adapter with lengths={{{modality!r}: {length}}}"
        )


def check_lengths(dims: Mapping[str, int], lengths: Mapping[str, int]) -> None:
    """Raise `InputError` unless there is one length of 1 or more for each modality."""
    if set(lengths) != set(dims) or min(lengths.values()) < 1:
        raise InputError(
            f"lengths {dict(lengths)} for modalities {list(dims)}; give the most tokens of each, 1 or more"
        )


def check_sizes(**sizes: int) -> None:
    """Raise `InputError` for a size below 1."""
    wrong = {name: size for name, size in sizes.items() if size < 1}
    if wrong:
        raise InputError(f"{', '.join(f'{name}={size}' for name, size in wrong.items())}: it must be 1 or more")


def _tokens_first(x: Tensor, w: Tensor) -> Tensor:
    """Sums over the tokens, w x: (B, l, d) and (R, d_t, L) to (R, d_t B, d), as one matrix product."""
    (batch, length, width), (rank, tokens, _) = x.shape, w.shape
    flat = x.transpose(0, 1).reshape(length, batch * width)
    return (w[..., :length].reshape(rank * tokens, length) @ flat).view(rank, tokens * batch, width)


def _neutral_where_absent(
    ys: Sequence[Tensor], bs: Sequence[Tensor], present: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[Tensor]]:
    """One more feature for modalities that samples may lack, 1 where they do and met by weight 1, so that y b^T is 1 there."""
    left, right = list(ys), list(bs)
    for m, there in enumerate(present):
        if there is None:
            continue
        absent = ~there.repeat(ys[m].shape[1] // there.shape[0])[None, :, None].expand(ys[m].shape[0], -1, 1)
        left[m] = torch.cat([torch.where(absent, torch.zeros_like(ys[m]), ys[m]), absent.to(ys[m].dtype)], 2)
        right[m] = torch.cat([bs[m], torch.ones_like(bs[m][..., :1])], 2)
    return left, right


def _zero_where_nothing(fused: Tensor, present: Sequence[Tensor | None]) -> Tensor:
    known = [there for there in present if there is not None]
    if len(known) < len(present):
        return fused
    return torch.where(torch.stack(known).any(0)[:, None, None], fused, torch.zeros_like(fused))


def _in_form(form: str, ys: Sequence[Tensor], bs: Sequence[Tensor], shared: bool) -> Tensor:
    ranks = len(ys[0]), len(bs[0])
    if form == "auto":
        auto = choose_form([y.shape[2] for y in ys], ys[0].shape[1], bs[0].shape[1], *ranks)
        form = "stream" if shared and auto == "core" else auto
    if len(ys) == 1:  # nothing to multiply
        form = "plain"
    if form == "core":
        return core(ys, bs)
    return (stream if form == "stream" else plain)(ys, bs, shared)


def _listed(modalities: Iterable[str], found: Mapping[str, Tensor | None] | None) -> list[Tensor | None] | None:
    """One entry a modality, or None where there is nothing to tell."""
    values = [None if found is None else found.get(m) for m in modalities]
    return None if all(value is None for value in values) else values


def _check_modalities(dims: Mapping[str, int], zero: str | None) -> str:
    check_modalities(dims)
    if len(dims) < 2:
        raise InputError(f"fusion of {list(dims)}: it multiplies modalities, so it needs at least two")
    check_sizes(**{f"width of {m!r}": dim for m, dim in dims.items()})
    if zero is not None and zero not in dims:
        raise InputError(f"zero={zero!r}; it names the modality whose factor starts at zero, one of {list(dims)}")
    return zero or list(dims)[-1]


def _check_options(rank_sum: str, shared_rank: bool, form: str) -> None:
    if rank_sum not in RANK_SUMS or form not in FORMS:
        raise InputError(f"rank_sum={rank_sum!r}, form={form!r}; one of {list(RANK_SUMS)} and one of {list(FORMS)}")
    if shared_rank and form == "core":
        raise InputError("form='core' sums each rank on its own, which shared_rank=True does not allow; use 'stream'")
