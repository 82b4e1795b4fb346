"""One expert of the Multi-Modal Transformer for video retrieval: its features as tokens that know what and when they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.encoders.base import Encoder, split_padded
from polymodal.errors import InputError
from polymodal.types import Features, Padded

__all__ = ["Expert", "choose_tokens"]

AGGREGATED, UNKNOWN, FIRST = 0, 1, 2
"""Rows of the table of times: of the aggregated token, of a token whose time is not known, of the first second."""


def choose_tokens(mask: Tensor, count: int, *, random: bool) -> tuple[Tensor, Tensor]:
    """Places (B, K) of at most `count` real tokens of each sequence in their order, and which of these are real.

    Args:
        mask: (B, L), true where a token is real.
        count: K is the smaller of `count` and L.
        random: a random choice; otherwise they are spread evenly over the sequence.

    Example:
        >>> places, real = choose_tokens(torch.tensor([[True] * 6, [True] * 2 + [False] * 4]), 3, random=False)
        >>> places.tolist(), real.tolist()
        ([[1, 3, 5], [0, 1, 2]], [[True, True, True], [True, True, False]])
    """
    length, count = mask.shape[1], min(count, mask.shape[1])
    key = torch.rand(mask.shape, device=mask.device) if random and count < length else None
    if key is not None:
        found = torch.where(mask, key, key - 2).topk(count, 1).indices
        return _in_order(found, mask)
    order = torch.argsort(~mask, dim=1, stable=True)
    step = torch.arange(count, device=mask.device)
    total = mask.sum(1, keepdim=True)
    spread = ((step + 0.5) * total / count).long()
    return _in_order(order.gather(1, torch.where(total > count, spread, step).clamp_max(length - 1)), mask)


def _in_order(places: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Places sorted, those of padding last."""
    behind = (~mask.gather(1, places)).long() * mask.shape[1]
    ordered = (places + behind).sort(1).values
    return ordered % mask.shape[1], ordered < mask.shape[1]


class Expert(Encoder):
    """Feature vectors v_1 .. v_n of one pre-trained network on a video, as tokens u_i = P v_i / |P v_i| + e + t(seconds_i).

    The pooled features are those of the aggregated token, P max_i v_i of length one + e + t(aggregated), which stands in
    front of the others in the Transformer of `polymodal.fusion.retrieval.MMT`. P is a linear layer, e the embedding of the
    expert, t a table of whole seconds. Of more than `max_tokens` vectors some are chosen, at random in training and spread
    evenly in evaluation; the maximum is over all of them.

    Args:
        in_dim: numbers a vector, the time among them.
        dim: width D of the tokens.
        timed: the first number of each vector is its time in seconds, below 0 where it is not known.
        max_tokens: tokens at most, besides the aggregated one.
        seconds: rows of the table; what is later has the last one.

    Raises:
        InputError: sizes below 1, or no numbers beside the time.

    Source: Gabeur et al. 2020, section 3.1.
    Differs from the authors' code: each expert has a table of times of its own (theirs is one for all); tokens have length one
    over their features (theirs over time, a slip); in evaluation the choice is spread evenly (theirs is random with a fixed
    seed).

    Example:
        >>> encoder = Expert(in_dim=1 + 6, dim=8, timed=True)
        >>> features = encoder(Padded(torch.rand(2, 5, 7), torch.arange(5) < torch.tensor([[5], [2]])))
        >>> features.pooled.shape, features.tokens.shape
        (torch.Size([2, 8]), torch.Size([2, 5, 8]))
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"vector"})

    def __init__(
        self, in_dim: int, dim: int = 512, timed: bool = False, max_tokens: int = 30, seconds: int = 30
    ) -> None:
        super().__init__()
        if min(in_dim - timed, dim, max_tokens, seconds) < 1:
            raise InputError(
                f"Expert: in_dim={in_dim}, dim={dim}, timed={timed}, max_tokens={max_tokens}, seconds={seconds}; all are 1 or "
                "more, and in_dim counts the time beside the features"
            )
        self.dim, self.timed, self.max_tokens = dim, timed, max_tokens
        self.project = nn.Linear(in_dim - timed, dim)
        self.expert = nn.Parameter(0.02 * torch.randn(dim))
        self.time = nn.Embedding(FIRST + seconds, dim)
        nn.init.normal_(self.time.weight, std=0.02)

    @classmethod
    def preprocessing(cls, kind: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        return {"standardize": False} if settings.get("timed") else {}  # it would move the seconds

    def forward(self, x: Tensor | Padded) -> Features:
        values, mask = split_padded(x)
        values = values if values.ndim == 3 else values[:, None]
        if mask is None:
            mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        real = mask[..., None]
        least = torch.finfo(values.dtype).min
        largest = torch.where(real.any(1), values.masked_fill(~real, least).amax(1), values.new_zeros(()))
        places, mask = choose_tokens(mask, self.max_tokens, random=self.training)
        values = values.gather(1, places[..., None].expand(-1, -1, values.shape[2]))
        values = torch.where(mask[..., None], values, values.new_zeros(()))
        rows = torch.full_like(places, UNKNOWN)
        if self.timed:
            seconds, values, largest = values[..., 0], values[..., 1:], largest[..., 1:]
            whole = FIRST + seconds.long()
            rows = torch.where(seconds < 0, UNKNOWN, whole.clamp(FIRST, self.time.num_embeddings - 1))
        tokens = F.normalize(self.project(values), dim=-1) + self.expert + self.time(rows)
        pooled = F.normalize(self.project(largest), dim=-1) + self.expert + self.time.weight[AGGREGATED]
        return Features(pooled, tokens, mask)
