"""Probe: accumulation over unequal micro-batches equals one big batch, coefficients included."""

import pytest
import torch

from polymodal.balancers import MLB, OGM, Joint, MultiLoss
from polymodal.tasks import Classification
from tests.builders import difference, grads, make_batch, make_model, make_step, rows

TASK = Classification(3, class_weights=[0.5, 1.0, 3.0])
BALANCERS = [Joint(), MultiLoss({"m0": 0.3, "m1": 2.0}), MLB(alpha=1.5), OGM(param_filter="all")]


@pytest.mark.parametrize("balancer", BALANCERS, ids=lambda b: type(b).__name__)
@pytest.mark.parametrize("missing", [False, True])
def test_micro_batches_equal_one_batch(balancer, missing):
    batch = make_batch(size=9)
    if missing:
        batch = batch._replace(present={"m1": torch.tensor([False] * 4 + [True] * 3 + [False, True])})
    results = []
    for window in ([batch], rows(batch, 4, 1, 3, 1)):
        model, loss = make_model(heads=balancer.needs_heads), torch.zeros((), dtype=torch.float64)
        for one in window:
            step = make_step(model, one, TASK, window=window)
            loss += balancer.backward(step)
        results.append({"loss": loss} | balancer.modulate(step) | grads(model))
    if balancer.needs_coefficients:
        assert abs(results[0]["m0"] - results[0]["m1"]) > 1e-3
    assert difference(*results) < 1e-12
