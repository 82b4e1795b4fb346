"""The Conformer encoder over sequences of features, such as those of a frozen network."""

from __future__ import annotations

from polymodal.blocks import ConformerBlock
from polymodal.encoders.base import State
from polymodal.encoders.sequence import Pool, SequenceEncoder, check_heads
from polymodal.errors import InputError

__all__ = ["ConformerEncoder"]


class ConformerEncoder(SequenceEncoder):
    """Sequences (B, L, D_in), padded or not, projected to width D and run through Conformer blocks.

    Positions are distances inside the attention (`polymodal.blocks.ConformerBlock`). Padding enters neither attention
    nor convolution nor the statistics of BatchNorm, so that more of it never changes a result. Foreign tokens that an
    adapter puts in front are attended to and left out of the convolution, which keeps them from becoming neighbours of
    the sequence.

    Args:
        in_dim: width D_in of the vectors; 1408 of EfficientNet-B2.
        dim: width D of tokens and pooled features.
        depth: number of blocks.
        heads: attention heads; divides `dim`.
        kernel: of the depthwise convolution; odd.
        dropout: on the embedded tokens and in the blocks.
        pool: "mean" of the real tokens, or a "class" token, over which the convolution runs too.

    Raises:
        InputError: an even kernel, heads that do not divide the width, or another `pool`.

    Source: Gulati et al. 2020; five blocks over frozen features in Kontras et al. 2024, section 4.2. Width, heads and
        kernel are those of their fusion (section 4.3), since the encoder's are not stated.
    Differs from the authors' code: it passes no padding mask.

    Example:
        >>> import torch
        >>> encoder = ConformerEncoder(in_dim=6, dim=16, depth=2, heads=4).eval()
        >>> encoder(torch.randn(2, 7, 6)).pooled.shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        in_dim: int,
        dim: int = 512,
        depth: int = 5,
        heads: int = 8,
        kernel: int = 31,
        dropout: float = 0.1,
        pool: Pool = "mean",
    ) -> None:
        name = type(self).__name__
        check_heads(name, dim, heads)
        if kernel < 1 or kernel % 2 == 0:
            raise InputError(f"{name}: kernel={kernel}; it is odd, 31 by default")
        super().__init__(
            in_dim, dim, [ConformerBlock(dim, heads, kernel, dropout) for _ in range(depth)], pool, dropout
        )

    def run_layer(self, index: int, state: State) -> State:
        return state._replace(tokens=self.layers[index](state.tokens, state.mask, state.extra))
