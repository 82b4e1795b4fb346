"""Properties that many methods share; each method's test file picks those that its source claims.

A `rule` is a function of one score (or ratio) a modality, (M,) -> (M,).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.balancers import Balancer
from polymodal.model import MultimodalModel
from polymodal.tasks import Task
from tests.builders import TASKS, grads, make_batch, make_model, make_step

Rule = Callable[[Tensor], Tensor]
SCORES = [[0.6, 0.3], [0.05, 0.9], [0.5, 0.25, 0.7], [0.9, 0.1, 0.4, 0.3]]
"""Scores of two, three and four modalities, none equal to another or to the mean of the others."""


def exact(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_close(found: Tensor, expected: Any, tol: float = 1e-12) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), atol=tol, rtol=0)


# Rules ----------------------------------------------------------------------------------------------------------------


def assert_equal_scores_give_one(rule: Rule, score: float = 0.4) -> None:
    for count in (2, 3, 5):
        assert_close(rule(exact([score] * count)), [1.0] * count)


def assert_permuting_modalities_permutes_coefficients(rule: Rule) -> None:
    for values in SCORES:
        scores = exact(values)
        order = torch.arange(len(values)).roll(1)
        assert_close(rule(scores[order]), rule(scores)[order])
        assert_close(rule(scores.flip(0)), rule(scores).flip(0))


def assert_scaling_all_scores_changes_nothing(rule: Rule) -> None:
    for values in SCORES:
        for factor in (1e-3, 0.5, 64.0):
            assert_close(rule(exact(values) * factor), rule(exact(values)), 1e-9)


def assert_equals_loop(rule: Rule, loop: Callable[[list[float]], list[float]]) -> None:
    """The rule against a slow reference that is written one modality at a time."""
    for values in [*SCORES, [0.4, 0.4], [0.2, 0.2, 0.2], [1e-6, 1.0], [0.3, 0.5, 0.3]]:
        assert_close(rule(exact(values)), loop(values), 1e-10)


# Steps ----------------------------------------------------------------------------------------------------------------


def backward(
    balancer: Balancer, model: MultimodalModel, task: Task | None = None, size: int = 8, scale: float = 1.0
) -> tuple[Any, Tensor]:
    """One step up to the gradients: the step and its loss."""
    task = task or TASKS["classification"]
    batch = make_batch(len(model.modalities), task, size)
    step = make_step(model, batch._replace(inputs={m: x * scale for m, x in batch.inputs.items()}), task)
    return step, balancer.backward(step)


def assert_only_moves(balancer: Balancer, scope: Collection[str], model: MultimodalModel | None = None) -> None:
    """`modulate` multiplies the gradients of each modality's `scope` and leaves all others bit-identical."""
    model = model or make_model(heads=balancer.needs_heads)
    step, _ = backward(balancer, model)
    before, names = grads(model), {id(p): name for name, p in model.named_parameters()}
    coefficients = balancer.modulate(step)
    after = grads(model)
    assert set(coefficients) == set(model.modalities)
    expected = dict(before)
    for m, k in coefficients.items():
        for p in model.parameters_of(m, scope):
            expected[names[id(p)]] = before[names[id(p)]] * k
    assert any(not torch.equal(before[name], after[name]) for name in before), "no gradient was changed"
    for name, value in expected.items():
        assert torch.equal(after[name], value), name


def assert_finite_on_extreme_logits(balancer: Balancer) -> None:
    for task in TASKS.values():
        model = make_model(task=task, heads=balancer.needs_heads)
        for module in [model.fusion, *model.heads.values()]:
            for p in module.parameters():
                nn.init.uniform_(p, -1e5, 1e5)
        step, loss = backward(balancer, model, task)
        coefficients = balancer.modulate(step)
        assert step.output.logits is not None
        assert step.output.logits.abs().max() > 1e4
        assert_all_finite({"loss": loss} | coefficients | grads(model))


def assert_works_on_a_batch_of_one(balancer: Balancer) -> None:
    for task in TASKS.values():
        model = make_model(3, task, heads=balancer.needs_heads)
        step, loss = backward(balancer, model, task, size=1)
        assert_all_finite({"loss": loss} | balancer.modulate(step) | grads(model))


def assert_all_finite(values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        assert torch.isfinite(value).all(), name
