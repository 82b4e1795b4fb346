"""AGM: rule, what the coefficients act on, running means, window."""

import math

import pytest
import torch

from polymodal import InputError
from polymodal.balancers import AGM, Joint
from polymodal.balancers.agm import agm_coefficients, agm_losses, agm_ratios, agm_running
from polymodal.balancers.passes import shapley_parts, subset_logits
from tests.builders import TASKS, difference, grads, make_batch, make_model, make_step
from tests.properties import (
    SCORES,
    assert_all_finite,
    assert_close,
    assert_equal_scores_give_one,
    assert_equals_loop,
    assert_finite_on_extreme_logits,
    assert_permuting_modalities_permutes_coefficients,
    assert_works_on_a_batch_of_one,
    exact,
)

TASK = TASKS["classification"]


def rule(alpha, running=None):
    def coefficients(losses):
        past = torch.zeros_like(losses) if running is None else running[: len(losses)]
        return agm_coefficients(agm_ratios(losses), agm_ratios(past), alpha)

    return coefficients


def loop(alpha, running):
    """METHODS 1.7, one modality at a time."""

    def ratio(values, m):
        return math.exp(len(values) / (len(values) - 1) * (sum(values) / len(values) - values[m]))

    def coefficients(losses):
        past = running[: len(losses)]
        return [math.exp(alpha * min(ratio(past, m) - ratio(losses, m), 10.0)) for m in range(len(losses))]

    return coefficients


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_rule(alpha):
    running = [0.9, 1.4, 0.2, 0.7]
    assert_equals_loop(rule(alpha, exact(running)), loop(alpha, running))
    assert_equal_scores_give_one(rule(alpha))
    assert_permuting_modalities_permutes_coefficients(rule(alpha))


def test_a_constant_added_to_all_losses_changes_nothing_and_extremes_stay_finite():
    for values in SCORES:
        assert_close(agm_ratios(exact(values) + 3.0), agm_ratios(exact(values)))
    wild = agm_ratios(exact([0.0, 1e30]))
    found = agm_coefficients(wild, wild.flip(0), 3.0)
    assert_all_finite({"ratios": wild, "coefficients": found})
    assert_close(found, [0.0, math.exp(30)], 1e-2)


def test_losses_are_bounded_and_means_run():
    assert float(agm_losses(exact([0.0]))) == pytest.approx(-math.log(1e-8))
    assert torch.equal(agm_losses(exact([0.0, 4.0]), errors=True), exact([0.0, 4.0]))
    values, running = [1.0, 4.0, 2.5, 0.5], exact([0.0])
    for t, value in enumerate(values, 1):
        running = agm_running(running, exact([value]), t)
        assert float(running) == pytest.approx(sum(values[:t]) / t)


@pytest.mark.parametrize("zero", ["input", "features"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", TASKS)
def test_gradient_is_that_of_each_share_times_its_coefficient(zero, count, kind):
    task = TASKS[kind]
    model, batch = make_model(count, task, heads=False), make_batch(count, task)
    balancer = AGM(alpha=1.5, zero=zero)
    for _ in range(2):  # the second step has a history
        model.zero_grad()
        step = make_step(model, batch, task)
        past = None if balancer.running is None else balancer.running.clone()
        loss = balancer.backward(step)
        found = balancer.modulate(step)
        after = grads(model)
    # Slowly: the gradient of the loss by the logits goes back through each share alone, times its coefficient.
    phi = shapley_parts(subset_logits(step := make_step(model, batch, task), zero))
    logits = step.output.logits
    assert logits is not None
    assert_close(torch.stack(list(phi.values())).sum(0), logits.detach())
    plain = step.fused_loss()
    assert_close(loss, float(plain.detach()))
    scores = {m: task.score(z.detach(), batch.target) for m, z in phi.items()}
    losses = {m: float(agm_losses(s, errors=task.score_is_error).mean()) for m, s in scores.items()}
    expected = loop(1.5, past.tolist())([losses[m] for m in model.modalities])
    for m, k in zip(model.modalities, expected, strict=True):
        assert_close(found[m], k, 1e-9)
    (outer,) = torch.autograd.grad(plain, logits, retain_graph=True)
    model.zero_grad()
    for m, part in phi.items():
        part.backward(outer * found[m], retain_graph=True)
    assert difference(after, grads(model)) < 1e-10


def test_window():
    model, balancer = make_model(heads=False), AGM(epochs=(1, 2))
    balancer.check(model, TASK)
    seen = []
    for epoch in range(4):
        batch = make_batch(seed=epoch)
        model.zero_grad()
        Joint().backward(make_step(model, batch))
        plain = grads(model)
        model.zero_grad()
        balancer.start_epoch(model, [batch])
        balancer.backward(step := make_step(model, batch))
        equal = difference(grads(model), plain) < 1e-12
        seen.append((int(balancer.iterations[0]), bool(balancer.modulate(step)), equal))
    assert seen == [(1, False, True), (2, True, False), (3, True, False), (3, False, True)]


def test_a_missing_modality_has_no_say():
    model = make_model(3, heads=False)
    batch = make_batch(3)
    balancer = AGM()
    nobody = batch._replace(present={"m1": torch.zeros(8, dtype=torch.bool)})
    balancer.backward(step := make_step(model, nobody))
    assert set(balancer.modulate(step)) == {"m0", "m2"}
    assert balancer.iterations.tolist() == [1, 0, 1]
    assert balancer.running[1] == 0
    balancer.backward(make_step(model, batch))
    assert balancer.iterations.tolist() == [2, 1, 2]
    assert_all_finite(balancer.last_coefficients | grads(model))


@pytest.mark.parametrize("zero", ["input", "features"])
def test_finite(zero):
    assert_finite_on_extreme_logits(AGM(zero=zero))
    assert_works_on_a_batch_of_one(AGM(zero=zero))


def test_resume():
    batches = [make_batch(seed=seed) for seed in range(4)]

    def train(balancer, model, some):
        for batch in some:
            balancer.backward(step := make_step(model, batch))
            balancer.modulate(step)
        return balancer.last_coefficients

    expected = train(AGM(), make_model(heads=False), batches)
    first, second = AGM(), AGM()
    model = make_model(heads=False)
    train(first, model, batches[:2])
    second.load_state_dict(first.state_dict())
    assert train(second, model, batches[2:]) == expected
    third = AGM()
    third.load_state_dict(first.state_dict())
    with pytest.raises(InputError, match="of 2 modalities"):
        third.check(make_model(3), TASK)


def test_refused():
    with pytest.raises(InputError, match="alpha"):
        AGM(alpha=0)
    with pytest.raises(InputError, match="zero="):
        AGM(zero="noise")
    with pytest.raises(InputError, match="only"):
        AGM().check(make_model(1), TASK)
