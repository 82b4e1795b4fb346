"""Scores: sums over the samples that have the modality, whatever tells them."""

import pytest
import torch

from polymodal import InputError
from polymodal.balancers import AGM, MLB, OGM, PMR
from polymodal.balancers.passes import shapley_parts, subset_logits
from polymodal.balancers.scores import Score, Shapley, heads, parts, resolve_score, shapley
from polymodal.fusion import Mixture
from polymodal.types import Sum
from tests.builders import TASKS, make_batch, make_model, make_step
from tests.properties import assert_all_finite, assert_close

TASK = TASKS["classification"]


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("score", [heads, parts, shapley])
def test_sums_and_counts_equal_a_loop(score, kind):
    task = TASKS[kind]
    model, batch = make_model(3, task), make_batch(3, task)
    batch = batch._replace(present={"m1": torch.arange(8) < 3})
    step = make_step(model, batch, task)
    logits = {
        heads: step.output.unimodal, parts: parts.logits(step),
        shapley: shapley_parts(subset_logits(step)),
    }[score]  # fmt: skip
    found = score(step)
    for m in model.modalities:
        rows = range(3) if m == "m1" else range(8)
        each = [float(task.score(logits[m][n : n + 1].detach(), batch.target[n : n + 1])) for n in rows]
        assert_close(found[m].total, sum(each))
        assert int(found[m].count) == len(rows)
        assert not found[m].total.requires_grad


@pytest.mark.parametrize("make", [MLB, lambda **o: OGM(param_filter="all", **o), AGM, PMR])
@pytest.mark.parametrize("score", ["heads", "parts", "shapley", "prototypes", Shapley("input")])
@pytest.mark.parametrize("count", [2, 3])
def test_every_rule_runs_with_every_score(make, score, count):
    model, batch = make_model(count), make_batch(count)
    balancer = make(score=score)
    balancer.check(model, TASK)
    balancer.start_epoch(model, [batch])
    step = make_step(model, batch)
    loss = balancer.backward(step)
    found = balancer.modulate(step)
    assert set(found) == set(balancer.last_scores) == set(model.modalities)
    assert_all_finite({"loss": loss} | found)


def test_models_that_a_score_cannot_read():
    model = make_model(fusion=Mixture({"m0": 4, "m1": 4}, 3))
    with pytest.raises(InputError, match="score 'parts'"):
        MLB(score="parts").check(model, TASK)
    with pytest.raises(InputError, match="score 'heads'"):
        OGM(score="heads", param_filter="all").check(make_model(heads=False), TASK)
    with pytest.raises(InputError, match="there are"):
        MLB(score="nothing")


def test_a_function_is_a_score_but_not_for_agm():
    one = Sum(torch.tensor(0.5), torch.tensor(1.0))
    found = resolve_score(lambda step: {"m0": one, "m1": one})
    assert isinstance(found, Score)
    step = make_step(make_model(), make_batch())
    assert found(step)["m0"] is one
    with pytest.raises(InputError, match="derive a class"):
        found.logits(step)
    with pytest.raises(InputError, match="derive a class"):
        AGM(score=found)
