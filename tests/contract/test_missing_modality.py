"""Probe: a batch in which modalities are missing, one of them for every sample."""

# mypy: disable-error-code="union-attr"

import pytest
import torch

from polymodal.balancers import MLB, OGM, MultiLoss
from tests.builders import grads, make_batch, make_model, make_step

PRESENT = {"m1": torch.tensor([True, False] * 4), "m2": torch.zeros(8, dtype=torch.bool)}


@pytest.mark.parametrize("balancer", [MultiLoss(), MLB(), OGM(param_filter="all")], ids=lambda b: type(b).__name__)
def test_absent_modalities_take_no_part(balancer):
    found = []
    for noise in (0.0, 1e6):
        model, batch = make_model(3, heads=balancer.needs_heads), make_batch(3)._replace(present=PRESENT)
        batch.inputs["m1"][~PRESENT["m1"]] += noise
        batch.inputs["m2"] += noise
        step = make_step(model, batch)
        loss = balancer.backward(step)
        assert torch.isfinite(loss)
        before = grads(model)
        coefficients = balancer.modulate(step)
        found.append({"loss": loss, "logits": step.output.logits} | coefficients | grads(model))
        assert "m2" not in coefficients  # it keeps its pace
        for p in model.parameters_of("m2", ("encoder", "head", "fusion")):
            assert not p.grad.any()
        if coefficients:
            assert coefficients["m0"] != coefficients["m1"]
            assert any(not torch.equal(before[n], g) for n, g in grads(model).items())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
