"""Conformer fusion: convolution and self-attention over the tokens of all modalities."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polymodal.blocks import ConformerBlock
from polymodal.errors import InputError
from polymodal.fusion.token_sequence import TokenFusion, fitting_heads
from polymodal.types import Features

__all__ = ["Conformer", "real_tokens_first"]


def real_tokens_first(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (B, L, W) and mask (B, L) with the real tokens moved to the front, all orders kept.

    Example:
        >>> tokens, mask = real_tokens_first(torch.tensor([[[1.0], [0.0], [3.0]]]), torch.tensor([[True, False, True]]))
        >>> tokens.flatten().tolist(), mask.tolist()
        ([1.0, 3.0, 0.0], [[True, True, False]])
    """
    behind = mask.sum(1, keepdim=True) + (~mask).cumsum(1)
    place = torch.where(mask, mask.cumsum(1), behind) - 1
    moved = torch.zeros_like(tokens).scatter(1, place[..., None].expand_as(tokens), tokens)
    return moved, torch.zeros_like(mask).scatter(1, place, mask)


class Conformer(TokenFusion):
    """z = W C([class; x_1; ...; x_M]) at the class token + b: Conformer blocks over the tokens of all modalities.

    x_m (B, L_m, W) are the projected tokens of modality m (its pooled features where it has none) plus one learned
    vector a modality; that vector and the class token are drawn from N(0, 1). The convolution runs over the class token
    and across the border between modalities. Padding never changes a result: real tokens are moved together, so that
    neither distances nor neighbours depend on it, and a modality that a sample lacks is as if it were not in the
    sequence.

    Args:
        dims: width D_m of the tokens of each modality.
        outputs: C.
        width: W; 512 in the paper.
        depth: number of blocks.
        heads: of attention, at most; the largest number that divides W is taken.
        kernel: of the depthwise convolution; odd.
        dropout: on the joined sequence and in the blocks, see `ConformerBlock`.

    Raises:
        InputError: an even kernel, which has no middle.

    Source: Kontras et al. 2024, section 4.3 (Mid-Conformer); the block is Gulati et al. 2020.
    Differs from the authors' code: it passes no padding mask, so that padding enters attention, convolution and the
    statistics of BatchNorm; here it enters none.

    Example:
        >>> fusion = Conformer({"audio": 4, "video": 3}, outputs=2, width=16).eval()
        >>> sound = torch.randn(1, 3, 4)
        >>> padded = torch.cat([sound, torch.zeros(1, 2, 4)], 1)
        >>> mask = torch.tensor([[True, True, True, False, False]])
        >>> short = {"audio": Features(sound.mean(1), sound), "video": Features(torch.ones(1, 3))}
        >>> long = {"audio": Features(sound.mean(1), padded, mask), "video": Features(torch.ones(1, 3))}
        >>> torch.allclose(fusion(short, {}), fusion(long, {}), atol=1e-5)
        True
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        width: int = 64,
        depth: int = 2,
        heads: int = 8,
        kernel: int = 31,
        dropout: float = 0.1,
    ) -> None:
        if kernel < 1 or kernel % 2 == 0:
            raise InputError(f"Conformer: kernel={kernel}; it is odd, 31 by default")
        fitting = fitting_heads(width, heads)
        blocks = [ConformerBlock(width, fitting, kernel, dropout) for _ in range(depth)]
        super().__init__(dims, outputs, width, blocks, project_all=True)
        self.dropout = nn.Dropout(dropout)

    def join(self, features: dict[str, Features]) -> tuple[Tensor, Tensor | None]:
        tokens, mask = super().join(features)
        tokens = self.dropout(tokens)
        return (tokens, None) if mask is None else real_tokens_first(tokens, mask)
