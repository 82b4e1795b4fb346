"""Concat equals one linear layer on the concatenation."""

# mypy: disable-error-code="operator"

import torch
from torch import nn

from polymodal.fusion import Concat
from polymodal.types import Features

DIMS = {"a": 4, "v": 3, "t": 2}


def test_equals_one_linear_layer():
    fusion, whole = Concat(DIMS, 5).double(), nn.Linear(9, 5).double()
    for block, weight in zip(fusion.blocks.values(), whole.weight.split(list(DIMS.values()), 1), strict=True):
        block.weight.data.copy_(weight)
    fusion.bias.data.copy_(whole.bias)
    pooled = {m: torch.randn(6, dim, dtype=torch.float64) for m, dim in DIMS.items()}
    found = fusion({m: Features(h) for m, h in pooled.items()}, {})
    torch.testing.assert_close(found, whole(torch.cat(list(pooled.values()), 1)), rtol=0, atol=1e-12)


def test_each_part_has_its_share_of_the_bias():
    fusion = Concat(DIMS, 5)
    zero = {m: Features(torch.zeros(2, dim)) for m, dim in DIMS.items()}
    for part in fusion.parts(zero).values():
        torch.testing.assert_close(part, (fusion.bias / 3).expand(2, 5))


def test_an_absent_modality_drops_its_share_and_not_the_bias():
    fusion, absent = Concat(DIMS, 5), torch.tensor([True, False])
    features = {m: Features(torch.randn(2, dim), present=absent) for m, dim in DIMS.items()}
    torch.testing.assert_close(fusion(features, {})[1], fusion.bias)


def test_order_of_the_features_does_not_matter():
    fusion = Concat(DIMS, 5).double()
    features = {m: Features(torch.randn(2, dim, dtype=torch.float64)) for m, dim in DIMS.items()}
    turned = dict(reversed(features.items()))
    torch.testing.assert_close(fusion(turned, {}), fusion(features, {}), rtol=0, atol=1e-12)


def test_starts_as_torch_would():
    torch.manual_seed(0)
    fusion = Concat({"a": 60, "v": 40}, 50)
    weight = torch.cat([block.weight.detach() for block in fusion.blocks.values()], 1)
    assert weight.abs().max() <= 0.1
    assert abs(float(weight.std()) - 0.1 / 3**0.5) < 2e-3
    assert 0 < fusion.bias.abs().max() <= 0.1


def test_parameters():
    fusion = Concat(DIMS, 5)
    assert [tuple(p.shape) for p in fusion.parameters_of("v")] == [(5, 3)]
    assert sum(p.numel() for p in fusion.parameters()) == 5 * 9 + 5
