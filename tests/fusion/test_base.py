"""What every fusion promises: errors that help, `present`, the share of one modality."""

# mypy: disable-error-code="arg-type"

import pytest
import torch

from polymodal import InputError
from polymodal.fusion import Concat, Fusion, Mixture
from polymodal.fusion.base import Part, shown
from polymodal.types import Features
from tests.builders import FUSIONS, TASKS, WIDTH, make_batch, make_fusion, make_model

COUNTS = [2, 3]


def run(name, count, present=None, change=None):
    """Fused logits in eval mode, perhaps with one modality's input changed in the rows that lack it."""
    heads = FUSIONS[name].needs_heads
    task = TASKS["classification"]
    model = make_model(count, fusion=make_fusion(name, count, task), heads=heads).eval()
    inputs = make_batch(count, length=3).inputs
    for m, rows in (change or {}).items():
        inputs[m] = torch.where(rows.view(-1, 1, 1), torch.full_like(inputs[m], 1e3), inputs[m])
    return model(inputs, present).logits.detach()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FUSIONS)
def test_what_a_sample_lacks_has_no_part_in_its_logits(name, count):
    there = torch.tensor([True, False] * 4)
    for m in (f"m{i}" for i in range(count)):
        kept = run(name, count, {m: there})
        assert torch.isfinite(kept).all()
        torch.testing.assert_close(run(name, count, {m: there}, {m: ~there}), kept, rtol=0, atol=1e-12)
        assert not torch.allclose(run(name, count, {m: there}, {m: there})[there], kept[there])
        full = run(name, count)
        torch.testing.assert_close(kept[there], full[there], rtol=0, atol=1e-12)
        assert not torch.allclose(kept[~there], full[~there])
        everywhere = run(name, count, {m: torch.ones(8, dtype=torch.bool)})
        torch.testing.assert_close(everywhere, full, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", FUSIONS)
def test_a_sample_that_lacks_everything_stays_finite(name, count):
    nothing = torch.tensor([True] * 7 + [False])
    assert torch.isfinite(run(name, count, {f"m{i}": nothing for i in range(count)})).all()


@pytest.mark.parametrize("count", [1, *COUNTS])
@pytest.mark.parametrize("name", [name for name, one in FUSIONS.items() if one.additive])
@pytest.mark.parametrize("missing", [False, True])
def test_parts_add_up_exactly(name, count, missing):
    fusion = make_fusion(name, count, TASKS["classification"]).double()
    present = torch.tensor([True, False, True]) if missing else None
    features = {m: Features(torch.randn(3, WIDTH, dtype=torch.float64), present=present) for m in fusion.dims}
    parts = fusion.parts(features)
    assert list(parts) == list(fusion.dims)
    torch.testing.assert_close(sum(parts.values()), fusion(features, {}), rtol=0, atol=1e-12)
    for m in parts:
        torch.testing.assert_close(Part(fusion, m)({m: features[m]}, {}), parts[m], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, one in FUSIONS.items() if not one.additive])
def test_what_does_not_split_says_what_does(name):
    with pytest.raises(InputError, match=f"{name} .*'concat' or 'sum'"):
        make_fusion(name, 2, TASKS["classification"]).parts({})


@pytest.mark.parametrize("name", FUSIONS)
def test_parameters_of_a_modality_are_its_alone(name):
    fusion = make_fusion(name, 3, TASKS["classification"])
    owned = {m: {id(p) for p in fusion.parameters_of(m)} for m in fusion.dims}
    own = {id(p) for p in fusion.parameters()}
    for m, ids in owned.items():
        assert ids <= own
        assert not any(ids & owned[other] for other in owned if other != m)


def test_numbers_of_modalities_that_a_fusion_does_not_take():
    class Two(Fusion):
        modalities_allowed = (2, 2)

    class More(Fusion):
        modalities_allowed = (2, None)

    for kind, text in ((Two, "exactly 2"), (More, "at least 2")):
        kind({"a": 1, "v": 1}, 2)
        with pytest.raises(InputError, match=rf"{kind.__name__} joins {text} modalities and was given 1: \['a'\]"):
            kind({"a": 1}, 2)
    with pytest.raises(InputError, match="exactly 2"):
        Two({"a": 1, "v": 1, "t": 1}, 2)


def test_shown_keeps_gradients_out_of_absent_rows():
    value = torch.randn(2, 3, requires_grad=True)
    assert shown(value, Features(value)) is value
    there = torch.tensor([True, False])
    shown(value, Features(value, present=there)).sum().backward()
    assert torch.equal(value.grad, there[:, None].float().expand(2, 3))


def test_only_needs_heads_where_it_combines_them():
    assert Mixture.needs_heads
    assert not Concat.needs_heads
