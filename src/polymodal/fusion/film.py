"""FiLM fusion: some modalities scale and shift the features of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from polymodal.errors import InputError
from polymodal.fusion.base import Fusion, shown
from polymodal.types import Features

__all__ = ["FiLM"]


class FiLM(Fusion):
    """(γ, β) = split(W_g c + b_g); z = W_o (γ ⊙ h + β) + b_o, where c (B, D_c) conditions h (B, D_h).

    γ and β are (B, D_h). Of two modalities the first conditions the second. Beyond two, which is our extension, c and h
    are concatenations: all but the last condition the last, or those named by `conditioner` condition all the others.
    There is no 1 + γ and no activation.

    A conditioner that a sample lacks drops its share of γ and β, and where all are lacking h passes as it is (γ = 1,
    β = 0); of a conditioned modality that a sample lacks only β remains.

    Args:
        dims: feature width D_m of each modality; two or more.
        outputs: C.
        conditioner: the modality or modalities that condition; the others are conditioned.

    Raises:
        InputError: a conditioner that is no modality, or nothing left to condition.

    Source: Perez et al. 2018, eq. 1 and 2, as used by Peng et al. 2022.
    Differs from the authors' code: it splits γ from β at the width of the input, which is right for equal widths alone;
    here they are split at D_h.

    Example:
        >>> fusion = FiLM({"audio": 4, "video": 3}, outputs=2)
        >>> fusion.conditioners, fusion.conditioned, tuple(fusion.modulation.weight.shape)
        (['audio'], ['video'], (6, 4))
    """

    modalities_allowed = (2, None)

    def __init__(self, dims: Mapping[str, int], outputs: int, conditioner: str | Sequence[str] | None = None) -> None:
        super().__init__(dims, outputs)
        if conditioner is None:
            conditioner = list(dims)[:-1]
        named = [conditioner] if isinstance(conditioner, str) else list(conditioner)
        self.conditioners = [m for m in dims if m in named]
        self.conditioned = [m for m in dims if m not in named]
        if not set(named) <= set(dims) or not self.conditioners or not self.conditioned:
            raise InputError(f"FiLM: conditioner={conditioner!r}; name some of {list(dims)}, not all")
        width = sum(dims[m] for m in self.conditioned)
        self.modulation = nn.Linear(sum(dims[m] for m in self.conditioners), 2 * width)
        self.head = nn.Linear(width, outputs)

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor:
        condition = torch.cat([shown(features[m].pooled, features[m]) for m in self.conditioners], -1)
        value = torch.cat([shown(features[m].pooled, features[m]) for m in self.conditioned], -1)
        gamma, beta = self.modulation(condition).chunk(2, -1)
        present = [features[m].present for m in self.conditioners]
        there = [one for one in present if one is not None]
        if len(there) == len(present):
            some = torch.stack(there).any(0)[:, None]
            gamma = torch.where(some, gamma, torch.ones_like(gamma))
            beta = torch.where(some, beta, torch.zeros_like(beta))
        logits: Tensor = self.head(gamma * value + beta)
        return logits
