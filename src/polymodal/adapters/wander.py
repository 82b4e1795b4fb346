"""Wander: low-rank fusion of the token sequences of frozen encoders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.adapters.base import Adapter
from polymodal.adapters.sequence_fusion import (
    SequenceFusion,
    VectorFusion,
    check_lengths,
    counted,
)
from polymodal.adapters.sequence_fusion_whole import WholeFusion
from polymodal.encoders.base import State, masked_mean
from polymodal.errors import InputError
from polymodal.fusion import Fusion
from polymodal.types import Features

__all__ = ["JointHead", "Wander", "prefix"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "none": nn.Identity()}
RESIDUALS = {"joint": ("concat_prefix", "cls_sum", "projected", "none"), "per_modality": ("own", "none")}
WHOLE = ("sf_op", "sf_vf")
FUSIONS = ("sequence", "vector", *WHOLE)
LONGER = ("error", "cut")
POOLS = ("first", "mean")

Masks = Mapping[str, Tensor | None]


class Wander(Adapter):
    """Wander(h) = residual + SF(act(Down_m h_m)), where SF is `sequence_fusion` and nothing leads up again.

    With `output="joint"` it stands behind the encoders and makes one sequence (B, d_t, d_h) of all modalities. Every modality's
    `Features` then hold that same sequence, so that a late-fusion head reads its token once a modality; `JointHead` reads it
    once. With `output="per_modality"` each modality keeps its length and width, h_m + SF_m, with own factors for each: it goes
    after layers of the encoders (`last`, `at`), or behind them (`last=0`), and starts as the identity.

    Tokens of padding never count. A modality that a sample lacks leaves the product as it is; foreign tokens in front of a
    sequence are left alone. Exactly one factor of each fusion starts at zero: in "joint" the time factor of `zero`, so that
    the output starts as the residual except for samples without that modality; in "per_modality" each modality's own.

    Args:
        dims: token width D_m of each modality, in order.
        lengths: the most tokens l_m of each.
        output: "joint" or "per_modality".
        down: width d behind Down; an eighth of the smallest D_m by default; 0 leaves Down out, and d is D_m.
        tokens: d_t of the joint output, 16 by default.
        width: d_h of the joint output; the width of all modalities by default.
        rank_t: R_t.
        rank_h: R_h.
        rank_sum: "outside" or "inside", see `sequence_fusion`.
        shared_rank: one rank index for both factors.
        residual: of "joint", "concat_prefix" (the first d_t real tokens of all sequences on end, the default), "cls_sum" (the
            sum of the pooled features, at every token), "projected" (as the first, each sequence through a linear layer to
            d_h) or "none"; of "per_modality", "own" or "none".
        activation: "gelu", "relu" (take that of the encoders) or "none".
        fusion: "sequence"; "vector", which fuses mean tokens and gives all tokens the same; or the forms with whole weights
            that the paper begins with, "sf_op" (no factors) and "sf_vf" (factors of the features alone), see `WholeFusion`.
        pool: the pooled features of "joint", its "first" token or the "mean" of all.
        zero: the modality of "joint" that starts at zero, best one that no sample lacks; the last by default.
        scale: of SF; (R_t R_h)^(-1/2) by default (of whole weights see `WholeFusion`), 1 is the formula of the paper.
        last: layers run side by side.
        at: after which of these layers, 0 to last - 1; all by default.
        form: see `sequence_fusion`.
        longer: what a sequence of more tokens than its maximum is, an "error"; or it is "cut": the tokens beyond take no part.

    Raises:
        InputError: fewer than two modalities, widths that the residual cannot join, options that do not go together, whole
            weights of too many numbers; at run time other modalities, or a sequence longer than its maximum.

    Source: Guo et al. 2025, eqs. 13 and 14, section 3.3. Differs from the authors' code: `rank_sum="inside"` and zeros in all
    time factors, which never learn, are what is known of it; "per_modality" is ours, since eq. 14 adds one matrix to a list
    of sequences.

    Example:
        >>> wander = Wander({"audio": 32, "video": 32}, {"audio": 9, "video": 5}, tokens=4)
        >>> given = {m: Features(torch.ones(2, 32), torch.ones(2, l, 32)) for m, l in wander.lengths.items()}
        >>> wander.after(given)["audio"].tokens.shape
        torch.Size([2, 4, 32])
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        lengths: Mapping[str, int],
        *,
        output: str = "joint",
        down: int | None = None,
        tokens: int | None = None,
        width: int | None = None,
        rank_t: int = 8,
        rank_h: int = 8,
        rank_sum: str = "outside",
        shared_rank: bool = False,
        residual: str | None = None,
        activation: str = "gelu",
        fusion: str = "sequence",
        pool: str = "first",
        zero: str | None = None,
        scale: float | None = None,
        last: int = 0,
        at: Collection[int] | None = None,
        form: str = "auto",
        longer: str = "error",
    ) -> None:
        super().__init__(last)
        residual = residual or RESIDUALS.get(output, ("",))[0]
        _check_choices(output=(output, RESIDUALS), residual=(residual, RESIDUALS.get(output, ())))
        _check_choices(activation=(activation, ACTIVATIONS), fusion=(fusion, FUSIONS), pool=(pool, POOLS))
        _check_choices(longer=(longer, LONGER))
        check_lengths(dims, lengths)
        self.dims, self.lengths = dict(dims), {m: lengths[m] for m in dims}
        self.output, self.residual, self.pool, self.vector = output, residual, pool, fusion == "vector"
        self.cuts, self.joins = longer == "cut", output == "joint"
        down = max(1, min(dims.values()) // 8) if down is None else down
        if down < 0:
            raise InputError(f"Wander: down={down}; it is a width, or 0 for none")
        whole = fusion in WHOLE
        if whole and (rank_sum != "outside" or shared_rank or form != "auto" or zero is not None):
            raise InputError(
                f"Wander: rank_sum={rank_sum!r}, shared_rank={shared_rank}, form={form!r}, zero={zero!r} are options of "
                f"factors, and fusion={fusion!r} has a whole W_t; leave them out"
            )
        ranks = {"rank_t": rank_t, "rank_h": rank_h, "shared_rank": shared_rank, "form": form}

        def fused(tokens: int, width: int, zero: str | None) -> SequenceFusion | VectorFusion | WholeFusion:
            narrow = dict.fromkeys(dims, down) if down else dict(dims)
            if whole:
                rank = rank_h if fusion == "sf_vf" else None
                return WholeFusion(narrow, lengths, tokens=tokens, width=width, rank=rank, scale=scale)
            if self.vector:
                return VectorFusion(narrow, width=width, rank=rank_h, rank_sum=rank_sum, zero=zero, scale=scale)
            options: dict[str, Any] = {**ranks, "rank_sum": rank_sum, "zero": zero, "scale": scale}
            return SequenceFusion(narrow, lengths, tokens=tokens, width=width, **options)

        if output == "joint":
            self.width = width = self._joint_width(width, last, at)
            self.tokens = 1 if self.vector else 16 if tokens is None else tokens
            targets = [{"joint": fused(self.tokens, width, zero)}]
            self.places = [0]
        else:
            given = [
                name for name, value in {"tokens": tokens, "width": width, "zero": zero}.items() if value is not None
            ]
            if given:
                raise InputError(f"{given} of output='per_modality', where each modality keeps its own; leave them out")
            self.places = self._places(last, at)
            targets = [{m: fused(lengths[m], dims[m], m) for m in dims} for _ in self.places]
        self.downs = nn.ModuleList(_Down(dims, down, activation) for _ in self.places)
        self.fusions = nn.ModuleList(nn.ModuleDict(one) for one in targets)
        projected = dims if residual == "projected" else {}
        self.project = nn.ModuleDict({m: nn.Linear(dim, width or 0) for m, dim in projected.items()})

    def _joint_width(self, width: int | None, last: int, at: Collection[int] | None) -> int:
        if last or at:
            raise InputError(
                f"last={last}, at={at} of output='joint', which stands behind the encoders; use 'per_modality'"
            )
        widths = set(self.dims.values())
        if width is None and len(widths) > 1:
            raise InputError(
                f"widths {self.dims} differ; give the joint output's width, and residual='projected' or 'none'"
            )
        width = width or widths.copy().pop()
        if self.residual in ("concat_prefix", "cls_sum") and widths != {width}:
            raise InputError(
                f"residual {self.residual!r} adds tokens of widths {self.dims} to tokens of width {width}; use "
                "residual='projected' or 'none'"
            )
        return width

    def dims_after(self, dims: Mapping[str, int]) -> dict[str, int]:
        return dict.fromkeys(dims, self.width) if self.joins else dict(dims)

    @staticmethod
    def _places(last: int, at: Collection[int] | None) -> list[int]:
        places = sorted(range(max(last, 1)) if at is None else set(at))
        if not places or not set(places) <= set(range(max(last, 1))):
            raise InputError(f"at={at}: layers of the last {last} after which the adapter acts, each 0 to {last - 1}")
        return places

    def between(self, index: int, states: dict[str, State]) -> dict[str, State]:
        if index not in self.places:
            return states
        self._check(states)
        own = {m: states[m].drop() for m in self.dims}
        found = self._each(index, {m: s.tokens for m, s in own.items()}, {m: s.mask for m, s in own.items()})
        for m in own if self.residual == "own" else ():
            found[m] = own[m].tokens + found[m]
        return {m: s._replace(tokens=torch.cat([s.extras(), found[m]], 1)) for m, s in states.items()}

    def after(self, features: dict[str, Features]) -> dict[str, Features]:
        if self.last:
            return features
        self._check(features)
        given = {m: features[m] for m in self.dims}
        h, masks = {m: _sequence(f) for m, f in given.items()}, {m: _real(f) for m, f in given.items()}
        if self.output == "joint":
            joint = self._joint(h, masks, given)
            pooled = joint[:, 0] if self.pool == "first" else joint.mean(1)
            return {m: Features(pooled, joint) for m in features}
        found = self._each(0, h, masks)
        kept = float(self.residual == "own")
        return {
            m: f._replace(
                pooled=kept * f.pooled + masked_mean(found[m], masks[m]),
                tokens=None if f.tokens is None else kept * f.tokens + found[m],
            )
            for m, f in features.items()
        }

    def _joint(self, h: dict[str, Tensor], masks: Masks, features: dict[str, Features]) -> Tensor:
        """The one sequence (B, d_t, d_h) of all modalities."""
        present = _present(masks)
        joint: Tensor = self._fusions(0)["joint"](*self._cut(self.downs[0](h), masks), present)
        if self.residual == "none":
            return joint
        if self.residual == "cls_sum":
            shown = [masked_mean(f.pooled[:, None], _column(present[m])) for m, f in features.items()]
            return joint + torch.stack(shown).sum(0)[:, None]
        if self.residual == "projected":
            h = {m: self.project[m](one) for m, one in h.items()}
        return joint + prefix(h, masks, self.tokens)

    def _each(self, place: int, h: dict[str, Tensor], masks: Masks) -> dict[str, Tensor]:
        """What is added to the tokens of each modality, (B, l_m, D_m)."""
        number = self.places.index(place)
        present, fusions = _present(masks), self._fusions(number)
        narrow, shown = self._cut(self.downs[number](h), masks)
        found = {}
        for m, tokens in h.items():
            length = narrow[m].shape[1]
            fused = fusions[m](narrow, shown, present, length).to(tokens.dtype).expand(-1, length, -1)
            found[m] = counted(F.pad(fused, (0, 0, 0, tokens.shape[1] - length)), masks[m])
        return found

    def _cut(self, h: dict[str, Tensor], masks: Masks) -> tuple[dict[str, Tensor], Masks]:
        """The tokens that take part."""
        if not self.cuts or self.vector:
            return h, masks
        shown = {m: None if mask is None else mask[:, : self.lengths[m]] for m, mask in masks.items()}
        return {m: tokens[:, : self.lengths[m]] for m, tokens in h.items()}, shown

    def _fusions(self, number: int) -> nn.ModuleDict:
        return cast(nn.ModuleDict, self.fusions[number])

    def _check(self, given: Mapping[str, Any]) -> None:
        if set(given) != set(self.dims):
            raise InputError(f"the adapter joins {list(self.dims)} and was given {list(given)}")

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """What reads the tokens of this modality: its Down, its factors and its projection."""
        found = [p for down in self.downs for p in cast(_Down, down).layers[modality].parameters()]
        for number in range(len(self.places)):
            for fusion in self._fusions(number).values():
                found += cast(SequenceFusion | VectorFusion | WholeFusion, fusion).parameters_of(modality)
        return found + [p for m, layer in self.project.items() if m == modality for p in layer.parameters()]


class JointHead(Fusion):
    """One linear layer on the joint sequence of `Wander`, which all modalities hold alike.

    Args:
        dims: width of each modality's features, d_h for all.
        outputs: C.

    Raises:
        InputError: widths that differ, as no joint output has them.

    Example:
        >>> head = JointHead({"audio": 32, "video": 32}, outputs=101)
        >>> sum(p.numel() for p in head.parameters())
        3333
    """

    def __init__(self, dims: Mapping[str, int], outputs: int) -> None:
        super().__init__(dims, outputs)
        if len(set(dims.values())) > 1:
            raise InputError(f"JointHead: widths {dict(dims)}; the joint output has the same for every modality")
        self.layer = nn.Linear(next(iter(dims.values())), outputs)

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.layer(features[next(iter(self.dims))].pooled)
        return logits


class _Down(nn.Module):
    """act(Down_m h_m): (B, l_m, D_m) to (B, l_m, d), of about the variance of its input before the activation.

    Of width 0 it is act(h_m).
    """

    def __init__(self, dims: Mapping[str, int], width: int, activation: str) -> None:
        super().__init__()
        layers = {m: nn.Linear(dim, width) if width else nn.Identity() for m, dim in dims.items()}
        for m, layer in layers.items():
            if not isinstance(layer, nn.Linear):
                continue
            nn.init.normal_(layer.weight, std=dims[m] ** -0.5)
            nn.init.zeros_(layer.bias)
        self.layers, self.activation = nn.ModuleDict(layers), ACTIVATIONS[activation]

    def forward(self, h: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {m: self.activation(layer(h[m])) for m, layer in self.layers.items()}


def prefix(h: Mapping[str, Tensor], masks: Masks, tokens: int) -> Tensor:
    """The first real tokens of all sequences put on end, zeros where there are fewer: (B, l_m, D) to (B, tokens, D).

    Example:
        >>> h = {"a": torch.tensor([[[1.0], [9.0]]]), "v": torch.tensor([[[2.0], [3.0]]])}
        >>> prefix(h, {"a": torch.tensor([[True, False]]), "v": None}, 2).flatten().tolist()
        [1.0, 2.0]
    """
    joined = torch.cat(list(h.values()), 1)
    if any(mask is not None for mask in masks.values()):
        mask = torch.cat([_all_real(h[m]) if one is None else one for m, one in masks.items()], 1)
        order = torch.argsort(~mask, dim=1, stable=True)[:, :tokens]
        joined = counted(joined, mask).gather(1, order[..., None].expand(-1, -1, joined.shape[2]))
    return F.pad(joined[:, :tokens], (0, 0, 0, max(0, tokens - joined.shape[1])))


def _sequence(features: Features) -> Tensor:
    """Tokens, or the pooled features as one token: (B, L, D)."""
    return features.pooled[:, None] if features.tokens is None else features.tokens


def _real(features: Features) -> Tensor | None:
    """Which tokens of `_sequence` are real, none where the sample lacks the modality: (B, L), or None for all."""
    mask = None if features.tokens is None else features.mask
    if features.present is None:
        return mask
    there = features.present[:, None].expand(_sequence(features).shape[:2])
    return there if mask is None else there & mask


def _present(masks: Masks) -> dict[str, Tensor | None]:
    """Which samples have any real token: (B,), or None for all."""
    return {m: None if mask is None else mask.any(1) for m, mask in masks.items()}


def _column(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask[:, None]


def _all_real(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def _check_choices(**choices: tuple[str, Collection[str]]) -> None:
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise InputError(f"Wander: {name}={value!r}; one of {list(allowed)}")
