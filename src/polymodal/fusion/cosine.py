"""MMCosine fusion: the cosines between features and class vectors, added over modalities and scaled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from polymodal.errors import InputError
from polymodal.fusion.base import Fusion, shown
from polymodal.types import Features

__all__ = ["MMCosine", "scaled_cosines", "unit"]


def unit(x: Tensor, eps: float = 1e-12) -> Tensor:
    """Unit vectors x / |x| along the last dimension; zero, with gradient zero, where no entry is above `eps`.

    Each vector is first divided by its largest entry, which changes nothing but keeps squares from overflowing.

    Example:
        >>> unit(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # eps is 0 in half precision
    largest = wide.detach().abs().amax(-1, keepdim=True)
    real = largest > eps
    y = torch.where(real, wide / torch.where(real, largest, torch.ones_like(largest)), torch.zeros_like(wide))
    length: Tensor = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    return (y / length.clamp_min(1)).to(x.dtype)


def scaled_cosines(features: Tensor, weight: Tensor, scale: float) -> Tensor:
    """Scaled cosines s cos(h_b, w_c): features (B, D) and class vectors (C, D) -> (B, C).

    Source: Xu et al. 2023.

    Example:
        >>> scaled_cosines(torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 1.0]]), scale=10)
        tensor([[10.,  0.]])
    """
    return scale * (unit(features) @ unit(weight).T)


class MMCosine(Fusion):
    """z_c = s sum_m cos(h_m, w_{m,c}): features and class vectors (C, D_m) scaled to length 1, no bias.

    So no modality can rule the logits by the length of its features or weights. `parts` are the scaled cosines. A
    modality that a sample lacks drops its share.

    Args:
        dims: feature width D_m of each modality.
        outputs: C.
        scale: s; published: 10 on CREMA-D, 1 on AVE.

    Raises:
        InputError: a scale that is not positive.

    Source: Xu et al. 2023. Differs from the authors' code: it trains this form and validates the plain linear
    output W h + b; here training and evaluation compute the same.

    Example:
        >>> fusion = MMCosine({"audio": 4, "video": 3}, outputs=2)
        >>> short = {"audio": Features(torch.ones(1, 4)), "video": Features(torch.ones(1, 3))}
        >>> long = {"audio": Features(9 * torch.ones(1, 4)), "video": Features(torch.ones(1, 3))}
        >>> torch.allclose(fusion(short, {}), fusion(long, {}))
        True
    """

    additive = True

    def __init__(self, dims: Mapping[str, int], outputs: int, scale: float = 10.0) -> None:
        super().__init__(dims, outputs)
        if not scale > 0:
            raise InputError(f"MMCosine: scale={scale}; it is a positive number, 10 by default")
        self.scale = scale
        self.blocks = nn.ModuleDict({m: nn.Linear(dim, outputs, bias=False) for m, dim in dims.items()})

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor:
        return torch.stack(list(self.parts({m: features[m] for m in self.blocks}).values())).sum(0)

    def parts(self, features: dict[str, Features]) -> dict[str, Tensor]:
        weights = {m: cast(nn.Linear, self.blocks[m]).weight for m in features}
        return {m: scaled_cosines(shown(f.pooled, f), weights[m], self.scale) for m, f in features.items()}

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        return list(self.blocks[modality].parameters())
