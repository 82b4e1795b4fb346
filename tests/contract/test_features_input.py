"""Probe: precomputed `Features` as input, for one modality or for all."""

# mypy: disable-error-code="arg-type, operator"

import pytest
import torch

from polymodal.balancers import MLB
from polymodal.encoders import Encoder
from tests.builders import difference, grads, make_batch, make_model, make_step


class Never(Encoder):
    """A frozen encoder that must not be run."""

    dim = 4

    def forward(self, x):
        raise AssertionError("an encoder ran although its features were given")


@pytest.mark.parametrize("cached", [["m0"], ["m0", "m1"]])
def test_features_stand_for_an_input(cached):
    full, batch = make_model(), make_batch(length=3)
    for m in cached:
        full.encoders[m].requires_grad_(False)
    with torch.no_grad():
        given = {m: full.encoders[m](batch.inputs[m]) for m in cached}
    light = make_model()
    for m in cached:
        light.encoders[m] = Never()
    # What is frozen or absent has no encoder to scale; its head and its block of the fusion are still its own.
    balancer = MLB()
    results = []
    for model, inputs in ((full, batch.inputs), (light, batch.inputs | given)):
        step = make_step(model, batch._replace(inputs=inputs))
        loss = balancer.backward(step)
        results.append({"loss": loss, "logits": step.output.logits} | balancer.modulate(step) | grads(model))
    assert difference(*results) == 0
    assert any(name.startswith("heads.m0") for name in results[0])
