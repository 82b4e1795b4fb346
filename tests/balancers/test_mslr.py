"""MSLR: multipliers from the validation history, of the named scope."""

import pytest
import torch

from polymodal import InputError
from polymodal.balancers import MSLR
from polymodal.balancers.mslr import mslr_coefficients, mslr_smooth
from polymodal.fusion import Mixture
from tests.builders import TASKS, make_batch, make_model, make_step
from tests.properties import (
    assert_close,
    assert_finite_on_extreme_logits,
    assert_only_moves,
    assert_permuting_modalities_permutes_coefficients,
    assert_works_on_a_batch_of_one,
    exact,
)

TASK = TASKS["classification"]
FIGURES = [[0.3, 0.6, 0.5], [0.35, 0.6, 0.4], [0.4, 0.62, 0.3], [0.42, 0.6, 0.9], [0.45, 0.5, 0.1]]


def dynamic_loop(history, initial, memory, errors):
    if len(history) <= memory:
        return initial
    found = []
    for m, start in enumerate(initial):
        before = sum(row[m] for row in history[-1 - memory : -1]) / memory
        last = history[-1][m]
        found.append(start * (before / last if errors else last / before))
    return found


@pytest.mark.parametrize("memory", [1, 2, 4, 5])
@pytest.mark.parametrize("errors", [False, True])
def test_dynamic_equals_a_loop(memory, errors):
    initial = [0.9, 1.1, 0.7]
    for epoch in range(len(FIGURES) + 1):
        history = exact(FIGURES[:epoch]).view(epoch, 3)
        found = mslr_coefficients(history, exact(initial), memory, errors=errors)
        assert_close(found, dynamic_loop(FIGURES[:epoch], initial, memory, errors))


def test_a_steady_metric_keeps_the_initial_rate_and_zeros_are_finite():
    assert_close(mslr_coefficients(exact([[0.4, 0.7]] * 6), exact([0.9, 1.1]), 5), [0.9, 1.1])
    assert_close(mslr_coefficients(exact([[0.0, 0.0], [0.0, 0.5]]), exact([0.9, 1.1]), 1), [0.9, 1.1])


def test_rules_permute():
    history = exact(FIGURES)
    for count in (2, 3):
        order = torch.arange(count).flip(0)
        initial = exact([0.9, 1.1, 0.7][:count])
        one = mslr_coefficients(history[:, :count], initial, 2)
        assert_close(mslr_coefficients(history[:, order], initial[order], 2), one[order])
    assert_permuting_modalities_permutes_coefficients(mslr_smooth)
    assert_close(mslr_smooth(exact([0.7, 1.3])), [0.85, 1.15])


@pytest.mark.parametrize(("variant", "expected"), [("keep", [0.9, 1.1, 0.9]), ("smooth", [14 / 15, 31 / 30, 14 / 15])])
def test_fixed_variants_take_numbers_in_turn(variant, expected):
    balancer = MSLR(variant)
    balancer.check(make_model(3, heads=False), TASK)
    balancer.end_epoch({})
    found = balancer.coefficients({}, TASK)
    assert list(found) == ["m0", "m1", "m2"]
    assert_close(torch.stack(list(found.values())), expected)


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_history_of_epochs(kind):
    task = TASKS[kind]
    balancer = MSLR(initial={"m0": 0.7, "m1": 1.3, "m2": 1.0}, memory=2)
    balancer.check(make_model(3, task, heads=False), task)
    for epoch, row in enumerate(FIGURES):
        expected = dynamic_loop(FIGURES[:epoch], [0.7, 1.3, 1.0], 2, errors=kind == "regression")
        assert_close(torch.stack(list(balancer.coefficients({}, task).values())), expected)
        balancer.end_epoch({f"m{i}": value for i, value in enumerate(row)})


def test_only_its_scope_moves():
    assert_only_moves(MSLR(), ("encoder", "fusion"))
    assert_only_moves(MSLR(scope="encoder"), ("encoder",))


def test_learning_rates():
    model, batch = make_model(heads=False), make_batch()
    balancer = MSLR("keep", apply_to="update", scope=("encoder", "fusion"))
    optimizer = torch.optim.SGD(model.param_groups(0.1, balancer.scope))
    balancer.attach(optimizer)
    before = [p.detach().clone() for p in model.parameters_of("m0")]
    balancer.backward(step := make_step(model, batch))
    balancer.modulate(step)
    optimizer.step()
    for p, old in zip(model.parameters_of("m0"), before, strict=True):
        assert p.grad is not None
        assert_close(p.detach(), old - 0.09 * p.grad)
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}


def test_finite():
    assert_finite_on_extreme_logits(MSLR())
    assert_works_on_a_batch_of_one(MSLR())


def test_resume():
    first, second = MSLR(memory=2), MSLR(memory=2)
    model = make_model(heads=False)
    first.check(model, TASK)
    for row in FIGURES:
        first.end_epoch(dict(zip(model.modalities, row, strict=False)))
    second.load_state_dict(first.state_dict())
    second.check(model, TASK)
    assert second.coefficients({}, TASK) == first.coefficients({}, TASK)
    with pytest.raises(InputError, match="loaded history"):
        second.check(make_model(3, heads=False), TASK)


def test_refused():
    for options in ({"variant": "fast"}, {"initial": (0.9, 0.0)}, {"memory": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            MSLR(**options)
    with pytest.raises(InputError, match="initial names"):
        MSLR(initial={"audio": 1.0}).check(make_model(heads=False), TASK)
    with pytest.raises(InputError, match="only"):
        MSLR().check(make_model(1, heads=False), TASK)
    balancer = MSLR()
    with pytest.raises(InputError, match="any modality"):
        balancer.end_epoch({})
    balancer.check(make_model(heads=False), TASK)
    with pytest.raises(InputError, match=r"of \['m1'\]"):
        balancer.end_epoch({"m0": 0.5})


def test_fusion_without_unimodal_predictions():
    model = make_model(heads=False)
    model.fusion = torch.nn.Identity()
    with pytest.raises(InputError, match="neither a head nor a share of Identity"):
        MSLR().check(model, TASK)
    MSLR(scope="encoder").check(make_model(fusion=Mixture({"m0": 4, "m1": 4}, 3)), TASK)
