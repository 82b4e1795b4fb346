"""MBT: a few tokens through which the last layers of all encoders exchange what they found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from polymodal.adapters.base import Adapter
from polymodal.adapters.front import exchange, has_any, put, take
from polymodal.encoders.base import State
from polymodal.errors import InputError
from polymodal.names import check_modalities

__all__ = ["MBT", "next_bottleneck"]


def next_bottleneck(found: Mapping[str, Tensor], there: Mapping[str, Tensor | None] | None = None) -> Tensor:
    """The mean over modalities of what the bottleneck tokens became in each: (B, n, D).

    Args:
        found: (B, n, D) of each modality.
        there: (B,) bool, the samples that have a modality; others leave it out of the mean. None for all.

    Source: Nagrani et al. 2021, eqs. 8 and 9.

    Example:
        >>> next_bottleneck({"a": torch.tensor([[[1.0]]]), "v": torch.tensor([[[3.0]]])}).item()
        2.0
    """
    tokens = torch.stack(list(found.values()))
    present = [(there or {}).get(m) for m in found]
    if all(one is None for one in present):
        return tokens.mean(0)
    all_samples = torch.ones(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    weight = torch.stack([all_samples if one is None else one for one in present])
    weight = (weight | ~weight.any(0)).to(tokens.dtype)[..., None, None]
    return (tokens * weight).sum(0) / weight.sum(0)


class MBT(Adapter):
    """Bottleneck tokens in the last n layers of all encoders.

    Every modality attends over [bottleneck; own tokens], all with the same bottleneck; the next one is the mean of what it
    became in each, computed from all at once. The first is learned, drawn from N(0, 0.02^2). A modality that a sample lacks
    leaves the mean. Where a modality has another width than the bottleneck, linear maps lead in and out. The encoders never
    compute what they did without it.

    Args:
        dims: width D_m of the tokens between the layers of each modality.
        last: n; 4 of 12 in the paper.
        tokens: in the bottleneck.
        width: of the bottleneck; that of the first modality by default.

    Raises:
        InputError: fewer than two modalities or layers, or no token.

    Source: Nagrani et al. 2021, section 3.2. The maps between widths are ours.

    Example:
        >>> mbt = MBT({"audio": 768, "video": 768})
        >>> sum(p.numel() for p in mbt.parameters())
        3072
    """

    def __init__(self, dims: Mapping[str, int], last: int = 4, *, tokens: int = 4, width: int | None = None) -> None:
        super().__init__(last)
        check_modalities(dims)
        if len(dims) < 2:
            raise InputError(f"MBT joins modalities and was given {list(dims)}; give it two or more")
        if last < 2 or tokens < 1:
            raise InputError(
                f"MBT: last={last}, tokens={tokens}; at least one token, and two layers, or nothing is exchanged between them"
            )
        self.dims, self.tokens = dict(dims), tokens
        width = next(iter(dims.values())) if width is None else width
        self.bottleneck = nn.Parameter(0.02 * torch.randn(tokens, width))
        others = {m: dim for m, dim in dims.items() if dim != width}
        self.enter = nn.ModuleDict({m: nn.Linear(width, dim) for m, dim in others.items()})
        self.leave = nn.ModuleDict({m: nn.Linear(dim, width) for m, dim in others.items()})

    def start(self, states: dict[str, State]) -> dict[str, State]:
        if set(states) != set(self.dims):
            raise InputError(f"the adapter joins {list(self.dims)} and was given {list(states)}")
        return {m: put(state, self._into(m, self.bottleneck)) for m, state in states.items()}

    def between(self, index: int, states: dict[str, State]) -> dict[str, State]:
        if index == self.last - 1:
            return states
        found = {m: self._out_of(m, state.tokens[:, : self.tokens]) for m, state in states.items()}
        new = next_bottleneck(found, {m: has_any(state) for m, state in states.items()})
        return {m: exchange(state, self._into(m, new)) for m, state in states.items()}

    def end(self, states: dict[str, State]) -> dict[str, State]:
        return {m: take(state, self.tokens)[1] for m, state in states.items()}

    def _into(self, m: str, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.enter[m](tokens)) if m in self.enter else tokens

    def _out_of(self, m: str, tokens: Tensor) -> Tensor:
        return cast(Tensor, self.leave[m](tokens)) if m in self.leave else tokens

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """The maps of a modality of another width."""
        return [p for maps in (self.enter, self.leave) if modality in maps for p in maps[modality].parameters()]
