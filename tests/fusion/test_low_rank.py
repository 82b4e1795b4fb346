import pytest
import torch

from polymodal.errors import InputError
from polymodal.fusion import LMF, Fusion
from polymodal.fusion.tensor import outer
from tests.fusion.fusion_properties import (
    EVERY_COUNT,
    POOLED,
    Property,
    an_absent_modality_leaves_its_own_parameters_alone,
    built,
    exports_with_a_free_batch_size,
    same,
    take,
    training_and_evaluation_agree,
    without,
)


def make(dims: dict[str, int], outputs: int) -> Fusion:
    return LMF(dims, outputs, rank=4)


def inside(dims: dict[str, int], outputs: int) -> Fusion:
    return LMF(dims, outputs, rank=4, rank_sum="inside")


PROPERTIES = [*POOLED, training_and_evaluation_agree, an_absent_modality_leaves_its_own_parameters_alone]


@pytest.mark.parametrize("form", [make, inside])
@pytest.mark.parametrize("count", EVERY_COUNT)
@pytest.mark.parametrize("holds", PROPERTIES)
def test_property(holds: Property, count: int, form) -> None:
    holds(form, count)


@pytest.mark.parametrize("form", [make, inside])
def test_export(form) -> None:
    exports_with_a_free_batch_size(form, 3)


def test_is_a_linear_layer_on_the_dense_tensor() -> None:
    fusion, features = built(make, 3)
    assert isinstance(fusion, LMF)
    assert fusion.rank_weights is not None
    a, b, c = fusion.factors
    weight = torch.einsum("r,rio,rjo,rko->oijk", fusion.rank_weights[0], a, b, c).flatten(1)
    tensor = outer([features[m].pooled for m in ("m0", "m1", "m2")])
    same(fusion(features, {}), tensor @ weight.T + fusion.bias)


@pytest.mark.parametrize("form", [make, inside])
def test_formula(form) -> None:
    fusion, features = built(form, 2)
    assert isinstance(fusion, LMF)
    torch.nn.init.normal_(fusion.bias)
    one = torch.ones(1).double()
    for row in range(5):
        for c in range(3):
            shares = [
                [torch.cat([one, features[m].pooled[row]]) @ factor[r, :, c] for r in range(4)]
                for m, factor in zip(features, fusion.factors)
            ]
            if fusion.rank_weights is None:
                expected = sum(shares[0]) * sum(shares[1])
            else:
                expected = sum(fusion.rank_weights[0, r] * shares[0][r] * shares[1][r] for r in range(4))
            same(fusion(features, {})[row, c], expected + fusion.bias[0, c])


def test_absent_modality_leaves_the_product_of_the_others() -> None:
    fusion, features = built(make, 3)
    assert isinstance(fusion, LMF)
    pair = LMF({m: fusion.dims[m] for m in ("m0", "m2")}, 3, rank=4).double()
    state = fusion.state_dict()
    state = {**state, "factors.1": state["factors.2"]}
    del state["factors.2"]
    pair.load_state_dict(state)
    left = {m: features[m] for m in ("m0", "m2")}
    same(fusion(without(features, "m1", torch.arange(5)), {}), pair(left, {}))


def test_a_batch_of_one_and_one_output_keep_their_shape() -> None:
    fusion, features = built(lambda dims, _: LMF(dims, 1, rank=1), 2)
    assert fusion(take(features, torch.tensor([0])), {}).shape == (1, 1)


def test_inside_has_no_weight_that_nothing_trains() -> None:
    assert [name for name, _ in LMF({"x": 2}, 2, rank_sum="inside").named_parameters()] == ["bias", "factors.0"]


def test_refusals() -> None:
    with pytest.raises(InputError, match="rank=0"):
        LMF({"x": 3, "y": 2}, 2, rank=0)
    with pytest.raises(InputError, match="rank_sum='within'"):
        LMF({"x": 3, "y": 2}, 2, rank_sum="within")


def test_seven_wide_modalities_need_little() -> None:
    fusion = LMF({f"m{i}": 64 for i in range(7)}, 3, rank=4)
    assert sum(p.numel() for p in fusion.parameters()) == 7 * 4 * 65 * 3 + 4 + 3
