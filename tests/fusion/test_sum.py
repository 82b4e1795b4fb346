"""Sum adds whole linear layers, in training and in evaluation alike."""

# mypy: disable-error-code="index"

import torch

from polymodal.fusion import Sum
from polymodal.types import Features

DIMS = {"a": 4, "v": 3, "t": 2}


def test_adds_whole_layers():
    fusion = Sum(DIMS, 5).double()
    pooled = {m: torch.randn(6, dim, dtype=torch.float64) for m, dim in DIMS.items()}
    expected = torch.zeros(6, 5, dtype=torch.float64)
    for m, layer in fusion.layers.items():
        for n in range(6):
            for c in range(5):
                expected[n, c] += (layer.weight[c] * pooled[m][n]).sum().detach() + layer.bias[c].detach()
    features = {m: Features(h) for m, h in pooled.items()}
    torch.testing.assert_close(fusion(features, {}).detach(), expected, rtol=0, atol=1e-12)
    assert torch.equal(fusion.eval()(features, {}), fusion.train()(features, {}))


def test_an_absent_modality_drops_its_bias_as_well():
    fusion, absent = Sum(DIMS, 5), torch.tensor([True, False])
    features = {m: Features(torch.randn(2, dim), present=absent) for m, dim in DIMS.items()}
    assert torch.equal(fusion(features, {})[1], torch.zeros(5))


def test_parameters_of_a_modality_are_its_layer():
    fusion = Sum(DIMS, 5)
    assert [tuple(p.shape) for p in fusion.parameters_of("v")] == [(5, 3), (5,)]
    assert sum(p.numel() for p in fusion.parameters()) == 5 * 9 + 15
