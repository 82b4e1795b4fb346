"""Transformer fusion: self-attention over the tokens of all modalities."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.fusion.token_sequence import TokenFusion, fitting_heads

__all__ = ["Transformer", "TransformerBlock"]


class TransformerBlock(nn.Module):
    """y = LN(x + drop(attention(x))); LN(y + drop(W_2 drop(relu(W_1 y)))): tokens x (B, L, W) to tokens.

    W_1 y is four times as wide as y. The key has no bias: the softmax over keys would cancel it. It is written out
    because torch's own layer takes another path, with other rounding, in evaluation without gradients.

    Args:
        width: W.
        heads: attention heads; divides W.
        dropout: on attention weights, on both residual branches and inside the feed-forward layer.

    Source: Vaswani et al. 2017, section 3.1 (normalisation after each residual).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (B, L, W) that attend to those which `mask` (B, L) calls real; each sample needs one."""
        batch, length, _ = tokens.shape
        query, key, value = (
            layer(tokens).view(batch, length, self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if mask is None else mask[:, None, None],
            dropout_p=self.rate if self.training else 0.0,
        )
        tokens = self.norms[0](tokens + self.dropout(self.out(attended.transpose(1, 2).flatten(2))))
        mixed: Tensor = self.norms[1](tokens + self.dropout(self.feed_forward(tokens)))
        return mixed


class Transformer(TokenFusion):
    """z = W T([class; x_1; ...; x_M]) at the class token + b: self-attention over the tokens of all modalities.

    x_m (B, L_m, W) are the tokens of modality m (its pooled features where it has none), projected where D_m is not W,
    plus one learned vector a modality; that vector and the class token are drawn from N(0, 1). There are no positions:
    an encoder whose order matters writes it into its tokens. Padding never changes a result, nor does a modality that a
    sample lacks: both are masked.

    Args:
        dims: width D_m of the tokens of each modality.
        outputs: C.
        width: W; 512 in the paper.
        depth: number of blocks.
        heads: of attention, at most; the largest number that divides W is taken.
        dropout: see `TransformerBlock`.

    Source: Kontras et al. 2024, section 4.3 (Mid-Transformer).
    Differs from the authors' code: it passes no padding mask.

    Example:
        >>> import torch
        >>> from polymodal.types import Features
        >>> fusion = Transformer({"audio": 4, "video": 3}, outputs=2, width=16).eval()
        >>> mask = torch.tensor([[True, True, False]])
        >>> audio = Features(torch.ones(1, 4), torch.ones(1, 3, 4), mask)
        >>> fusion({"audio": audio, "video": Features(torch.ones(1, 3))}, {}).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        fitting = fitting_heads(width, heads)
        super().__init__(dims, outputs, width, [TransformerBlock(width, fitting, dropout) for _ in range(depth)])
