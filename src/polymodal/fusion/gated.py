"""Gated fusion: one modality opens and closes the features of the others."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polymodal.errors import InputError
from polymodal.fusion.base import Fusion, shown
from polymodal.types import Features

__all__ = ["Gated"]


class Gated(Fusion):
    """z = W_o (σ(A h_g + a) ⊙ sum_m (B_m h_m + b_m)) + b_o: modality g gates the values of the others.

    Gate and value are (B, H). The sum over more than one other modality is our extension; the paper has two modalities.
    A modality that a sample lacks leaves the product as it is: without g the gate is 1, an absent B_m h_m + b_m is 0,
    and without any value the gate stands alone.

    Args:
        dims: feature width D_m of each modality; two or more.
        outputs: C.
        hidden: H.
        gate_modality: g, the first by default.

    Raises:
        InputError: `gate_modality` is no modality.

    Source: Kiela et al. 2018, as used by Peng et al. 2022.
    Differs from the authors' code: `hidden` need not be the width of the features.

    Example:
        >>> fusion = Gated({"audio": 4, "video": 3}, outputs=2, hidden=8)
        >>> fusion.gate, tuple(fusion.projections["video"].weight.shape)
        ('audio', (8, 3))
    """

    modalities_allowed = (2, None)

    def __init__(
        self, dims: Mapping[str, int], outputs: int, hidden: int = 64, gate_modality: str | None = None
    ) -> None:
        super().__init__(dims, outputs)
        self.gate = next(iter(dims)) if gate_modality is None else gate_modality
        if self.gate not in dims:
            raise InputError(f"Gated: gate_modality={gate_modality!r}; it is one of {list(dims)}")
        self.projections = nn.ModuleDict({m: nn.Linear(dim, hidden) for m, dim in dims.items()})
        self.head = nn.Linear(hidden, outputs)

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor:
        present = {m: features[m].present for m in self.dims}
        raw = {m: layer(shown(features[m].pooled, features[m])) for m, layer in self.projections.items()}
        gate = torch.sigmoid(raw.pop(self.gate))
        value = torch.stack([shown(one, features[m]) for m, one in raw.items()]).sum(0)
        has_gate = present.pop(self.gate)
        if has_gate is not None:
            gate = torch.where(has_gate[:, None], gate, torch.ones_like(gate))
        there = [one for one in present.values() if one is not None]
        if len(there) == len(present):
            value = torch.where(torch.stack(there).any(0)[:, None], value, torch.ones_like(value))
        logits: Tensor = self.head(gate * value)
        return logits

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        return list(self.projections[modality].parameters())
