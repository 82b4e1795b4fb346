"""MLB: rule, scope, and the two ways to apply it."""

import math
import warnings

import pytest
import torch

from polymodal import InputError
from polymodal.balancers import MLB, Joint, MultiLoss
from polymodal.balancers.base import AdaptiveOptimizerWarning
from polymodal.balancers.mlb import mean_of_others, mlb_coefficients, mlb_ratios
from tests.builders import TASKS, difference, grads, make_batch, make_model, make_step, weights
from tests.properties import (
    SCORES,
    assert_close,
    assert_equal_scores_give_one,
    assert_equals_loop,
    assert_finite_on_extreme_logits,
    assert_only_moves,
    assert_permuting_modalities_permutes_coefficients,
    assert_scaling_all_scores_changes_nothing,
    assert_works_on_a_batch_of_one,
    backward,
    exact,
)

SETTINGS = [(0.5, 10.0), (2.0, 2.0), (1.5, None), (5.0, 1.0)]
TASK = TASKS["classification"]


def rule(alpha, beta_max, errors=False):
    return lambda scores: mlb_coefficients(mlb_ratios(scores, errors=errors), alpha, beta_max)


def loop(alpha, beta_max, errors=False):
    """METHODS 1.5, one modality at a time."""

    def coefficients(scores):
        found = []
        for m, own in enumerate(scores):
            others = [score for j, score in enumerate(scores) if j != m]
            mean = sum(others) / len(others)
            ratio = own / mean if errors else mean / own
            beta = 2.0
            if ratio > 1 and beta_max is not None:
                beta = beta_max
            found.append(1 + (beta - 1) * math.tanh(alpha * (ratio - 1)))
        return found

    return coefficients


@pytest.mark.parametrize(("alpha", "beta_max"), SETTINGS)
@pytest.mark.parametrize("errors", [False, True])
def test_rule(alpha, beta_max, errors):
    assert_equals_loop(rule(alpha, beta_max, errors), loop(alpha, beta_max, errors))
    assert_equal_scores_give_one(rule(alpha, beta_max, errors))
    assert_permuting_modalities_permutes_coefficients(rule(alpha, beta_max, errors))
    assert_scaling_all_scores_changes_nothing(rule(alpha, beta_max, errors))


@pytest.mark.parametrize("values", SCORES)
def test_bounds(values):
    for alpha, beta_max in SETTINGS:
        k = rule(alpha, beta_max)(exact(values))
        assert (k >= 1 - math.tanh(alpha)).all()
        assert (k <= (beta_max or 2.0)).all()


def test_mean_of_others():
    assert_close(mean_of_others(exact([1.0, 2.0, 6.0])), [4.0, 3.5, 1.5])


def test_worse_modality_is_sped_up_for_every_kind_of_task():
    for name, task in TASKS.items():
        balancer, model = MLB(), make_model(task=task)
        scores = {"m0": exact(0.9), "m1": exact(0.3)}
        k = balancer.coefficients(scores, task)
        worse = "m0" if name == "regression" else "m1"  # of a squared error the larger is worse
        assert k[worse] > 1
        assert k["m0" if worse == "m1" else "m1"] < 1
        step, _ = backward(balancer, model, task)
        balancer.modulate(step)
        for m, score in balancer.last_scores.items():
            assert_close(score, float(task.score(step.output.unimodal[m].detach(), step.batch.target).mean()))


@pytest.mark.parametrize(
    "scope", [("encoder",), ("encoder", "head"), ("encoder", "head", "fusion"), ("fusion",)], ids="+".join
)
def test_only_the_scope_moves(scope):
    assert_only_moves(MLB(scope=scope), scope)


def test_default_scope_is_the_authors_code():
    assert_only_moves(MLB(), ("encoder", "head", "fusion"))


def test_shared_properties():
    assert_finite_on_extreme_logits(MLB())
    assert_works_on_a_batch_of_one(MLB())


def test_a_hopeless_score_gives_the_bound_and_not_infinity():
    k = MLB(alpha=0.5, beta_max=10).coefficients({"a": exact(0.0), "v": exact(0.5)}, TASK)
    assert_close(k["a"], 10.0)
    assert_close(k["v"], 1 - math.tanh(0.5))
    assert torch.isnan(MLB(eps=0.0).coefficients({"a": exact(0.0), "v": exact(0.0)}, TASK)["a"])  # parity


def test_scores_of_half_precision_logits_are_taken_in_single():
    model = make_model()
    step = make_step(model, make_batch())
    logits = torch.tensor([[0.0, 30.0, 0.0]] * 8, dtype=torch.float16)
    step = step._replace(output=step.output._replace(unimodal=dict.fromkeys(model.modalities, logits)))
    score = MLB().scores(step)["m0"].total
    assert score.dtype == torch.float32
    assert score > 0


# epochs ---------------------------------------------------------------------------------------------------------------


def test_window_of_epochs_is_inclusive():
    balancer, model = MLB(epochs=(1, 2)), make_model()
    seen = []
    for _ in range(4):
        balancer.start_epoch(model, [])
        step, _ = backward(balancer, model)
        seen.append(bool(balancer.modulate(step)))
    assert seen == [False, True, True, False]
    resumed = MLB(epochs=(1, 2))
    resumed.load_state_dict(balancer.state_dict())
    assert not resumed.active
    assert MLB(epochs=(1, 2)).active  # an own loop that tells no epochs


# apply_to="update" ----------------------------------------------------------------------------------------------------


def train(apply_to, make_optimizer, steps=1, balancer=None, scope=("encoder", "head", "fusion")):
    """Weights before and after, and the coefficients of each step."""
    model = make_model()
    balancer = balancer or MLB(apply_to=apply_to, scope=scope)
    optimizer = make_optimizer(model.param_groups(0.1, scope))
    if apply_to == "update":
        balancer.attach(optimizer)
    start, found = weights(model), []
    for number in range(steps):
        step = make_step(model, make_batch(seed=number))
        balancer.backward(step)
        found.append(balancer.modulate(step))
        optimizer.step()
        optimizer.zero_grad()
        assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    return start, weights(model), found


def sgd(groups):
    return torch.optim.SGD(groups)


def momentum(groups):
    return torch.optim.SGD(groups, momentum=0.9)


def adamw(groups):
    return torch.optim.AdamW(groups, weight_decay=0.3)


def test_plain_sgd_moves_by_rate_times_coefficient():
    model = make_model()
    backward(MultiLoss(), model)
    plain = grads(model)
    start, after, (k,) = train("update", sgd)
    assert k["m0"] != 1
    assert k["m0"] != k["m1"]
    for name, grad in plain.items():
        factor = next((k[m] for m in k if f".{m}." in name), 1.0)
        assert torch.equal(after[name], start[name].add(grad, alpha=-float(0.1 * factor))), name


def test_both_ways_agree_for_plain_sgd_and_differ_with_momentum():
    assert difference(train("grad", sgd, 4)[1], train("update", sgd, 4)[1]) < 1e-12
    # The first step's buffer is the gradient itself; from the second on it holds scaled or unscaled ones.
    assert difference(train("grad", momentum, 1)[1], train("update", momentum, 1)[1]) < 1e-12
    assert difference(train("grad", momentum, 2)[1], train("update", momentum, 2)[1]) > 1e-4


def test_momentum_of_update_is_the_plain_buffer_times_the_coefficient():
    _, after, ks = train("update", momentum, 3)
    model = make_model()
    position: dict = dict(model.named_parameters())
    buffer: dict = {}
    for number, k in enumerate(ks):
        MultiLoss().backward(make_step(model, make_batch(seed=number)))
        for name, p in position.items():
            buffer[name] = 0.9 * buffer[name] + p.grad if name in buffer else p.grad.clone()
            factor = next((k[m] for m in k if f".{m}." in name), 1.0)
            p.data -= 0.1 * factor * buffer[name]
            p.grad = None
    assert difference(after, weights(model)) < 1e-12


def test_decoupled_decay_keeps_its_pace():
    start, after, (k,) = train("update", adamw)
    for name in after:
        factor = float(next((k[m] for m in k if f".{m}." in name), 1.0))
        moved = after[name] - start[name] * (1 - 0.1 * 0.3)  # Adam's first step is lr sign(g), and 0 where g is 0
        wrong = moved.abs() - 0.1 * factor
        assert ((wrong.abs() < 1e-5) | (moved.abs() < 1e-12)).all(), name
        assert (moved.abs() > 1e-3).any(), name


def test_decay_is_restored_after_the_step():
    model, balancer = make_model(), MLB(apply_to="update")
    optimizer = adamw(model.param_groups(0.1))
    balancer.attach(optimizer)
    step, _ = backward(balancer, model)
    balancer.modulate(step)
    optimizer.step()
    assert {(group["lr"], group["weight_decay"]) for group in optimizer.param_groups} == {(0.1, 0.3)}


def test_adam_hardly_notices_constant_gradient_scaling_but_follows_updates():
    class Fixed(MLB):
        def coefficients(self, scores, task):
            return {"m0": exact(0.2), "m1": exact(5.0)}

    plain = train("grad", torch.optim.Adam, 3, MultiLoss())[1]
    assert difference(plain, train("grad", torch.optim.Adam, 3, Fixed())[1]) < 1e-3
    assert difference(plain, train("update", torch.optim.Adam, 3, Fixed(apply_to="update"))[1]) > 0.1


def test_adam_with_gradient_scaling_warns():
    model = make_model()
    for make in (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop):
        with pytest.warns(AdaptiveOptimizerWarning, match=rf"{make.__name__}.*apply_to='update'"):
            MLB().attach(make(model.parameters(), lr=0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MLB().attach(sgd(model.parameters()))
        Joint().attach(torch.optim.Adam(model.parameters()))
        MLB(apply_to="update").attach(torch.optim.Adam(model.param_groups(0.1)))


def test_update_without_an_optimiser_is_an_error():
    model, balancer = make_model(), MLB(apply_to="update")
    step, _ = backward(balancer, model)
    with pytest.raises(InputError, match="attach"):
        balancer.modulate(step)
    with pytest.raises(InputError, match="param_groups"):
        balancer.attach(sgd(model.parameters()))


# Errors ---------------------------------------------------------------------------------------------------------------


def test_bad_settings():
    for alpha in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="alpha"):
            MLB(alpha=alpha)
    with pytest.raises(InputError, match=r"beta_max=0.5"):
        MLB(beta_max=0.5)
    with pytest.raises(InputError, match="apply_to='rate'"):
        MLB(apply_to="rate")
    with pytest.raises(InputError, match="'head'"):
        MLB(score="head")


def test_what_cannot_work_is_told_before_the_first_step():
    with pytest.raises(InputError, match=r"only \['m0'\]"):
        backward(MLB(), make_model(1))
    with pytest.raises(InputError, match="heads"):
        backward(MLB(), make_model(heads=False))
    with pytest.raises(InputError, match="scope 'encoders'"):
        backward(MLB(scope="encoders"), make_model())
    frozen = make_model()
    frozen.encoders["m1"].requires_grad_(False)
    with pytest.raises(InputError, match="matches no trainable parameter of modality 'm1'"):
        backward(MLB(scope="encoder"), frozen)
    assert all(p.grad is None for p in frozen.parameters())
