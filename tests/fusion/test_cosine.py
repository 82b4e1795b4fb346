import pytest
import torch
from torch.nn import functional as F

from polymodal.encoders import MLP
from polymodal.errors import InputError
from polymodal.fusion import Fusion, MMCosine
from polymodal.fusion.cosine import scaled_cosines, unit
from polymodal.model import MultimodalModel
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
    return MMCosine(dims, outputs)


PROPERTIES = [*POOLED, training_and_evaluation_agree, an_absent_modality_leaves_its_own_parameters_alone]


@pytest.mark.parametrize("count", EVERY_COUNT)
@pytest.mark.parametrize("holds", PROPERTIES)
def test_property(holds: Property, count: int) -> None:
    holds(make, count)


def test_export() -> None:
    exports_with_a_free_batch_size(make, 3)


def test_formula_and_parts() -> None:
    fusion, features = built(lambda dims, outputs: MMCosine(dims, outputs, scale=4.0), 3)
    parts = fusion.parts(features)
    same(torch.stack(list(parts.values())).sum(0), fusion(features, {}))
    for m, part in parts.items():
        weight = next(iter(fusion.parameters_of(m)))
        for row in range(5):
            for c in range(3):
                expected = 4 * F.cosine_similarity(features[m].pooled[row], weight[c], dim=0, eps=1e-12)
                same(part[row, c], expected)


def test_unit_agrees_with_torch() -> None:
    x = torch.randn(6, 5).double().requires_grad_()
    same(unit(x), F.normalize(x, eps=1e-12))
    assert torch.autograd.gradcheck(unit, x)


def test_unit_of_extremes() -> None:
    x = torch.tensor([[3e30, 4e30], [3e-8, 4e-8], [0.0, 0.0]], requires_grad=True)
    out = unit(x)
    same(out, torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]]), 1e-6)
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[2] == 0).all()
    assert unit(torch.zeros(1, 2, dtype=torch.float16)).dtype == torch.float16
    assert unit(torch.zeros(1, 2, dtype=torch.float16)).isfinite().all()


def test_length_of_features_and_weights_does_not_matter() -> None:
    h, w = torch.randn(3, 4).double(), torch.randn(2, 4).double()
    same(scaled_cosines(h * 9, w * 0.1, 5.0), scaled_cosines(h, w, 5.0))
    assert (scaled_cosines(h, w, 5.0).abs() <= 5).all()


def test_absent_modality_drops_its_share() -> None:
    fusion, features = built(make, 2)
    lacking = without(features, "m1", torch.arange(5))
    same(fusion(lacking, {}), fusion.parts(features)["m0"])
    assert (fusion.parts(lacking)["m1"] == 0).all()


def test_one_modality_alone() -> None:
    encoders = {"x": MLP(3, dim=4), "y": MLP(2, dim=5)}
    model = MultimodalModel(encoders, MMCosine({"x": 4, "y": 5}, 3))
    inputs = {"x": torch.randn(2, 3), "y": torch.randn(2, 2)}
    alone = model.only("y")({"y": inputs["y"]}).logits
    output = model(inputs)
    assert alone is not None
    same(alone, model.fusion.parts(output.features)["y"])  # type: ignore[operator]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_refuses_scale(scale: float) -> None:
    with pytest.raises(InputError, match="scale="):
        MMCosine({"x": 2}, 2, scale)
