"""Tasks: losses and scores a sample, weights, predictions and their metrics, against torch and loops."""

# mypy: disable-error-code="arg-type"

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from polymodal import InputError
from polymodal.tasks import Classification, MultiLabel, Regression, Task
from polymodal.types import Batch, Output
from tests.builders import make_batch, make_model, make_step, rows

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 1.2, 0.3], [-0.4, 0.2, 1.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
CLASSES = torch.tensor([0, 2, 2, 1])
LABELS = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
NUMBERS = torch.tensor([1.5, -2.0, 0.0, 30.0], dtype=torch.float64)


def close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), atol=1e-12, rtol=0)


def sigmoid(value):
    return 1 / (1 + math.exp(-float(value)))


# Classification -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 4.0]])
def test_classification_means_what_torch_means(weights):
    task = Classification(3, weights)
    mean = task.losses(LOGITS, CLASSES).sum() / task.weights(CLASSES).sum()
    torch_weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    close(mean, F.cross_entropy(LOGITS, CLASSES, weight=torch_weights))
    close(task.score(LOGITS, CLASSES), [float(p[y]) for p, y in zip(LOGITS.softmax(-1), CLASSES, strict=True)])


def test_class_weights_reach_every_mean_of_a_step():
    weights = [0.2, 1.0, 5.0]
    task, model = Classification(3, weights), make_model()
    present = torch.tensor([True, False, True, True] * 2)
    batch = make_batch()._replace(present={"m1": present})
    step = make_step(model, batch, task)
    torch_weights = torch.tensor(weights, dtype=torch.float64)
    close(step.fused_loss(), F.cross_entropy(step.output.logits, batch.target, weight=torch_weights))
    some = step.output.unimodal["m1"][present], batch.target[present]
    close(step.unimodal_loss("m1"), F.cross_entropy(*some, weight=torch_weights))


def test_unequal_micro_batches_share_the_denominator():
    task, model, batch = Classification(3, [0.2, 1.0, 5.0]), make_model(), make_batch()
    window = rows(batch, 5, 3)
    summed = sum(make_step(model, one, task, window=window).fused_loss() for one in window)
    close(summed, make_step(model, batch, task).fused_loss())


def test_classification_metrics():
    probabilities = LOGITS.softmax(-1).numpy()
    found = Classification(3).metrics(probabilities, CLASSES.numpy())
    prediction = probabilities.argmax(-1)
    assert found["accuracy"] == 0.5
    assert prediction.tolist() == [0, 1, 2, 0]
    assert found["loss"] == pytest.approx(float(F.cross_entropy(LOGITS, CLASSES)), abs=1e-12)
    assert set(found) == {"accuracy", "f1_macro", "f1_weighted", "ece", "loss"}
    assert found["f1_macro"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    assert found["f1_weighted"] == pytest.approx((2 / 3 + 2 * 2 / 3) / 4)


def test_classification_in_half_precision():
    hopeless = torch.tensor([[0.0, 40.0]], dtype=torch.float16)
    score = Classification(2).score(hopeless, torch.tensor([0]))
    assert score.dtype == torch.float32
    assert score > 0


# MultiLabel -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 7.5]])
def test_multi_label_equals_a_loop(weights):
    task = MultiLabel(3, weights)
    for n in range(len(LOGITS)):
        loss = score = 0.0
        for c in range(3):
            p = sigmoid(LOGITS[n, c])
            on = bool(LABELS[n, c])
            loss -= (weights[c] if weights else 1) * math.log(p) if on else math.log(1 - p)
            score += p if on else 1 - p
        close(task.losses(LOGITS, LABELS)[n], loss / 3)
        close(task.score(LOGITS, LABELS)[n], score / 3)


def test_multi_label_predicts_at_the_threshold():
    probabilities = np.array([[0.5, 0.49, 0.7]])
    assert MultiLabel(3).predict(probabilities).tolist() == [[1, 0, 1]]
    assert MultiLabel(3, threshold=0.6).predict(probabilities).tolist() == [[0, 0, 1]]
    found = MultiLabel(3).metrics(LOGITS.sigmoid().numpy(), LABELS.numpy())
    assert found["loss"] == pytest.approx(float(F.binary_cross_entropy_with_logits(LOGITS, LABELS.double())), abs=1e-12)
    assert found["accuracy"] == pytest.approx(0.0)
    assert set(found) == {"f1_micro", "f1_macro", "f1_weighted", "accuracy", "loss"}


# Regression -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_regression_works_in_units_of_the_deviation(loss):
    task = Regression(loss, mean=10.0, std=4.0)
    logits = torch.tensor([[0.5], [1.0], [-2.0], [0.0]], dtype=torch.float64)
    expected = [float(z) - (float(y) - 10) / 4 for z, y in zip(logits, NUMBERS, strict=True)]
    close(task.losses(logits, NUMBERS), [e**2 if loss == "mse" else abs(e) for e in expected])
    close(task.score(logits, NUMBERS), [e**2 for e in expected])
    values = task.predict(task.probabilities(logits).numpy())
    assert values.tolist() == [12.0, 14.0, 2.0, 10.0]
    found = task.metrics(task.probabilities(logits).numpy(), NUMBERS.numpy())
    assert found["mae"] == pytest.approx(np.abs(values - NUMBERS.numpy()).mean())
    assert found["mse"] == pytest.approx(((values - NUMBERS.numpy()) ** 2).mean())
    assert found["loss"] == pytest.approx(float(task.losses(logits, NUMBERS).mean()))


def test_only_regression_scores_are_errors():
    assert [task.score_is_error for task in (Classification, MultiLabel, Regression)] == [False, False, True]


# All ------------------------------------------------------------------------------------------------------------------

ALL = [(Classification(3), LOGITS, CLASSES), (MultiLabel(3), LOGITS, LABELS), (Regression(), LOGITS[:, :1], NUMBERS)]


@pytest.mark.parametrize(("task", "logits", "target"), ALL, ids=lambda one: type(one).__name__)
def test_the_default_metric_and_the_loss_are_among_the_metrics(task, logits, target):
    found = task.metrics(task.probabilities(logits).numpy(), target.numpy())
    assert {task.default_metric, "loss"} <= set(found)
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())
    assert task.weights(target).shape == task.losses(logits, target).shape == task.score(logits, target).shape == (4,)


@pytest.mark.parametrize(("task", "logits", "target"), ALL, ids=lambda one: type(one).__name__)
def test_extreme_logits_stay_finite(task, logits, target):
    for factor in (1e4, -1e4):
        wild = (logits * factor).float().requires_grad_()
        loss = task.losses(wild, target).sum()
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(wild.grad).all()
        assert torch.isfinite(task.score(wild, target)).all()
        assert all(map(math.isfinite, task.metrics(task.probabilities(wild.detach()).numpy(), target.numpy()).values()))


def test_a_fusion_without_logits_needs_a_task_that_knows():
    with pytest.raises(TypeError, match="Classification needs fused logits"):
        Classification(2).fused_losses(Output(None, {}, {}), Batch({}, CLASSES))


def test_bad_settings():
    for wrong, text in (
        (lambda: Classification(1), "1 class"),
        (lambda: Classification(3, [1.0, 2.0]), "2 class weights for 3"),
        (lambda: MultiLabel(3, [1.0]), "1 positive weights for 3"),
        (lambda: Regression("huber"), "'huber'"),
        (lambda: Regression(std=0.0), "equal"),
    ):
        with pytest.raises(InputError, match=text):
            wrong()
    with pytest.raises(NotImplementedError):
        Task().losses(LOGITS, CLASSES)


def test_sentiment_is_a_regression_with_more_figures():
    rows = np.array([[1.2], [-0.4], [2.0]])
    target = np.array([1.0, -1.0, 2.0])
    plain, more = Regression().metrics(rows, target), Regression(sentiment=True).metrics(rows, target)
    assert plain.items() < more.items()
    assert more["acc2_nonzero"] == 1.0
