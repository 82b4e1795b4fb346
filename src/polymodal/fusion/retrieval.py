"""Fusions for retrieval: from a query and the experts of an item to a pair of embeddings an expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.blocks import visible
from polymodal.errors import InputError
from polymodal.fusion.base import Fusion
from polymodal.types import Features, Pair

__all__ = ["MMT", "MoEE", "Pairing"]


class GatedUnit(nn.Module):
    """Gated embedding unit: y = W_1 h + b_1, y * sigmoid(W_2 y + b_2), scaled to length one; (B, in) to (B, out).

    Source: Miech et al. 2018, eq. 3 to 5. Differs from the authors' code: no BatchNorm inside of the gate.
    """

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.project, self.gate = nn.Linear(in_dim, out_dim), nn.Linear(out_dim, out_dim)

    def forward(self, h: Tensor) -> Tensor:
        y = self.project(h)
        return F.normalize(y * self.gate(y).sigmoid(), dim=-1)


class _After(Protocol):
    """What of an adapter is used here."""

    def after(self, features: dict[str, Features]) -> dict[str, Features]: ...
    def parameters_of(self, modality: str) -> list[nn.Parameter]: ...


class _Between(Protocol):
    """What of an adapter between the layers of `MMT` is used here."""

    def run_layers(self, parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]: ...


class Pairing(Fusion):
    """The base: one modality is the query, the others are experts on the item of the gallery.

    From the query's features h come one gated unit an expert and the mixture weights softmax_e(a_e h + b_e), which
    similarities share out again over the experts that an item has. Embeddings have length one; those of experts that an item
    lacks are zeros. Subclasses make the embeddings of the gallery (`embed`).

    An adapter such as Wander may be put over the experts by `insert`. It must not see the query: a gallery that depends on
    the query beside it would make training and its figures meaningless.

    Args:
        dims: width of each modality's features.
        query: the modality that asks; of two modalities the first by default.
        width: D of the embeddings.

    Raises:
        InputError: fewer than two modalities, or a query that is none of them; when run, a sample that lacks its query.
    """

    modalities_allowed: ClassVar[tuple[int, int | None]] = (2, None)

    def __init__(self, dims: Mapping[str, int], query: str | None, width: int) -> None:
        if len(dims) < 2:
            raise InputError(
                f"fusion {type(self).__name__}: no gallery beside {list(dims)}; retrieval needs a query and one modality more"
            )
        super().__init__(dims, 0)
        names = list(dims)
        if query is None and len(names) == 2:
            query = names[0]
        if query not in names:
            raise InputError(
                f"fusion {type(self).__name__}: query={query!r}; name the modality that asks, one of {names} (fusion.query=...)"
            )
        if width < 1:
            raise InputError(f"fusion {type(self).__name__}: width={width}; it is 1 or more")
        self.query, self.experts = query, [m for m in names if m != query]
        self.units = nn.ModuleDict({m: GatedUnit(dims[query], width) for m in self.experts})
        # Of one expert there is nothing to weigh, and a layer that nothing trains would break distributed training.
        self.weigh = nn.Linear(dims[query], len(self.experts)) if len(self.experts) > 1 else None
        self.adapter: nn.Module | None = None

    def insert(self, adapter: nn.Module | None) -> None:
        """Put an adapter over the sequences of the experts, in place of the one before; None takes it out.

        Raises:
            InputError: an adapter of other modalities, or one that acts between layers.
        """
        if adapter is not None and list(getattr(adapter, "dims", ())) != self.experts:
            raise InputError(
                f"adapter {type(adapter).__name__} joins {list(getattr(adapter, 'dims', ()))} and the gallery's experts are "
                f"{self.experts}; make it for these alone, the query must stay apart"
            )
        if getattr(adapter, "last", 0):
            raise InputError(
                f"adapter {type(adapter).__name__} acts between layers (last={getattr(adapter, 'last', 0)}); over the experts "
                "it stands behind them: last=0"
            )
        self.adapter = adapter

    def embed(self, features: dict[str, Features]) -> Tensor:
        """Embeddings (B, E, D) of length one, whatever they are where an expert is lacking."""
        raise NotImplementedError

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Pair:
        asked = features[self.query]
        if asked.present is not None and not bool(asked.present.all()):
            row = int((~asked.present).nonzero()[0])
            raise InputError(f"row {row} of the batch lacks its query {self.query!r}; fill it in or leave the row out")
        units = [unit(asked.pooled) for unit in self.units.values()]
        query = torch.stack(units, 1)
        weights = query.new_ones(len(query), 1) if self.weigh is None else self.weigh(asked.pooled).softmax(-1)
        gallery = self.embed({m: features[m] for m in self.experts})
        there = [features[m].present for m in self.experts]
        if any(one is not None for one in there):
            every = torch.ones(len(query), dtype=torch.bool, device=query.device)
            mask = torch.stack([every if one is None else one for one in there], 1)
            gallery = torch.where(mask[..., None], gallery, gallery.new_zeros(()))
        return Pair(query, gallery, weights)

    def through(self, features: dict[str, Features]) -> dict[str, Features]:
        """Through the adapter, if there is one."""
        return features if self.adapter is None else cast(_After, self.adapter).after(features)

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        if modality == self.query:
            return [*self.units.parameters(), *(() if self.weigh is None else self.weigh.parameters())]
        return [] if self.adapter is None else cast(_After, self.adapter).parameters_of(modality)


class MoEE(Pairing):
    """Mixture of embedding experts: gated embedding units on the query and on each expert's pooled features.

    With one expert it is the plain two-tower model, such as between pictures and their names.

    Args:
        dims: width of each modality's features.
        query: the modality that asks; of two modalities the first by default.
        width: D of the embeddings.

    Raises:
        InputError: fewer than two modalities, or a query that is none of them; when run, a sample that lacks its query.

    Source: Miech et al. 2018.
    Differs from the authors' code: no BatchNorm inside of the gates; text is whatever encoder the query has.

    Example:
        >>> fusion = MoEE({"name": 6, "image": 4, "sound": 5}, query="name", width=8)
        >>> pair = fusion({m: Features(torch.randn(3, dim)) for m, dim in fusion.dims.items()}, {})
        >>> pair.query.shape, pair.gallery.shape, pair.weights.shape
        (torch.Size([3, 2, 8]), torch.Size([3, 2, 8]), torch.Size([3, 2]))
    """

    def __init__(self, dims: Mapping[str, int], query: str | None = None, width: int = 512) -> None:
        super().__init__(dims, query, width)
        self.gallery = nn.ModuleDict({m: GatedUnit(dims[m], width) for m in self.experts})

    def embed(self, features: dict[str, Features]) -> Tensor:
        found = self.through(features)
        return torch.stack([unit(found[m].pooled) for m, unit in self.gallery.items()], 1)

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        own = [] if modality == self.query else list(self.gallery[modality].parameters())
        return own + super().parameters_of(modality)


class MMT(Pairing):
    """The Multi-Modal Transformer: self-attention over the tokens of all experts of a video at once.

    Each expert's pooled features stand in front of its tokens; what becomes of them behind the last layer is the expert's
    embedding. Tokens of padding and of experts that a video lacks are masked. The experts' encoders (`encoders.Expert`) tell
    the tokens what they are and when; a BERT or any other encoder of text makes the query's features. Layers are those of
    BERT: LN(dropout(x)) in front, then LN(x + attention(x)) and LN(x + W_2 gelu(W_1 x)).

    Args:
        dims: width of each modality's features, of all experts the same.
        query: the modality that asks.
        depth: layers.
        heads: attention heads.
        hidden: width inside of the feed-forward step.
        dropout: on the tokens, attention weights and residual branches.

    Raises:
        InputError: experts of different widths, heads that do not divide the width, and as `MoEE`.

    Source: Gabeur et al. 2020, sections 3.1 and 3.2.
    Differs from the authors' code: no [CLS] token, which is not read; no BatchNorm inside of the gates; experts that are
    lacking have no share in the similarity (their published settings keep one).

    Example:
        >>> fusion = MMT({"caption": 6, "face": 8, "rgb": 8}, query="caption", depth=1, heads=2, hidden=16)
        >>> experts = {m: Features(torch.randn(3, 8), torch.randn(3, 4, 8)) for m in ("face", "rgb")}
        >>> fusion({"caption": Features(torch.randn(3, 6)), **experts}, {}).gallery.shape
        torch.Size([3, 2, 8])
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        query: str | None = None,
        depth: int = 4,
        heads: int = 4,
        hidden: int = 3072,
        dropout: float = 0.1,
    ) -> None:
        widths = {m: dim for m, dim in dims.items() if m != query} if query in dims else dict(list(dims.items())[1:])
        if len(set(widths.values())) > 1:
            raise InputError(
                f"fusion MMT: the experts' widths {widths} differ; give their encoders one (encoders.<expert>.dim=...)"
            )
        width = next(iter(widths.values()), 1)
        super().__init__(dims, query, width)
        if depth < 1 or heads < 1 or width % heads:
            raise InputError(
                f"fusion MMT: depth={depth}, heads={heads}; heads divide the width {width}, both are 1 or more"
            )
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, hidden, dropout, "gelu", batch_first=True) for _ in range(depth)
        )

    def embed(self, features: dict[str, Features]) -> Tensor:
        parts = {m: self._tokens(one) for m, one in features.items()}
        found: dict[str, Features] = {}
        for m, part in self._run(parts).items():
            own = parts[m][1][:, 1:] if part.shape[1] > 1 else None
            tokens = part[:, 1:] if part.shape[1] > 1 else None
            found[m] = Features(part[:, 0], tokens, own, features[m].present)
        return F.normalize(torch.stack([one.pooled for one in self.through(found).values()], 1), dim=-1)

    def _run(self, parts: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """The tokens of each expert behind the last layer."""
        sizes = [one[0].shape[1] for one in parts.values()]
        mask = torch.cat([one[1] for one in parts.values()], 1)
        x = self.dropout(self.norm(torch.cat([one[0] for one in parts.values()], 1)))
        if hasattr(self.adapter, "run_layers"):
            apart = zip(parts, torch.split(x, sizes, 1), torch.split(mask, sizes, 1), strict=True)
            return cast(_Between, self.adapter).run_layers({m: (tokens, real) for m, tokens, real in apart})
        padding = ~visible(mask)
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        return dict(zip(parts, torch.split(x, sizes, 1), strict=True))

    @staticmethod
    def _tokens(one: Features) -> tuple[Tensor, Tensor]:
        """The aggregated token with the others behind it, and which of them are real: (B, 1 + L, D), (B, 1 + L)."""
        front = one.pooled[:, None]
        tokens = front if one.tokens is None else torch.cat([front, one.tokens.to(front.dtype)], 1)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if one.tokens is not None and one.mask is not None:
            mask[:, 1:] = one.mask
        return tokens, mask if one.present is None else mask & one.present[:, None]
