from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polymodal.errors import InputError
from polymodal.fusion import MLP, Fusion
from tests.fusion.fusion_properties import (
    EVERY_COUNT,
    POOLED,
    Property,
    an_absent_modality_leaves_its_own_parameters_alone,
    built,
    exports_with_a_free_batch_size,
    same,
    training_and_evaluation_agree,
    without,
)


def make(dims: dict[str, int], outputs: int) -> Fusion:
    return MLP(dims, outputs, hidden=8, dropout=0.0)


def make_cosine(dims: dict[str, int], outputs: int) -> Fusion:
    return MLP(dims, outputs, hidden=8, dropout=0.0, cosine=10.0)


PROPERTIES = [*POOLED, training_and_evaluation_agree, an_absent_modality_leaves_its_own_parameters_alone]


@pytest.mark.parametrize("count", EVERY_COUNT)
@pytest.mark.parametrize("holds", PROPERTIES)
@pytest.mark.parametrize("maker", [make, make_cosine])
def test_property(holds: Property, count: int, maker: Callable[[dict[str, int], int], Fusion]) -> None:
    holds(maker, count)


def test_export() -> None:
    exports_with_a_free_batch_size(make, 3)


def test_formula() -> None:
    fusion, features = built(make, 3)
    assert isinstance(fusion, MLP)
    second, third = (layer for layer in fusion.common if isinstance(layer, nn.Linear))
    whole = torch.cat([block.weight for block in fusion.blocks.values()], 1)  # type: ignore[misc]
    for row in range(5):
        h = torch.cat([features[m].pooled[row] for m in ("m0", "m1", "m2")])
        u = (whole @ h + fusion.bias).relu()
        expected = third.weight @ (second.weight @ u + second.bias).relu() + third.bias
        same(fusion(features, {})[row], expected)


def test_absent_modality_drops_its_share() -> None:
    fusion, features = built(make, 2)
    zero = {**features, "m1": features["m1"]._replace(pooled=torch.zeros_like(features["m1"].pooled))}
    same(fusion(without(features, "m1", torch.arange(5)), {}), fusion(zero, {}))


def test_blocks_are_the_first_layer_alone() -> None:
    fusion = MLP({"a": 4, "b": 3}, 2)
    assert [tuple(p.shape) for p in fusion.parameters_of("b")] == [(64, 3)]
    assert fusion.common[1].p == fusion.common[4].p == 0.1
    with pytest.raises(ValueError, match="does not split"):
        fusion.parts({})


def test_cosines_in_the_first_layer() -> None:
    fusion, features = built(make_cosine, 2)
    assert isinstance(fusion, MLP)
    u = fusion.bias.expand(5, 8)
    for m, block in fusion.blocks.items():
        pairs = features[m].pooled[:, None], block.weight[None]  # type: ignore[index]
        u = u + 10 * F.cosine_similarity(*pairs, dim=2, eps=1e-12)
    same(fusion(features, {}), fusion.common(u))
    longer = {m: one._replace(pooled=one.pooled * (9 if m == "m1" else 0.1)) for m, one in features.items()}
    same(fusion(longer, {}), fusion(features, {}))
    with pytest.raises(InputError, match="cosine=0"):
        MLP({"a": 4, "b": 3}, 2, cosine=0.0)
