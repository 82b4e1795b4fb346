"""Mid-MLP fusion: a perceptron on the concatenated features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from polymodal.errors import InputError
from polymodal.fusion.base import Fusion, shown
from polymodal.fusion.cosine import scaled_cosines
from polymodal.types import Features

__all__ = ["MLP"]


class MLP(Fusion):
    """u = sum_m W_m h_m + b; z = W'' drop(relu(W' drop(relu(u)) + b')) + b'': an MLP on [h_1; ...; h_M].

    The first layer is kept as one block W_m (H, D_m) a modality and one shared bias; everything behind is common. A
    modality that a sample lacks drops its share W_m h_m. There is no exact split of the logits.

    Args:
        dims: feature width D_m of each modality.
        outputs: C.
        hidden: H, width of both hidden layers.
        dropout: after each hidden layer.
        cosine: a scale s for MMCosine in the first layer, u_k = s sum_m cos(h_m, w_m,k) + b_k with w_m,k the rows of W_m:
            behind it there is no share of a modality whose length could be taken away. The plain layer by default.

    Raises:
        InputError: a `cosine` that is not positive.

    Source: Kontras et al. 2024, section 4.3 (Mid-MLP). Differs from the authors' code: nothing known; the paper says
    two layers and means the two behind the first. `cosine` is ours, after Xu et al. 2023, who define it for linear heads.

    Example:
        >>> fusion = MLP({"audio": 4, "video": 3}, outputs=2)
        >>> [tuple(block.weight.shape) for block in fusion.blocks.values()]
        [(64, 4), (64, 3)]
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        hidden: int = 64,
        dropout: float = 0.1,
        cosine: float | None = None,
    ) -> None:
        super().__init__(dims, outputs)
        if cosine is not None and not cosine > 0:
            raise InputError(f"MLP: cosine={cosine}; it is the positive scale of MMCosine, or None for the plain layer")
        self.cosine = cosine
        self.blocks = nn.ModuleDict({m: nn.Linear(dim, hidden, bias=False) for m, dim in dims.items()})
        self.bias = nn.Parameter(torch.empty(hidden))
        # As torch initialises one layer on the whole concatenation.
        bound = sum(dims.values()) ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)
        self.common = nn.Sequential(
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor:
        shares = [self._share(block, shown(features[m].pooled, features[m])) for m, block in self.blocks.items()]
        logits: Tensor = self.common(torch.stack(shares).sum(0) + self.bias)
        return logits

    def _share(self, block: nn.Module, pooled: Tensor) -> Tensor:
        """What a modality adds to u: (B, D_m) to (B, H)."""
        linear = cast(nn.Linear, block)
        return linear(pooled) if self.cosine is None else scaled_cosines(pooled, linear.weight, self.cosine)

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        return list(self.blocks[modality].parameters())
