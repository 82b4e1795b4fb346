"""The base of all fusions: from the features of each modality to fused logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from polymodal.errors import InputError
from polymodal.names import check_modalities
from polymodal.types import Features, Pair

__all__ = ["Fusion", "Part", "shown"]


class Fusion(nn.Module):
    """Fused logits (B, C) from features and uni-modal logits.

    A fusion that splits exactly into one share a modality sets `additive` and overrides `parts`. Parameters that belong to
    one modality's block are told by `parameters_of`. A modality that a sample lacks (`Features.present`) contributes nothing.

    Args:
        dims: feature width D_m of each modality, in order.
        outputs: C.
    """

    additive: ClassVar[bool] = False
    """Whether `parts` splits the logits exactly into one share a modality."""
    needs_heads: ClassVar[bool] = False
    """Whether it combines the logits of uni-modal heads, which then must exist."""
    modalities_allowed: ClassVar[tuple[int, int | None]] = (1, None)
    """Fewest and most modalities that the mathematics allows."""

    def __init__(self, dims: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        check_modalities(dims)
        few, most = self.modalities_allowed
        if len(dims) < few or (most is not None and len(dims) > most):
            wanted = f"exactly {few}" if few == most else f"{few} to {most}" if most else f"at least {few}"
            raise InputError(
                f"fusion {type(self).__name__} joins {wanted} modalities and was given {len(dims)}: {list(dims)}; "
                "use fusion 'concat', which takes any number"
            )
        self.dims, self.outputs = dict(dims), outputs

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor | Pair:
        """Fused logits (B, C), or a `Pair` of embeddings for retrieval."""
        raise NotImplementedError

    def parts(self, features: dict[str, Features]) -> dict[str, Tensor]:
        """Each modality's share (B, C), which add up to the fused logits.

        Raises:
            InputError: the fusion has no exact split.
        """
        raise InputError(
            f"{type(self).__name__} does not split into one share a modality; use fusion 'concat' or 'sum', or build the "
            "model with uni-modal heads"
        )

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """Parameters that touch this modality alone; empty where all are shared."""
        return []


class Part(Fusion):
    """One modality's share of an additive fusion, as the fusion of a uni-modal model."""

    additive = True

    def __init__(self, whole: Fusion, modality: str) -> None:
        super().__init__({modality: whole.dims[modality]}, whole.outputs)
        self.whole, self.modality = whole, modality

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor:
        return self.parts(features)[self.modality]

    def parts(self, features: dict[str, Features]) -> dict[str, Tensor]:
        return {self.modality: self.whole.parts(features)[self.modality]}


def shown(value: Tensor, features: Features) -> Tensor:
    """`value` (B, ...) with zeros where the sample lacks the modality."""
    if features.present is None:
        return value
    return torch.where(features.present.view(-1, *[1] * (value.ndim - 1)), value, torch.zeros_like(value))
