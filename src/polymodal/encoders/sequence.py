"""Encoders of vector sequences: what they share, and the plain stacked Transformer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.blocks import positions, visible
from polymodal.encoders.base import LayeredEncoder, State, masked_mean, split_padded
from polymodal.errors import InputError
from polymodal.types import Features, Padded

__all__ = ["Pool", "SequenceEncoder", "SequenceTransformer", "check_heads"]

Pool = Literal["mean", "class"]


def check_heads(name: str, dim: int, heads: int) -> None:
    """Raise `InputError` unless attention of width `dim` divides among `heads`."""
    if dim < 1 or heads < 1 or dim % heads:
        raise InputError(f"{name}: {heads} attention heads do not divide the width {dim}; choose both so that they do")


class SequenceEncoder(LayeredEncoder):
    """Sequences (B, L, D_in), padded or not, projected to width D and run through `layers`.

    The pooled features are the mean of the real tokens (zeros for a sample without any), or the first token, a learned
    one in front of the sequence that is a token of its own in `Features.tokens` too. One vector (B, D_in) is a sequence
    of length 1. What stands in the padding is never read.

    Args:
        in_dim: D_in.
        dim: D.
        layers: what `run_layer` runs.
        pool: "mean" or "class".
        dropout: on the tokens before the first layer.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"vector"})
    class_token: nn.Parameter | None

    def __init__(self, in_dim: int, dim: int, layers: Iterable[nn.Module], pool: Pool, dropout: float) -> None:
        super().__init__()
        if pool not in ("mean", "class"):
            raise InputError(f"{type(self).__name__}: pool={pool!r}; it is 'mean' or 'class'")
        self.dim = dim
        self.project = nn.Linear(in_dim, dim)
        self.class_token = nn.Parameter(0.02 * torch.randn(dim)) if pool == "class" else None
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(layers)
        self.norm: nn.Module = nn.Identity()

    def place(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L, D) told where in the sequence they are; layers that see distances need no telling."""
        return tokens

    def embed(self, x: Tensor | Padded) -> State:
        values, mask = split_padded(x)
        if values.ndim == 2:
            values = values[:, None]
        if mask is not None:
            values = torch.where(mask[..., None], values, torch.zeros_like(values))
        tokens = self.project(values)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], 1, -1), tokens], 1)
            mask = None if mask is None else F.pad(mask, (1, 0), value=True)
        return State(self.dropout(self.place(tokens)), mask)

    def finish(self, state: State) -> Features:
        own = state.drop()
        tokens = self.norm(own.tokens)
        pooled = masked_mean(tokens, own.mask) if self.class_token is None else tokens[:, 0]
        return Features(pooled, tokens, own.mask)


class SequenceTransformer(SequenceEncoder):
    """The stacked Transformer: P x + sinusoids of the positions, through layers of self-attention.

    Each layer is torch's own: y = x + attention(LN(x)); y + W_2 relu(W_1 LN(y)) with W_1 y four times as wide, then one
    LN behind the last; or, with `pre_norm` false, y = LN(x + attention(x)); LN(y + W_2 relu(W_1 y)). Positions have no
    parameters and no limit, so that an encoder moves to data of other lengths. More padding never changes a result.

    Args:
        in_dim: width D_in of the vectors.
        dim: width D of tokens and pooled features.
        depth: number of layers.
        heads: attention heads; divides `dim`.
        pre_norm: LayerNorm in front of attention and feed-forward step, or behind them.
        dropout: on the embedded tokens, on attention weights, on residual branches and inside the feed-forward step.
        pool: "mean" of the real tokens, or a "class" token.

    Raises:
        InputError: heads that do not divide the width, or another `pool`.

    Source: Vaswani et al. 2017; the backbone for CMU-MOSI and IEMOCAP of Guo et al. 2025 (depth and width not stated).

    Example:
        >>> encoder = SequenceTransformer(in_dim=5, dim=16, depth=2, heads=4)
        >>> features = encoder(Padded(torch.randn(2, 7, 5), torch.arange(7) < torch.tensor([[7], [4]])))
        >>> features.pooled.shape, features.tokens.shape
        (torch.Size([2, 16]), torch.Size([2, 7, 16]))
    """

    def __init__(
        self,
        in_dim: int,
        dim: int = 64,
        depth: int = 4,
        heads: int = 8,
        pre_norm: bool = True,
        dropout: float = 0.1,
        pool: Pool = "mean",
    ) -> None:
        check_heads("SequenceTransformer", dim, heads)
        layers = [
            nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout, batch_first=True, norm_first=pre_norm)
            for _ in range(depth)
        ]
        super().__init__(in_dim, dim, layers, pool, dropout)
        if pre_norm:
            self.norm = nn.LayerNorm(dim)

    def place(self, tokens: Tensor) -> Tensor:
        return tokens + positions(tokens.shape[1], tokens)

    def run_layer(self, index: int, state: State) -> State:
        # Without a visible token the layer's fused path of evaluation gives NaN.
        padding = None if state.mask is None else ~visible(state.mask)
        return state._replace(tokens=self.layers[index](state.tokens, src_key_padding_mask=padding))
