"""Tensor fusion: every product of features of different modalities, then an MLP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn

from polymodal.errors import InputError
from polymodal.fusion.base import Fusion, shown
from polymodal.types import Features

__all__ = ["TFN", "outer"]

LARGEST = 2**28  # weights of the first layer, 1 GiB in single precision


def outer(vectors: Sequence[Tensor]) -> Tensor:
    """[1; h_1] ⊗ ... ⊗ [1; h_M], flattened: (B, D_m) each -> (B, prod_m (D_m + 1)), the last modality running fastest.

    Source: Zadeh et al. 2017, section 4.2.

    Example:
        >>> outer([torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0]])])
        tensor([[ 1.,  5.,  2., 10.,  3., 15.]])
    """
    tensor = torch.ones_like(vectors[0][:, :1])
    for vector in vectors:
        extended = nn.functional.pad(vector, (1, 0), value=1.0)
        tensor = (tensor[:, :, None] * extended[:, None, :]).flatten(1)
    return tensor


class TFN(Fusion):
    """Tensor fusion network: z = MLP(drop([1; h_1] ⊗ ... ⊗ [1; h_M])) with three linear layers and ReLU between.

    The tensor holds every product of features of any subset of modalities, so its size prod_m (D_m + 1) is only for few
    and narrow modalities; `LMF` is its factorised form. A modality that a sample lacks has [1; 0], the neutral element.

    Args:
        dims: feature width D_m of each modality.
        outputs: C.
        hidden: width of both hidden layers.
        dropout: on the tensor.
        output: "linear", or "sigmoid_range": z = low + (high - low) σ(.), for sentiment between two limits.
        limits: (low, high) of "sigmoid_range".

    Raises:
        InputError: an unknown output, or a tensor so large that its layer would pass 2^28 weights.

    Source: Zadeh et al. 2017, section 4.2; `output="sigmoid_range"` is their sentiment inference network. Differs from
    the authors' code: the most used re-implementation drops the ReLU between layers and takes the size from the widths
    of the inputs instead of the features.

    Example:
        >>> TFN({"audio": 2, "video": 2, "text": 3}, outputs=2).size
        36
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        hidden: int = 64,
        dropout: float = 0.1,
        output: str = "linear",
        limits: tuple[float, float] = (-3.0, 3.0),
    ) -> None:
        super().__init__(dims, outputs)
        if output not in ("linear", "sigmoid_range"):
            raise InputError(f"TFN: output={output!r}; it is 'linear' or 'sigmoid_range'")
        self.size = prod(dim + 1 for dim in dims.values())
        if self.size * hidden > LARGEST:
            raise InputError(
                f"TFN: widths {dict(dims)} make a tensor of {self.size:,} products, a layer of {self.size * hidden:,} "
                "weights; use narrower encoders or fusion 'lmf', which factorises it"
            )
        self.output, self.limits = output, limits
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Sequential(
            nn.Linear(self.size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor:
        tensor = outer([shown(features[m].pooled, features[m]) for m in self.dims])
        logits: Tensor = self.head(self.dropout(tensor))
        if self.output == "linear":
            return logits
        low, high = self.limits
        return low + (high - low) * torch.sigmoid(logits)
