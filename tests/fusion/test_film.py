import pytest
import torch

from polymodal.errors import InputError
from polymodal.fusion import FiLM, Fusion
from tests.fusion.fusion_properties import (
    POOLED,
    Property,
    built,
    dims_of,
    exports_with_a_free_batch_size,
    same,
    training_and_evaluation_agree,
    without,
)


def make(dims: dict[str, int], outputs: int) -> Fusion:
    return FiLM(dims, outputs)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("holds", [*POOLED, training_and_evaluation_agree])
def test_property(holds: Property, count: int) -> None:
    holds(make, count)


def test_export() -> None:
    exports_with_a_free_batch_size(make, 3)


@pytest.mark.parametrize(
    ("conditioner", "before", "after"),
    [
        (None, ["m0", "m1"], ["m2"]),
        ("m1", ["m1"], ["m0", "m2"]),
        (["m2", "m0"], ["m0", "m2"], ["m1"]),
    ],
)
def test_formula(conditioner: str | list[str] | None, before: list[str], after: list[str]) -> None:
    fusion, features = built(lambda dims, outputs: FiLM(dims, outputs, conditioner), 3)
    assert isinstance(fusion, FiLM)
    for row in range(5):
        c = torch.cat([features[m].pooled[row] for m in before])
        h = torch.cat([features[m].pooled[row] for m in after])
        both = fusion.modulation.weight @ c + fusion.modulation.bias
        gamma, beta = both[: len(h)], both[len(h) :]
        same(fusion(features, {})[row], fusion.head.weight @ (gamma * h + beta) + fusion.head.bias)


def test_first_of_two_conditions_the_second() -> None:
    fusion = FiLM({"x": 5, "y": 3}, 2)
    assert (fusion.conditioners, fusion.conditioned) == (["x"], ["y"])


def test_without_a_conditioner_features_pass_as_they_are() -> None:
    fusion, features = built(make, 2)
    assert isinstance(fusion, FiLM)
    logits = fusion(without(features, "m0", torch.tensor([2])), {})
    same(logits[2], fusion.head(features["m1"].pooled[2]))
    same(logits[:2], fusion(features, {})[:2])


def test_of_several_conditioners_an_absent_one_drops_its_share() -> None:
    fusion, features = built(make, 3)
    zero = {**features, "m0": features["m0"]._replace(pooled=torch.zeros_like(features["m0"].pooled))}
    same(fusion(without(features, "m0", torch.arange(5)), {}), fusion(zero, {}))


@pytest.mark.parametrize("conditioner", ["nobody", [], ["m0", "m1"], ["m0", "nobody"]])
def test_refuses_conditioners(conditioner: str | list[str]) -> None:
    with pytest.raises(InputError, match="conditioner="):
        FiLM(dims_of(2), 2, conditioner)


def test_one_modality_is_refused_and_nothing_belongs_to_one() -> None:
    with pytest.raises(InputError, match="at least 2 modalities"):
        FiLM({"x": 3}, 2)
    assert FiLM(dims_of(2), 2).parameters_of("m0") == []
