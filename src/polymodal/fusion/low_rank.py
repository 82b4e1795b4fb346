"""Low-rank tensor fusion: a linear layer on the tensor of TFN, in factors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from polymodal.errors import InputError
from polymodal.fusion.base import Fusion, shown
from polymodal.types import Features

__all__ = ["LMF", "low_rank_share"]


def low_rank_share(vector: Tensor, factor: Tensor) -> Tensor:
    """[1; h] F_r for every rank: h (B, D) and F (R, D + 1, C) -> (B, R, C), without forming [1; h].

    Source: Liu et al. 2018, section 3.

    Example:
        >>> low_rank_share(torch.tensor([[2.0]]), torch.tensor([[[10.0], [1.0]], [[20.0], [3.0]]])).flatten()
        tensor([12., 26.])
    """
    return torch.einsum("bd,rdc->brc", vector, factor[:, 1:]) + factor[:, 0]


class LMF(Fusion):
    """Low-rank multimodal fusion: z = sum_r w_r prod_m ([1; h_m] F_{m,r}) + b.

    F_m is (R, D_m + 1, C), w (1, R) and b (1, C). This is the layer W t + b on the tensor t = [1; h_1] ⊗ ... ⊗ [1; h_M]
    with W of rank R, at a cost that is linear in the number of modalities. A modality that a sample lacks leaves the
    product as it is (its factor is 1).

    Args:
        dims: feature width D_m of each modality.
        outputs: C.
        rank: R.
        rank_sum: "outside" the product, as above; "inside" is the form that the paper prints,
            prod_m (sum_r [1; h_m] F_{m,r}) + b, which has no w and whose rank is one whatever R.

    Raises:
        InputError: a rank below 1 or an unknown `rank_sum`.

    Source: Liu et al. 2018, section 3; F_m and w Xavier-normal, b = 0. Differs from the authors' code: nothing is
    squeezed, so a batch of one keeps its shape; w is learned, as there, where the paper has 1.

    Example:
        >>> fusion = LMF({"audio": 4, "video": 3}, outputs=2, rank=8)
        >>> [tuple(factor.shape) for factor in fusion.factors], tuple(fusion.rank_weights.shape)
        ([(8, 5, 2), (8, 4, 2)], (1, 8))
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, rank: int = 4, rank_sum: str = "outside") -> None:
        super().__init__(dims, outputs)
        if rank < 1 or rank_sum not in ("outside", "inside"):
            raise InputError(f"LMF: rank={rank}, rank_sum={rank_sum!r}; at least 1, and 'outside' or 'inside'")
        self.rank_sum = rank_sum
        self.factors = nn.ParameterList([torch.empty(rank, dim + 1, outputs) for dim in dims.values()])
        self.rank_weights = nn.Parameter(torch.empty(1, rank)) if rank_sum == "outside" else None
        self.bias = nn.Parameter(torch.zeros(1, outputs))
        for factor in self.factors:
            nn.init.xavier_normal_(factor)
        if self.rank_weights is not None:
            nn.init.xavier_normal_(self.rank_weights)

    def forward(self, features: dict[str, Features], unimodal: dict[str, Tensor]) -> Tensor:
        product = self._share(features, 0)
        for index in range(1, len(self.dims)):
            product = product * self._share(features, index)
        if self.rank_weights is None:
            return product.squeeze(1) + self.bias
        return torch.einsum("zr,brc->bc", self.rank_weights, product) + self.bias

    def _share(self, features: dict[str, Features], index: int) -> Tensor:
        """One modality's factor of the product: (B, R, C), or (B, 1, C) with the sum over ranks inside."""
        one = features[list(self.dims)[index]]
        share = low_rank_share(shown(one.pooled, one), self.factors[index])
        if self.rank_weights is None:
            share = share.sum(1, keepdim=True)
        if one.present is None:
            return share
        return torch.where(one.present[:, None, None], share, torch.ones_like(share))

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        return [self.factors[list(self.dims).index(modality)]]
