"""Gradient norms and learning speed against their definitions, in an own loop and inside `fit`."""

# mypy: disable-error-code="arg-type, union-attr"

import pytest
import torch

from polymodal.analysis.learning import Learning
from polymodal.balancers import MLB, Balancer
from polymodal.fit import fit
from tests.builders import TASKS, difference, make_batch, make_model, make_step, rows, weights


def test_own_loop():
    model, batch = make_model(2, heads=False), make_batch(size=12)
    learning, balancer = Learning(model), Balancer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.encoders["m0"].parameters()]
    norms = []
    for part in rows(batch, 5, 7):
        step = make_step(model, part)
        balancer.backward(step)
        norms.append(float(torch.cat([p.grad.flatten() for p in model.encoders["m0"].parameters()]).norm()))
        learning(step)
        balancer.modulate(step)
        optimizer.step()
        optimizer.zero_grad()
    row = learning.end_epoch()
    moved = [p.detach() - old for p, old in zip(model.encoders["m0"].parameters(), before, strict=True)]
    speed = torch.cat([one.flatten() for one in moved]).norm() / torch.cat([one.flatten() for one in before]).norm()
    assert row["m0"] == {
        "gradient": pytest.approx(sum(norms) / 2, rel=1e-5),
        "speed": pytest.approx(float(speed), rel=1e-5),
    }
    assert learning.rows == [row]
    assert learning.end_epoch()["m0"] == {"gradient": 0.0, "speed": 0.0}


def test_a_frozen_encoder_stands_still():
    model = make_model(2, heads=False)
    model.encoders["m1"].requires_grad_(False)
    learning = Learning(model)
    fit(model, [make_batch()], None, task=TASKS["classification"], epochs=2, device="cpu", show=False, observe=learning)
    assert [row["m1"] for row in learning.rows] == [{"gradient": 0.0, "speed": 0.0}] * 2
    assert all(row["m0"]["speed"] > 0 and row["m0"]["gradient"] > 0 for row in learning.rows)


def test_fit_records_it_and_learns_the_same():
    trained = []
    for watched in (False, True):
        model = make_model(2)
        options = {"observe": Learning(model)} if watched else {}
        history = fit(
            model, rows(make_batch(size=12), 6, 6), None, task=TASKS["classification"], epochs=2, balancer=MLB(), device="cpu",
            show=False, **options,
        )  # fmt: skip
        assert [set(row.get("learning", ())) for row in history.rows] == [{"m0", "m1"} if watched else set()] * 2
        trained.append(weights(model))
    assert difference(*trained) == 0
