from itertools import product

import pytest
import torch
from torch import nn

from polymodal.errors import InputError
from polymodal.fusion import TFN, Fusion
from polymodal.fusion.tensor import outer
from tests.fusion.fusion_properties import (
    EVERY_COUNT,
    POOLED,
    Property,
    built,
    exports_with_a_free_batch_size,
    same,
    training_and_evaluation_agree,
    without,
)


def make(dims: dict[str, int], outputs: int) -> Fusion:
    return TFN(dims, outputs, hidden=8, dropout=0.0)


@pytest.mark.parametrize("count", EVERY_COUNT)
@pytest.mark.parametrize("holds", [*POOLED, training_and_evaluation_agree])
def test_property(holds: Property, count: int) -> None:
    holds(make, count)


def test_export() -> None:
    exports_with_a_free_batch_size(make, 3)


def test_outer_is_every_product() -> None:
    vectors = [torch.randn(2, 2).double(), torch.randn(2, 1).double(), torch.randn(2, 3).double()]
    tensor = outer(vectors)
    extended = [torch.cat([torch.ones(2, 1).double(), v], 1) for v in vectors]
    for row in range(2):
        places = product(*(range(v.shape[1]) for v in extended))
        expected = [extended[0][row, i] * extended[1][row, j] * extended[2][row, k] for i, j, k in places]
        same(tensor[row], torch.stack(expected))


def test_formula() -> None:
    fusion, features = built(make, 2)
    assert isinstance(fusion, TFN)
    t = outer([features["m0"].pooled, features["m1"].pooled])
    first, second, third = (layer for layer in fusion.head if isinstance(layer, nn.Linear))
    hidden = (first.weight @ t[0] + first.bias).relu()
    hidden = (second.weight @ hidden + second.bias).relu()
    same(fusion(features, {})[0], third.weight @ hidden + third.bias)


def test_absent_modality_is_the_neutral_element() -> None:
    fusion, features = built(make, 2)
    assert isinstance(fusion, TFN)
    tensor = outer([features["m0"].pooled, torch.zeros_like(features["m1"].pooled)])
    same(tensor.count_nonzero(-1), torch.full((5,), fusion.dims["m0"] + 1))
    same(fusion(without(features, "m1", torch.arange(5)), {}), fusion.head(tensor))


def test_sigmoid_range() -> None:
    def sentiment(dims: dict[str, int], outputs: int) -> Fusion:
        return TFN(dims, outputs, hidden=8, dropout=0.0, output="sigmoid_range", limits=(-1.0, 5.0))

    plain, features = built(make, 2)
    ranged, _ = built(sentiment, 2)
    same(ranged(features, {}), plain(features, {}).sigmoid() * 6 - 1)
    assert TFN({"x": 1}, 1, output="sigmoid_range").limits == (-3.0, 3.0)


def test_refusals() -> None:
    with pytest.raises(InputError, match="output='tanh'"):
        TFN({"x": 3, "y": 2}, 2, output="tanh")
    with pytest.raises(InputError, match=r"4,902,227,890,625 products.*'lmf'"):
        TFN({f"m{i}": 64 for i in range(7)}, 2)
    assert TFN({"x": 3}, 2).parameters_of("x") == []
