"""Sum fusion: the logits of one linear layer a modality, added."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polymodal.fusion.base import Fusion, shown
from polymodal.types import Features

__all__ = ["Sum"]


class Sum(Fusion):
    """z = sum_m (W_m h_m + b_m): every modality has a whole linear layer, bias included, and `parts` are its logits.

    A modality that a sample lacks drops its share, bias included.

    Args:
        dims: feature width D_m of each modality.
        outputs: C.

    Source: Peng et al. 2022, section 4.1. Differs from the authors' code: it halves the biases in evaluation only; here
    training and evaluation compute the same.

    Example:
        >>> sum(p.numel() for p in Sum({"audio": 4, "video": 3}, outputs=2).parameters())
        18
    """

    additive = True

    def __init__(self, dims: Mapping[str, int], outputs: int) -> None:
        super().__init__(dims, outputs)
        self.layers = nn.ModuleDict({m: nn.Linear(dim, outputs) for m, dim in dims.items()})

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor:
        return torch.stack(list(self.parts(features).values())).sum(0)

    def parts(self, features: dict[str, Features]) -> dict[str, Tensor]:
        return {m: shown(self.layers[m](f.pooled), f) for m, f in features.items()}

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        return list(self.layers[modality].parameters())
