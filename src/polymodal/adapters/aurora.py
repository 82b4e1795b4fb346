"""Aurora: updates of all weights of several encoders from one shared pair of factors and one shared core."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.adapters.anatomy import part
from polymodal.adapters.injected import Injected
from polymodal.adapters.lora.hosts import attach, detach
from polymodal.adapters.lora.targets import Target, adaptable, select
from polymodal.adapters.lora.updates import Update, block_rows
from polymodal.adapters.uniadapter import common_width
from polymodal.encoders.base import LayeredEncoder
from polymodal.errors import InputError

__all__ = ["Aurora", "aurora_core", "aurora_update"]

NAME = "aurora"
OUTPUTS = (
    "attention.output.dense",
    "attn.proj",
    "attn.out_proj",
    "self_attn.out_proj",
    "attention.out_proj",
    "attention.out",
)
FEED_FORWARD = (
    ("intermediate.dense", "output.dense"),
    ("mlp.fc1", "mlp.fc2"),
    ("linear1", "linear2"),
    ("feed_forward.intermediate_dense", "feed_forward.output_dense"),
    ("after.1", "after.4"),
)
"""Names of a layer's output projection and of the two matrices of its feed-forward step, in each family."""


def aurora_core(c: Tensor, p: Tensor) -> Tensor:
    """K = sum_r C[:, :, r] p_r: C (R, R, R) and p (R,) or (parts, R) to (R, R) or (parts, R, R)."""
    return torch.einsum("abr,...r->...ab", c, p)


def aurora_update(x: Tensor, u: Tensor, core: Tensor, v: Tensor) -> Tensor:
    """Share x U^T K V^T of an output: x (..., D), U (R, D), K (R, R) and V (D, R) to (..., D).

    Source: Wang et al. 2023, eqs. 4 and 5.
    """
    return F.linear(F.linear(x, u) @ core, v)


class Aurora(Injected):
    r"""W x + V K_w^T U x in the weights of several frozen encoders of one width, K_w = sum_r C[:, :, r] p_w,r.

    U (R, D), V (D, R) and the core C (R, R, R) are shared by every weight of every modality; a weight has R numbers p of its
    own. V begins at zero, so that the encoders compute at first exactly what they did. Queries, keys and values of every
    layer are adapted; for modalities in `full` also the output projection and, in chunks of width D with a p each, both
    matrices of the feed-forward step. Give it to the model as its `adapter`.

    Args:
        encoders: by modality; changed in place.
        rank: R.
        full: modalities with all matrices adapted, the pictures' in the paper.
        dropout: probability with which an entry of U x is zeroed in training; in torch's `MultiheadAttention`, whose weight
            is read with the update added, one draw for all of the batch.

    Raises:
        InputError: fewer than two modalities, unequal widths, a setting out of its range, a layer whose matrices are not found
            or do not divide into chunks of D, or an encoder with another adapter; the encoders are as they were.

    Source: Wang et al. 2023, section 3.2.
    Differs from the authors' code: chunks of the feed-forward matrices are whole blocks of rows or columns, where theirs mix
        the indices of chunk and rank. The scale-and-shift gates belong to layers of cross-attention, which separate encoders
        do not have.

    Example:
        >>> from polymodal.encoders import SequenceTransformer
        >>> encoders = {m: SequenceTransformer(5, dim=8, depth=2, heads=2) for m in ("text", "image")}
        >>> Aurora(encoders, rank=3).counts().trainable  # 2 x 3 x 8 + 3^3, and 3 numbers for each of 12 matrices
        111
    """

    def __init__(
        self,
        encoders: Mapping[str, LayeredEncoder],
        rank: int = 64,
        *,
        full: Collection[str] = (),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(encoders)
        unknown = sorted(set(full) - set(encoders))
        if rank < 1 or not 0 <= dropout < 1 or unknown:
            raise InputError(
                f"Aurora: rank={rank}, dropout={dropout}, full={list(full)}; a rank of at least 1, a probability below 1, and "
                f"some of the modalities {list(encoders)}"
            )
        self.width = common_width(encoders, "Aurora")
        targets = {
            f"{m}/{index}/{name.replace('.', '/')}": target
            for m, encoder in encoders.items()
            for index, layer in enumerate(encoder.layers)
            for name, target in _targets(layer, m in full, self.width).items()
        }
        self.rank, self.dropout = rank, dropout
        self.u = nn.Parameter(nn.Linear(self.width, rank, bias=False).weight.detach())
        self.v = nn.Parameter(torch.zeros(self.width, rank))
        self.c = nn.Parameter(nn.init.xavier_uniform_(torch.empty(rank, rank, rank)))
        self.p = nn.ParameterDict()
        for key, target in targets.items():
            parts = max(target.weight.shape) // self.width
            self.p[key] = nn.Parameter(nn.init.xavier_uniform_(torch.empty(parts, rank)))
        self._enter()
        self._targets = list(targets.values())
        for key, target in targets.items():
            attach(target.module, target.parameter, target.raw, NAME, _Share(self, key, target))

    def remove(self) -> None:
        """Take the adapter out: the encoders are, and compute, what they were, and train what they did."""
        super().remove()
        for target in self._targets:
            detach(target.module, NAME, keep_merged=False)

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """The numbers p of this modality's weights."""
        return [p for key, p in self.p.items() if key.startswith(f"{modality}/")]


class _Share(Update):
    """What one weight has of an `Aurora`, whose parameters it only reads."""

    def __init__(self, aurora: Aurora, key: str, target: Target) -> None:
        super().__init__(target.weight, aurora.rank, aurora.rank, aurora.dropout)
        self.__dict__["_aurora"] = aurora  # not registered: the parameters are those of the adapter
        self.key, self.heads = key, target.heads
        self.wide = target.weight.shape[1] > target.weight.shape[0]
        """Whether the chunks are of the input."""

    @property
    def aurora(self) -> Aurora:
        """The adapter whose parameters it reads."""
        return cast(Aurora, self.__dict__["_aurora"])

    def add(self, host: nn.Module, out: Tensor, x: Tensor) -> Tensor:
        u, cores, v = (one.to(x.dtype) for one in self._factors_of())
        dropout = self.dropout if self.training else 0.0
        if self.wide:
            narrow = F.dropout(F.linear(x.reshape(*x.shape[:-1], len(cores), -1), u), dropout)
            return out + F.linear(torch.einsum("...pa,pab->...b", narrow, cores), v)
        narrow = F.dropout(F.linear(x, u), dropout)
        parts = F.linear(torch.einsum("...a,pab->...pb", narrow, cores), v)
        return out + parts.view(*parts.shape[:-1], self.heads, -1).transpose(-3, -2).flatten(-3)

    def added_to(self, weight: Tensor) -> Tensor:
        """The weight with its update, which carries the gradients."""
        kept = F.dropout(self.aurora.u.new_ones(self.rank, 1), self.dropout, self.training)
        return weight + self._weight(kept).to(weight.dtype)

    def delta(self) -> Tensor:
        return self._weight(self.aurora.u.new_ones(self.rank, 1))

    def _weight(self, kept: Tensor) -> Tensor:
        """The update of the weight; `kept` (R, 1) multiplies the rows of U."""
        u, cores, v = self._factors_of()
        blocks = v @ cores.mT @ (u * kept)
        if self.wide:
            return blocks.transpose(0, 1).flatten(1)
        if self.heads == 1:
            return blocks.flatten(0, 1)
        order = block_rows(self.shape[0], len(blocks), self.heads).flatten().to(blocks.device)
        return torch.empty_like(blocks.flatten(0, 1)).index_copy(0, order, blocks.flatten(0, 1))

    def _factors_of(self) -> tuple[Tensor, Tensor, Tensor]:
        """U, the cores (parts, R, R) of this weight, and V."""
        aurora = self.aurora
        return aurora.u, aurora_core(aurora.c, aurora.p[self.key]), aurora.v


def _targets(layer: nn.Module, full: bool, width: int) -> dict[str, Target]:
    """The weights of a layer that are adapted, by name."""
    found = {one.name: one for one in select(layer, "attention", 1, ())}
    if full:
        known = adaptable(layer)
        outputs = [name for name in OUTPUTS if part(layer, name) is not None]
        matrices = next((names for names in FEED_FORWARD if all(name in known for name in names)), ())
        if not outputs or not matrices:
            raise InputError(
                f"Aurora in all of a layer of type {type(layer).__name__}: its output projection or its feed-forward step is not "
                "found; leave its modality out of full"
            )
        found |= {name: known[name] for name in (outputs[0], *matrices)}
    for name, target in found.items():
        out, inputs = target.weight.shape
        if min(out, inputs) != width or max(out, inputs) % width:
            raise InputError(
                f"Aurora on {name} of a {type(layer).__name__}: its weight is ({out}, {inputs}), which is not made of blocks of "
                f"{width} x {width}"
            )
    return found
