"""What the Transformer and the Conformer fusion share: one sequence of the tokens of all modalities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from polymodal.errors import InputError
from polymodal.fusion.base import Fusion
from polymodal.types import Features

__all__ = ["TokenFusion", "fitting_heads"]


def fitting_heads(width: int, most: int) -> int:
    """The largest number of attention heads, at most `most`, that divides `width`.

    Example:
        >>> fitting_heads(64, 8), fitting_heads(20, 8)
        (8, 5)
    """
    if width < 1 or most < 1:
        raise InputError(f"width={width}, heads={most}; both are 1 or more")
    return max(heads for heads in range(1, most + 1) if width % heads == 0)


class TokenFusion(Fusion):
    """z = W blocks([class; x_1; ...; x_M]) at the class token + b, where x_m (B, L_m, W) = P_m tokens_m + token_m.

    token_m (W,) is one learned vector a modality, added to all of its tokens; it and the class token are drawn from
    N(0, 1). P_m projects to the common width and is the identity where D_m is that already. An encoder that yields no
    tokens gives its pooled features as one. Padding, and a modality that a sample lacks, is masked.

    Args:
        dims: width D_m of the tokens of each modality.
        outputs: C.
        width: W.
        blocks: modules from tokens (B, L, W) and mask (B, L) or None to tokens.
        project_all: project also where D_m is W.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        width: int,
        blocks: Iterable[nn.Module],
        project_all: bool = False,
    ) -> None:
        super().__init__(dims, outputs)
        self.projections = nn.ModuleDict(
            {m: nn.Linear(dim, width) if project_all or dim != width else nn.Identity() for m, dim in dims.items()}
        )
        self.class_token = nn.Parameter(torch.randn(width))
        self.modality_tokens = nn.Parameter(torch.randn(len(dims), width))
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(width, outputs)

    def join(self, features: dict[str, Features]) -> tuple[Tensor, Tensor | None]:
        """The sequence [class; x_1; ...; x_M] (B, 1 + sum_m L_m, W) and its mask, None where all of it is real."""
        batch = next(iter(features.values())).pooled.shape[0]
        tokens, masks = [self.class_token.expand(batch, 1, -1)], []
        for index, (m, project) in enumerate(self.projections.items()):
            values, mask = _sequence(features[m])
            if mask is not None:  # whatever fills the padding, NaN included, must not pass
                values = torch.where(mask[..., None], values, torch.zeros_like(values))
            tokens.append(project(values) + self.modality_tokens[index])
            masks.append(mask)
        if all(mask is None for mask in masks):
            return torch.cat(tokens, 1), None
        real = [
            torch.ones(one.shape[:2], dtype=torch.bool, device=one.device) if mask is None else mask
            for one, mask in zip(tokens, [None, *masks], strict=True)
        ]
        return torch.cat(tokens, 1), torch.cat(real, 1)

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor:
        tokens, mask = self.join(features)
        for block in self.blocks:
            tokens = block(tokens, mask)
        logits: Tensor = self.head(tokens[:, 0])
        return logits


def _sequence(features: Features) -> tuple[Tensor, Tensor | None]:
    """Tokens (B, L, D) and mask (B, L) of one modality; the mask tells also which samples lack it."""
    tokens, mask = (features.pooled[:, None], None) if features.tokens is None else (features.tokens, features.mask)
    if features.present is None:
        return tokens, mask
    there = features.present[:, None].expand(tokens.shape[:2])
    return tokens, there if mask is None else mask & there
