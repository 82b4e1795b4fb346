"""Late-linear fusion: one linear layer on the concatenated features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polymodal.fusion.base import Fusion, shown
from polymodal.types import Features

__all__ = ["Concat"]


class Concat(Fusion):
    """z = sum_m W_m h_m + b: a linear layer on [h_1; ...; h_M], kept as one block a modality and one shared bias.

    `parts` gives z_m = W_m h_m + b / M, so that sum_m z_m = z. A modality that a sample lacks drops its share W_m h_m.

    Args:
        dims: feature width D_m of each modality.
        outputs: C.

    Source: Kontras et al. 2024, section 4.3 (Late-Linear); the split is Peng et al. 2022, eq. 6.

    Example:
        >>> fusion = Concat({"audio": 4, "video": 3}, outputs=2)
        >>> [tuple(block.weight.shape) for block in fusion.blocks.values()]
        [(2, 4), (2, 3)]
    """

    additive = True

    def __init__(self, dims: Mapping[str, int], outputs: int) -> None:
        super().__init__(dims, outputs)
        total = sum(dims.values())
        self.blocks = nn.ModuleDict({m: nn.Linear(dim, outputs, bias=False) for m, dim in dims.items()})
        self.bias = nn.Parameter(torch.empty(outputs))
        # As torch initialises one layer on the whole concatenation.
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(total**-0.5), total**-0.5)

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor:
        shares = [shown(block(features[m].pooled), features[m]) for m, block in self.blocks.items()]
        return torch.stack(shares).sum(0) + self.bias

    def parts(self, features: dict[str, Features]) -> dict[str, Tensor]:
        share = self.bias / len(self.blocks)
        return {m: shown(self.blocks[m](f.pooled), f) + share for m, f in features.items()}

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        return list(self.blocks[modality].parameters())
