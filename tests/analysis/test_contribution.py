"""Shapley shares against a loop over orders, and use of modalities that do or do not matter."""

# mypy: disable-error-code="arg-type, operator"

from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from polymodal.analysis.bootstrap import bootstrap_mean
from polymodal.analysis.contribution import conditional_use, prior, sample_values, shapley, shapley_values
from polymodal.errors import InputError
from polymodal.evaluate import evaluate, masked_logits, unimodal_source
from polymodal.fusion import FiLM, Gated
from tests.builders import TASKS, WIDTH, make_batch, make_model, names

QUICK = {"resamples": 50}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shapley_is_the_mean_gain_over_all_orders(count):
    rng = np.random.default_rng(count)
    players = names(count)
    subsets = [frozenset(s) for n in range(count + 1) for s in combinations(players, n)]
    values = {s: rng.normal(size=5) for s in subsets}
    expected = {m: np.zeros(5) for m in players}
    orders = list(permutations(players))
    for order in orders:
        for place, m in enumerate(order):
            gain = values[frozenset(order[: place + 1])] - values[frozenset(order[:place])]
            expected[m] += gain / len(orders)
    found = shapley_values(values)
    for m in players:
        np.testing.assert_allclose(found[m], expected[m], atol=1e-12)
    np.testing.assert_allclose(sum(found.values()), values[frozenset(players)] - values[frozenset()], atol=1e-12)


@pytest.mark.parametrize("kind", list(TASKS))
def test_shares_add_up_to_what_the_model_gains(kind):
    task = TASKS[kind]
    model, batch = make_model(3, task, heads=False), make_batch(3, task, 30)
    found = shapley(model, [batch], task, **QUICK)
    assert sum(one.estimate for one in found.shares.values()) == pytest.approx(
        found.everything - found.nothing, abs=1e-9
    )
    fused = evaluate(model, [batch], task)
    assert found.everything == pytest.approx(sample_values(task, fused.probabilities, fused.target).mean())


def ignoring(count=2):
    """A model whose fusion ignores m1."""
    model = make_model(count, heads=False)
    with torch.no_grad():
        for name, p in model.fusion.named_parameters():
            if "bias" in name or any(p is one for one in model.fusion.parameters_of("m1")):
                p.zero_()
    return model


def test_a_modality_that_the_fusion_ignores_counts_for_nothing():
    model, batch = ignoring(), make_batch(size=39)  # each class as often: the prior is that of zero logits
    task = TASKS["classification"]
    for value in ("decision", "probability"):
        assert shapley(model, [batch], task, value=value, **QUICK).shares["m1"] == pytest.approx((0, 0, 0), abs=1e-9)
        use = conditional_use(model, [batch], task, value=value, **QUICK)
        assert use["m1"].removed == use["m1"].shuffled == (0, 0, 0)
    assert use["m0"].shuffled != (0, 0, 0)


def test_shuffling_repeats_and_no_sample_keeps_its_own():
    model, batch = make_model(2, heads=False), make_batch(size=40)
    task = TASKS["classification"]
    once, again, other = (conditional_use(model, [batch], task, seed=s, **QUICK) for s in (1, 1, 2))
    assert once == again
    assert once["m0"].removed.estimate == other["m0"].removed.estimate
    assert all(p.grad is None for p in model.parameters())


def test_samples_without_the_modality_are_left_alone():
    model, batch = make_model(2, heads=False), make_batch(size=12)
    there = torch.arange(12) < 1
    use = conditional_use(model, [batch._replace(present={"m1": there})], TASKS["classification"], **QUICK)
    assert use["m1"].shuffled == (0, 0, 0)  # the only one that has it has nobody to change places with


def test_the_prior_is_the_frequencies():
    assert prior(TASKS["classification"], np.array([0, 0, 2, 1])).tolist() == [[0.5, 0.25, 0.25]] * 4
    assert prior(TASKS["multilabel"], np.array([[1, 0, 0], [1, 1, 0]])).tolist() == [[1, 0.5, 0]] * 2
    assert prior(TASKS["regression"], np.array([1.0, 3.0])).tolist() == [[2.0]] * 2


def test_values():
    rows, target = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]]), np.array([0, 1])
    assert sample_values(TASKS["classification"], rows, target).tolist() == [1, 0]
    assert sample_values(TASKS["classification"], rows, target, "probability") == pytest.approx([0.7, 0.4])
    assert sample_values(TASKS["regression"], np.array([[2.0]]), np.array([0.5])).tolist() == [-1.5]
    with pytest.raises(InputError, match="probability"):
        sample_values(TASKS["regression"], np.array([[2.0]]), np.array([0.5]), "probability")


@pytest.mark.parametrize("make", [FiLM, Gated])
def test_uni_modal_predictions_of_any_fusion_by_masking(make):
    task = TASKS["classification"]
    fusion = make(dict.fromkeys(names(2), WIDTH), 3)
    model, batch = make_model(2, fusion=fusion, heads=False), make_batch(size=10)
    assert unimodal_source(model) is None
    assert unimodal_source(model, masking=True) == "masking"
    assert evaluate(model, [batch], task).unimodal == {}
    found = evaluate(model, [batch], task, masking=True)
    model.eval()
    for m in names(2):
        gone = {one: torch.zeros(10, dtype=torch.bool) for one in names(2) if one != m}
        logits = model(batch.inputs, gone).logits
        np.testing.assert_array_equal(found.unimodal[m], task.probabilities(logits).detach().numpy())
        assert set(found.unimodal_metrics) == set(names(2))
    output = model(batch.inputs)
    torch.testing.assert_close(masked_logits(model, batch, output, names(2)), output.logits, rtol=0, atol=0)


def test_masking_is_the_last_resort():
    assert unimodal_source(make_model(2), masking=True) == "heads"
    assert unimodal_source(make_model(2, heads=False), masking=True) == "parts"


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        one = bootstrap_mean(rng.normal(0.3, 1, 60), seed=trial, resamples=200)
        inside += one.low <= 0.3 <= one.high
    assert 0.88 <= inside / 200 <= 0.99


def test_bootstrap_repeats_and_refuses_what_is_not_finite():
    assert bootstrap_mean([0.0, 1.0, 1.0], seed=3) == bootstrap_mean([0.0, 1.0, 1.0], seed=3)
    assert bootstrap_mean([0.0] * 5) == (0, 0, 0)
    assert [bootstrap_mean([x] * 3).sign for x in (-1.0, 0.0, 1.0)] == [-1, 0, 1]
    for wrong in ([], [np.nan]):
        with pytest.raises(ValueError, match="finite number"):
            bootstrap_mean(wrong)
