"""Multi-Loss against its definition, one sample at a time."""

import math

import pytest
import torch

from polymodal import InputError
from polymodal.balancers import Joint, MultiLoss
from tests.builders import TASKS, grads, make_batch, make_model, make_step
from tests.properties import assert_finite_on_extreme_logits, assert_works_on_a_batch_of_one, backward


def loop_cross_entropy(logits, target, present=None):
    """Mean of -log softmax(z)[y] over the samples that are there."""
    total, count = 0.0, 0
    for n, y in enumerate(target.tolist()):
        if present is not None and not present[n]:
            continue
        row = logits[n].tolist()
        total -= row[y] - math.log(sum(math.exp(value) for value in row))
        count += 1
    return total / count


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_loss_equals_a_loop(count, missing):
    model, batch = make_model(count), make_batch(count)
    present = {"m1": torch.tensor([True, False] * 4)} if missing else {}
    step = make_step(model, batch._replace(present=present))
    chosen = {f"m{i}": 0.5 + i for i in range(count)}
    expected = loop_cross_entropy(step.output.logits, batch.target)
    for m, weight in chosen.items():
        expected += weight * loop_cross_entropy(step.output.unimodal[m], batch.target, present.get(m))
    assert float(MultiLoss(chosen).loss(step).detach()) == pytest.approx(expected, abs=1e-12)


def test_weights_are_one_by_default_and_zero_is_joint():
    model = make_model()
    one, _ = backward(MultiLoss(), model)
    assert MultiLoss().loss(one) == MultiLoss({"m0": 1.0, "m1": 1.0}).loss(one)
    assert MultiLoss(0.0).loss(one) == Joint().loss(one)


def test_a_unimodal_loss_reaches_its_encoder_alone():
    model, batch = make_model(3), make_batch(3)
    make_step(model, batch).unimodal_loss("m1").backward()
    assert {name.rsplit(".net", 1)[0] for name in grads(model)} == {"encoders.m1", "heads.m1.weight", "heads.m1.bias"}


def test_no_gradient_is_modulated():
    model, balancer = make_model(), MultiLoss()
    step, _ = backward(balancer, model)
    before = grads(model)
    assert balancer.modulate(step) == {}
    assert all(torch.equal(before[name], grad) for name, grad in grads(model).items())


def test_one_modality_is_enough():
    step, loss = backward(MultiLoss(), make_model(1))
    assert loss == step.fused_loss() + step.unimodal_loss("m0")


def test_shared_properties():
    assert_finite_on_extreme_logits(MultiLoss())
    assert_works_on_a_batch_of_one(MultiLoss())


def test_missing_heads_are_an_error():
    with pytest.raises(InputError, match="linear_heads"):
        MultiLoss().check(make_model(heads=False), TASKS["classification"])


def test_weights_of_other_modalities_are_an_error():
    with pytest.raises(InputError, match=r"\['m0', 'm2'\].*\['m0', 'm1'\]"):
        backward(MultiLoss({"m0": 1.0, "m2": 1.0}), make_model())
