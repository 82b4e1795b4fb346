"""MMPareto: the rule, and which gradients follow it."""

import math

import pytest
import torch

from polymodal import InputError
from polymodal.balancers import MMPareto, MultiLoss
from polymodal.balancers.mmpareto import mmpareto_combine, mmpareto_cosine, mmpareto_factor, mmpareto_weights
from tests.builders import TASKS, difference, grads, make_batch, make_model, make_step, rows
from tests.properties import (
    assert_all_finite,
    assert_close,
    assert_finite_on_extreme_logits,
    assert_works_on_a_batch_of_one,
    exact,
)

TASK = TASKS["classification"]


def pareto_loop(multi, uni, gamma):
    """METHODS 1.12 over lists of tensors; also which branch was taken."""

    def dot(a, b):
        return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))

    mm, uu, mu = dot(multi, multi), dot(uni, uni), dot(multi, uni)
    w = 0.5
    if mu <= 0:
        w = (uu - mu) / (mm + uu - 2 * mu)
    new = [2 * w * a + 2 * (1 - w) * b for a, b in zip(multi, uni, strict=True)]
    final = []
    for a, b, g in zip(multi, uni, new, strict=True):
        final.append(gamma * max(float((a + b).norm() / g.norm()), 1.0) * g)
    return final, mu > 0


def test_weights_are_the_shortest_convex_combination_where_gradients_conflict():
    torch.manual_seed(1)
    for _ in range(20):
        multi, uni = torch.randn(2, 5, dtype=torch.float64)
        found = mmpareto_weights(multi, uni)
        assert_close(found.sum(), 1.0)
        if mmpareto_cosine(multi, uni) > 0:
            assert_close(found, [0.5, 0.5])
            assert_close(mmpareto_combine(multi, uni), multi + uni)
            continue
        tried = [(w * multi + (1 - w) * uni).norm() for w in torch.linspace(0, 1, 201, dtype=torch.float64)]
        assert (found[0] * multi + found[1] * uni).norm() <= min(tried) + 1e-12
        combined = mmpareto_combine(multi, uni)
        assert torch.dot(combined, multi) >= -1e-12
        assert torch.dot(combined, uni) >= -1e-12


def test_zero_gradients_are_guarded():
    zero, one = exact([0.0, 0.0]), exact([1.0, 2.0])
    assert_close(mmpareto_weights(zero, zero), [0.5, 0.5])
    assert_close(mmpareto_weights(zero, one), [0.999, 0.001])
    assert_close(mmpareto_weights(one, zero), [0.001, 0.999])
    for multi, uni in ((zero, one), (one, zero), (zero, zero), (one, -one)):
        combined = mmpareto_combine(multi, uni)
        final = mmpareto_factor(multi + uni, combined) * combined
        assert_all_finite({"final": final})
        assert_close(final.norm(), float((multi + uni).norm()), 1e-9)


def test_swapping_the_gradients_swaps_the_weights():
    multi, uni = exact([1.0, 0.2]), exact([-0.6, 0.5])
    assert_close(mmpareto_weights(uni, multi), mmpareto_weights(multi, uni).flip(0))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", TASKS)
def test_encoders_follow_the_rule_and_the_rest_the_sum(count, kind):
    task = TASKS[kind]
    branches = set()
    for seed in range(6):
        model, batch = make_model(count, task, seed=seed), make_batch(count, task, seed=seed)
        MultiLoss().backward(make_step(model, batch, task))
        plain = grads(model)
        model.zero_grad()
        balancer = MMPareto(gamma=1.3)
        loss = balancer.backward(step := make_step(model, batch, task))
        assert_close(loss, float(MultiLoss().loss(step).detach()))
        assert balancer.modulate(step) == {}
        found, expected = grads(model), dict(plain)
        again = make_step(model, batch, task)
        for m in model.modalities:
            owned = model.parameters_of(m)
            multi = torch.autograd.grad(again.fused_loss(), owned, retain_graph=True)
            uni = torch.autograd.grad(again.unimodal_loss(m), owned, retain_graph=True)
            final, agree = pareto_loop(multi, uni, 1.3)
            branches.add(agree)
            names = [name for name, _ in model.named_parameters() if name.startswith(f"encoders.{m}.")]
            expected |= dict(zip(names, final, strict=True))
        assert difference(found, expected) < 1e-10
    assert True in branches


def test_unequal_micro_batches_equal_the_whole_batch():
    model, batch, balancer = make_model(), make_batch(size=8), MMPareto()
    balancer.backward(step := make_step(model, batch))
    balancer.modulate(step)
    whole = grads(model)
    model.zero_grad()
    for part in (parts := rows(batch, 5, 3)):
        balancer.backward(step := make_step(model, part, window=parts))
    balancer.modulate(step)
    assert difference(whole, grads(model)) < 1e-12


def test_scaled_losses_unscaled_before_modulation():
    model, batch, balancer = make_model(), make_batch(), MMPareto()
    found = []
    for scale in (1.0, 1024.0):
        model.zero_grad()
        balancer.backward(step := make_step(model, batch), lambda loss: (loss * scale).backward())  # noqa: B023
        for p in model.parameters():
            assert p.grad is not None
            p.grad.div_(scale)
        balancer.modulate(step)
        found.append(grads(model))
    assert difference(*found) < 1e-12


def test_a_missing_modality_and_extremes_are_finite():
    assert_finite_on_extreme_logits(MMPareto())
    assert_works_on_a_batch_of_one(MMPareto())
    model, batch = make_model(), make_batch()
    absent = batch._replace(present={"m1": torch.zeros(8, dtype=torch.bool)})
    balancer = MMPareto()
    balancer.backward(step := make_step(model, absent))
    balancer.modulate(step)
    assert_all_finite(grads(model) | balancer.last_cosines)
    assert math.isclose(float(balancer.last_cosines["m1"]), 0.0)


def test_refused():
    with pytest.raises(InputError, match="gamma"):
        MMPareto(gamma=0)
    with pytest.raises(InputError, match="uni-modal head"):
        MMPareto().check(make_model(heads=False), TASK)
    with pytest.raises(InputError, match="only"):
        MMPareto().check(make_model(1), TASK)
    model = make_model()
    model.encoders["m1"].requires_grad_(False)
    with pytest.raises(InputError, match="'m1'"):
        MMPareto().check(model, TASK)
