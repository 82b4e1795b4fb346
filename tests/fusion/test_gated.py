import pytest
import torch

from polymodal.errors import InputError
from polymodal.fusion import Fusion, Gated
from tests.fusion.fusion_properties import (
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
    return Gated(dims, outputs, hidden=6)


PROPERTIES = [*POOLED, training_and_evaluation_agree, an_absent_modality_leaves_its_own_parameters_alone]


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("holds", PROPERTIES)
def test_property(holds: Property, count: int) -> None:
    holds(make, count)


def test_export() -> None:
    exports_with_a_free_batch_size(make, 3)


@pytest.mark.parametrize("gate", [None, "m1"])
def test_formula(gate: str | None) -> None:
    fusion, features = built(lambda dims, outputs: Gated(dims, outputs, 6, gate), 3)
    assert isinstance(fusion, Gated)
    for row in range(5):
        opened, value = torch.zeros(6).double(), torch.zeros(6).double()
        for m, layer in fusion.projections.items():
            projected = layer.weight @ features[m].pooled[row] + layer.bias  # type: ignore[operator]
            if m == (gate or "m0"):
                opened = 1 / (1 + (-projected).exp())
            else:
                value = value + projected
        same(fusion(features, {})[row], fusion.head.weight @ (opened * value) + fusion.head.bias)


def test_an_absent_factor_is_one() -> None:
    fusion, features = built(make, 2)
    assert isinstance(fusion, Gated)
    gate, value = (fusion.projections[m](features[m].pooled) for m in ("m0", "m1"))
    same(fusion(without(features, "m0", torch.arange(5)), {}), fusion.head(value))
    same(fusion(without(features, "m1", torch.arange(5)), {}), fusion.head(gate.sigmoid()))


def test_an_absent_term_is_dropped_with_its_bias() -> None:
    fusion, features = built(make, 3)
    assert isinstance(fusion, Gated)
    gate, value = (fusion.projections[m](features[m].pooled) for m in ("m0", "m1"))
    same(fusion(without(features, "m2", torch.arange(5)), {}), fusion.head(gate.sigmoid() * value))


def test_refusals() -> None:
    with pytest.raises(InputError, match="gate_modality='z'"):
        Gated({"x": 3, "y": 2}, 2, gate_modality="z")
    with pytest.raises(InputError, match="at least 2 modalities"):
        Gated({"x": 3}, 2)


def test_blocks_are_the_projections() -> None:
    fusion = Gated({"x": 3, "y": 2}, 2, hidden=4)
    assert [tuple(p.shape) for p in fusion.parameters_of("y")] == [(4, 2), (4,)]
