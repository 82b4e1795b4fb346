"""UMT: distillation from frozen teachers."""

import pytest
import torch
from torch import nn

from polymodal import InputError
from polymodal.balancers import UMT, Joint
from polymodal.balancers.umt import feature_distances
from polymodal.encoders import MLP
from polymodal.tasks import Classification
from tests.builders import TASKS, WIDTH, difference, grads, make_batch, make_model, make_step, rows
from tests.properties import assert_all_finite, assert_close, assert_finite_on_extreme_logits

TASK = TASKS["classification"]


def teachers(count=2):
    torch.manual_seed(7)
    return {f"m{i}": MLP(3 + i, dim=WIDTH, hidden=[6]).double() for i in range(count)}


def test_distance_has_no_gradient_into_the_teacher():
    h, t = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    feature_distances(h, t).sum().backward()
    assert t.grad is None
    assert h.grad is not None
    assert_close(h.grad, (2 * (h - t) / 4).detach())


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0]])
def test_loss_equals_a_loop(count, weights):
    task = Classification(3, weights)
    model, batch, known = make_model(count, heads=False), make_batch(count), teachers(count)
    batch = batch._replace(present={"m1": torch.arange(8) < 3})
    step = make_step(model, batch, task)
    expected = float(step.fused_loss().detach())
    for m in model.modalities:
        h, t = (e(batch.inputs[m]).pooled.detach() for e in (model.encoders[m], known[m]))
        kept = range(3) if m == "m1" else range(8)
        w = [1.0 if weights is None else weights[int(batch.target[n])] for n in range(8)]
        squares = sum(w[n] * sum(float(h[n, d] - t[n, d]) ** 2 for d in range(WIDTH)) / WIDTH for n in kept)
        expected += 4.0 * squares / sum(w[n] for n in kept)
    assert float(UMT(known, weight=4.0).loss(step).detach()) == pytest.approx(expected, abs=1e-12)


def test_unequal_micro_batches_equal_the_whole_batch():
    model, batch = make_model(heads=False), make_batch(size=8)
    batch = batch._replace(present={"m1": torch.arange(8) % 3 > 0})
    balancer = UMT(teachers())
    balancer.backward(make_step(model, batch))
    whole = grads(model)
    model.zero_grad()
    parts = rows(batch, 5, 3)
    for part in parts:
        balancer.backward(make_step(model, part, window=parts))
    assert difference(whole, grads(model)) < 1e-12


def test_teachers_are_frozen_copies_in_eval_mode_and_no_state():
    given = teachers()
    given["m0"].net.append(norm := nn.BatchNorm1d(WIDTH).double())
    balancer = UMT(given).train()
    balancer.backward(make_step(make_model(heads=False), make_batch()))
    held = balancer.teachers["m0"]
    assert held is not given["m0"]
    assert not any(sub.training for sub in held.modules())
    assert not any(value.any() for name, value in held.named_buffers() if name.endswith("running_mean"))
    assert norm.training
    assert all(p.grad is None and not p.requires_grad for p in held.parameters())
    assert all(p.requires_grad for p in given["m0"].parameters())
    assert set(balancer.state_dict()) == {"epoch"}
    assert not list(balancer.parameters())
    assert next(balancer.float().teachers["m0"].parameters()).dtype == torch.float32


def test_equal_encoders_are_joint_training_and_only_encoders_are_taught():
    model, batch = make_model(heads=False), make_batch()
    Joint().backward(make_step(model, batch))
    plain = grads(model)
    for known, same in ((dict(model.encoders), True), ({"m1": teachers()["m1"]}, False)):
        model.zero_grad()
        UMT(known).backward(make_step(model, batch))
        moved = {name.split(".")[1] for name, g in grads(model).items() if not torch.equal(g, plain[name])}
        assert moved == (set() if same else {"m1"})


def test_finite():
    assert_finite_on_extreme_logits(UMT(teachers()))
    model, batch = make_model(heads=False), make_batch(size=1)
    absent = batch._replace(present={"m1": torch.zeros(1, dtype=torch.bool)})
    loss = UMT(teachers()).backward(make_step(model, absent))
    assert_all_finite({"loss": loss} | grads(model))


def test_refused():
    model = make_model(heads=False)
    with pytest.raises(InputError, match="no teachers"):
        UMT({})
    with pytest.raises(InputError, match="weight=-1"):
        UMT(teachers(), weight=-1)
    with pytest.raises(InputError, match="teachers of"):
        UMT(teachers(3)).check(model, TASK)
    with pytest.raises(InputError, match="width 5 and its encoder 4"):
        UMT({"m0": MLP(3, dim=5)}).check(model, TASK)
    batch = make_batch()
    cached = batch._replace(inputs=model.encode(batch.inputs))
    with pytest.raises(InputError, match="precomputed features"):
        UMT(teachers()).backward(make_step(model, cached))
