"""Metrics against scikit-learn, torchmetrics and loops."""

# mypy: disable-error-code="arg-type"

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference
from torchmetrics.functional.classification import multiclass_calibration_error

from polymodal import metrics

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_f1_of_classes(average):
    target, prediction = RANDOM.integers(0, 4, 50), RANDOM.integers(0, 4, 50)
    found = {}
    for c in range(4):
        tp = int(((prediction == c) & (target == c)).sum())
        wrong = int(((prediction == c) != (target == c)).sum())
        found[c] = 2 * tp / (2 * tp + wrong)
    expected = {
        "micro": float((target == prediction).mean()),
        "macro": sum(found.values()) / 4,
        "weighted": sum(found[c] * int((target == c).sum()) for c in found) / 50,
    }
    assert metrics.f1(prediction, target, average) == pytest.approx(expected[average], abs=1e-12)
    assert metrics.f1(prediction, target, average) == pytest.approx(
        reference.f1_score(target, prediction, average=average), abs=1e-12
    )


@pytest.mark.parametrize("average", ["micro", "macro", "weighted"])
def test_f1_of_labels(average):
    target, prediction = RANDOM.integers(0, 2, (30, 5)), RANDOM.integers(0, 2, (30, 5))
    target[:, 4] = prediction[:, 4] = 0  # a label that nobody has counts as 0
    tp, both = (target * prediction).sum(0), (target + prediction).sum(0)
    each = [2 * t / b if b else 0.0 for t, b in zip(tp, both, strict=True)]
    expected = {
        "micro": 2 * tp.sum() / both.sum(),
        "macro": np.mean(each),
        "weighted": np.average(each, weights=target.sum(0)),
    }
    assert metrics.f1(prediction, target, average) == pytest.approx(expected[average], abs=1e-12)


def test_a_class_that_nobody_has_is_left_out():
    assert metrics.f1([0, 2], [0, 2], "macro") == 1.0


def test_accuracy_and_errors():
    value, target = RANDOM.normal(size=20), RANDOM.normal(size=20)
    assert metrics.mae(value, target) == pytest.approx(reference.mean_absolute_error(target, value), abs=1e-12)
    assert metrics.mse(value, target) == pytest.approx(reference.mean_squared_error(target, value), abs=1e-12)
    assert metrics.accuracy([1, 1, 0], [1, 0, 0]) == pytest.approx(2 / 3)


# Calibration ----------------------------------------------------------------------------------------------------------


def loop(confidence, correct, bins, closed):
    """ECE and MCE bin by bin, in exact arithmetic on the edges b / bins."""
    gaps = []
    for b in range(1, bins + 1):
        low, high = Fraction(b - 1, bins), Fraction(b, bins)
        inside = [
            n
            for n, value in enumerate(map(Fraction, confidence))
            if (low < value <= high if closed == "right" else low <= value < high or (b == bins and value == 1))
        ]
        if inside:
            accuracy = sum(int(correct[n]) for n in inside) / len(inside)
            mean = sum(float(confidence[n]) for n in inside) / len(inside)
            gaps.append((abs(accuracy - mean), len(inside)))
    total = len(confidence)
    if not gaps:
        return math.nan, math.nan
    return sum(gap * count for gap, count in gaps) / total, max(gap for gap, _ in gaps)


@given(
    samples=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40),
    bins=st.sampled_from([1, 2, 4, 8, 16]),
    closed=st.sampled_from(["right", "left"]),
)
def test_calibration_equals_a_loop(samples, bins, closed):
    confidence, correct = zip(*samples, strict=True)
    found = metrics.calibration(confidence, correct, bins=bins, closed=closed)
    assert tuple(found) == pytest.approx(loop(confidence, correct, bins, closed), abs=1e-9, nan_ok=True)


def test_calibration_equals_torchmetrics_away_from_edges():
    probabilities = torch.from_numpy(RANDOM.dirichlet(np.ones(4), 200))
    target = torch.from_numpy(RANDOM.integers(0, 4, 200))
    confidence, prediction = probabilities.max(-1)
    correct = (prediction == target).numpy()
    for norm, name in (("l1", "ece"), ("max", "mce")):
        theirs = multiclass_calibration_error(probabilities, target, num_classes=4, n_bins=15, norm=norm)
        for closed in ("right", "left"):
            ours = metrics.calibration(confidence.numpy(), correct, closed=closed)._asdict()[name]
            assert ours == pytest.approx(float(theirs), abs=1e-6)


def test_values_on_an_edge_go_by_the_closing():
    right = metrics.reliability([0.25, 0.5, 1.0, 0.0], [1, 1, 1, 1], bins=4, closed="right")
    left = metrics.reliability([0.25, 0.5, 1.0, 0.0], [1, 1, 1, 1], bins=4, closed="left")
    assert right.count.tolist() == [1, 1, 0, 1]  # 0 belongs to none
    assert left.count.tolist() == [1, 1, 1, 1]  # 1 joins the last
    assert np.isnan(right.accuracy[2])
    assert right.confidence.tolist()[:2] == [0.25, 0.5]


def test_default_is_fifteen_bins_closed_on_the_right():
    # 0 belongs to a bin only where bins are closed on the left.
    confidence, correct = [0.0, 0.31, 0.32, 0.9], [1, 0, 1, 1]
    expected = metrics.calibration(confidence, correct, bins=15, closed="right").ece
    assert metrics.ece(confidence, correct) == expected
    assert metrics.ece(confidence, correct, closed="left") != expected


def test_bad_confidences():
    with pytest.raises(ValueError, match=r"\[0\.5, 1\.5\]"):
        metrics.ece([0.5, 1.5], [1, 0])
    with pytest.raises(ValueError, match="alike"):
        metrics.ece([0.5], [1, 0])
    with pytest.raises(ValueError, match="'middle'"):
        metrics.ece([0.5], [1], closed="middle")
    with pytest.raises(ValueError):
        metrics.ece([math.nan], [1])
    assert math.isnan(metrics.ece([], []))


# Sentiment ------------------------------------------------------------------------------------------------------------


def test_pearson_against_numpy_and_of_a_constant():
    x, y = RANDOM.normal(size=30), RANDOM.normal(size=30)
    assert metrics.pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    assert metrics.pearson(np.ones(5), np.arange(5)) == 0.0


def test_seven_classes_clip_and_round_halves_to_even():
    assert metrics.acc7([0.5, 1.5, 2.5, -0.5, 9.0, -9.0], [0, 2, 2, 0, 3, -3]) == 1.0
    assert metrics.acc7([0.51], [0]) == 0.0


def test_conventions_of_the_sign_differ_where_there_are_zeros():
    prediction, target = [0.0, -1.0, 1.0, 0.0], [0.0, 0.0, 2.0, -1.0]
    found = {name: metrics.acc2(prediction, target, name) for name in ("positive_vs_rest", "nonzero", "nonneg")}
    assert found == {"positive_vs_rest": 1.0, "nonzero": 1.0, "nonneg": 0.5}
    assert math.isnan(metrics.acc2([1.0], [0.0], "nonzero"))
    with pytest.raises(ValueError, match="convention 'sign'"):
        metrics.acc2([1.0], [1.0], "sign")


def test_sentiment_holds_each_convention():
    prediction, target = RANDOM.normal(size=40), RANDOM.normal(size=40).round()
    found = metrics.sentiment(prediction, target)
    assert found["f1_nonneg"] == pytest.approx(
        reference.f1_score(target >= 0, prediction >= 0, average="weighted"), abs=1e-12
    )
    kept = target != 0
    assert found["f1_nonzero"] == pytest.approx(
        reference.f1_score(target[kept] > 0, prediction[kept] > 0, average="weighted"), abs=1e-12
    )
    assert set(found) == {"pearson", "acc7"} | {
        f"{one}_{name}" for one in ("acc2", "f1") for name in ("positive_vs_rest", "nonzero", "nonneg")
    }
