"""PMR: gates, loss, window, prototypes."""

import math

import pytest
import torch

from polymodal import InputError
from polymodal.balancers import PMR, Joint
from polymodal.balancers.ogm import ogm_ratios
from polymodal.balancers.pmr import pmr_gates
from polymodal.tasks import Classification
from polymodal.types import Batch
from tests.builders import TASKS, difference, grads, make_batch, make_model, make_step
from tests.properties import (
    assert_all_finite,
    assert_close,
    assert_equals_loop,
    assert_permuting_modalities_permutes_coefficients,
    exact,
)

TASK = TASKS["classification"]


def gates_loop(gate):
    def gates(scores):
        found = []
        for m, own in enumerate(scores):
            others = [score for j, score in enumerate(scores) if j != m]
            ratio = own / (sum(others) / len(others))
            hard = 1.0 if ratio < 1 - 1e-9 else 0.0
            found.append(hard if gate == "hard" else min(max(1 / ratio - 1, 0.0), 1.0))
        return found

    return gates


def rule(gate):
    return lambda scores: pmr_gates(ogm_ratios(scores), gate)


@pytest.mark.parametrize("gate", ["hard", "soft"])
def test_gates(gate):
    assert_equals_loop(rule(gate), gates_loop(gate))
    assert_permuting_modalities_permutes_coefficients(rule(gate))
    for count in (2, 3, 5):
        assert_close(rule(gate)(exact([0.4] * count)), [0.0] * count)


def ready(balancer, model, batch, task=TASK):
    balancer.check(model, task)
    balancer.start_epoch(model, [batch])
    return balancer


@pytest.mark.parametrize("gate", ["hard", "soft"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
def test_loss_equals_a_loop(gate, count, weights):
    task = Classification(3, weights)
    model, batch = make_model(count, heads=False), make_batch(count)
    batch = batch._replace(present={"m1": torch.arange(8) < 5})
    balancer = ready(PMR(alpha=1.5, gate=gate, entropy_weight=0.2), model, batch, task)
    step = make_step(model, batch, task)
    found = float(balancer.loss(step).detach())
    class_weights = weights or [1.0] * 3
    each: dict[str, list[tuple[float, float, float]]] = {m: [] for m in model.modalities}
    for i, m in enumerate(model.modalities):
        prototypes = balancer.bank.prototypes[:, 4 * i : 4 * i + 4]
        for n in range(5 if m == "m1" else 8):
            h, y = step.output.features[m].pooled[n].detach(), int(batch.target[n])
            sims = [-math.sqrt(float((h - c).square().sum()) + 1e-12) for c in prototypes]
            z = sum(math.exp(s) for s in sims)
            p = [math.exp(s) / z for s in sims]
            each[m].append((p[y], class_weights[y], -sum(q * math.log(q) for q in p)))
    scores = [sum(p for p, _, _ in rows) / len(rows) for rows in each.values()]
    expected = float(step.fused_loss().detach())
    for rows, beta in zip(each.values(), gates_loop(gate)(scores), strict=True):
        expected += 1.5 * beta * sum(-w * math.log(p) for p, w, _ in rows) / sum(w for _, w, _ in rows)
    for rows, ratio in zip(each.values(), ratios(scores), strict=True):
        gamma = float(ratio > 1) if gate == "hard" else min(max(ratio - 1, 0.0), 1.0)
        expected -= 0.2 * gamma * sum(w * h for _, w, h in rows) / sum(w for _, w, _ in rows)
    assert found == pytest.approx(expected, abs=1e-7)


def ratios(scores):
    return [own / (sum(s for j, s in enumerate(scores) if j != m) / (len(scores) - 1)) for m, own in enumerate(scores)]


def test_only_the_lagging_encoder_gains_a_gradient():
    model, batch = make_model(heads=False), make_batch()
    Joint().backward(make_step(model, batch))
    plain = grads(model)
    model.zero_grad()
    balancer = ready(PMR(), model, batch)
    balancer.backward(step := make_step(model, batch))
    pulled = {m for m, gate in balancer.modulate(step).items() if gate}
    assert pulled == {"m1"}
    for name, grad in grads(model).items():
        assert torch.equal(grad, plain[name]) is not name.startswith("encoders.m1")


def test_window_and_entropy_epochs():
    model, batch = make_model(heads=False), make_batch()
    joint = float(Joint().loss(make_step(model, batch)).detach())
    balancer = PMR(epochs=(1, 2), entropy_weight=1.0, entropy_epochs=2)
    balancer.check(model, TASK)
    losses = []
    for _ in range(4):
        balancer.start_epoch(model, [batch])
        losses.append(float(balancer.loss(make_step(model, batch)).detach()))
    assert losses[0] == losses[3] == joint
    assert losses[1] < losses[2]
    assert int(balancer.bank.updates) == 2


def test_missing_class_modality_and_batch_of_one_stay_finite():
    model, batch = make_model(3, heads=False), make_batch(3)
    keep = batch.target != 2
    balancer = ready(PMR(), model, Batch({m: x[keep] for m, x in batch.inputs.items()}, batch.target[keep]))
    absent = batch._replace(present={"m1": torch.zeros(8, dtype=torch.bool)})
    one = Batch({m: x[:1] for m, x in batch.inputs.items()}, batch.target[:1])
    wild = batch._replace(inputs={m: x * 1e5 for m, x in batch.inputs.items()})
    for some in (batch, absent, one, wild):
        model.zero_grad()
        loss = balancer.backward(step := make_step(model, some))
        assert_all_finite({"loss": loss} | balancer.modulate(step) | grads(model))
    assert "m1" in balancer.last_coefficients


def test_resume_needs_no_new_epoch():
    model, batch = make_model(heads=False), make_batch()
    first, second = ready(PMR(), model, batch), PMR()
    second.load_state_dict(first.state_dict())
    found = []
    for balancer in (first, second):
        model.zero_grad()
        balancer.backward(make_step(model, batch))
        found.append(grads(model))
    assert difference(*found) == 0


def test_refused():
    model, batch = make_model(heads=False), make_batch()
    with pytest.raises(InputError, match="no prototypes yet"):
        PMR().backward(make_step(model, batch))
    for kind in ("multilabel", "regression"):
        with pytest.raises(InputError, match="PMR: prototypes"):
            PMR().check(make_model(task=TASKS[kind]), TASKS[kind])
    with pytest.raises(InputError, match="only"):
        PMR().check(make_model(1), TASK)
    for options in ({"alpha": 0}, {"gate": "mild"}, {"entropy_weight": -1}):
        with pytest.raises(InputError, match=next(iter(options))):
            PMR(**options)
