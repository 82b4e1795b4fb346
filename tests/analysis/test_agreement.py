"""The agreement matrix against a loop, and what it refuses."""

# mypy: disable-error-code="arg-type"

import numpy as np
import pytest

from polymodal.analysis.agreement import agreement, agreement_matrix
from polymodal.errors import InputError
from polymodal.evaluate import Evaluation
from polymodal.tasks import Classification, MultiLabel, Regression


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_equals_a_loop(count):
    rng = np.random.default_rng(count)
    unimodal = {f"m{i}": rng.integers(0, 2, 60) for i in range(count)}
    fused = rng.integers(0, 2, 60).astype(bool)
    found = agreement_matrix(unimodal, fused)
    for group in range(2**count):
        wanted = [bool(group >> i & 1) for i in range(count)]
        here = [n for n in range(60) if [bool(one[n]) for one in unimodal.values()] == wanted]
        right = sum(bool(fused[n]) for n in here)
        assert found.counts[group].tolist() == [len(here) - right, right]
        assert found.percent[group].tolist() == pytest.approx([100 * (len(here) - right) / 60, 100 * right / 60])
        if here:
            assert found.rate[group] == pytest.approx(right / len(here))


def test_groups_are_named_in_the_order_of_the_rows():
    found = agreement_matrix({"a": [1, 0, 0, 1], "v": [0, 1, 0, 1]}, [1, 0, 0, 1])
    assert found.groups == ["none right", "only a right", "only v right", "all right"]
    assert agreement_matrix({m: [1] for m in "abc"}, [1]).groups[5] == "only a and c right"


def test_an_empty_group_has_no_rate():
    found = agreement_matrix({"a": [1, 1]}, [1, 0])
    assert np.isnan(found.rate[0])
    assert found.to_dict()["rate"] == [None, 0.5]


@pytest.mark.parametrize("fused", [[1, 0], [1, 0, 2], [[1], [0], [1]]])
def test_refuses_arrays_that_do_not_fit(fused):
    with pytest.raises(InputError, match="right answers of shape"):
        agreement_matrix({"a": [1, 0, 1]}, fused)


def test_refuses_no_models():
    with pytest.raises(InputError, match="one uni-modal model"):
        agreement_matrix({}, [1])


def evaluation(predicted, target, ids=("0", "1", "2")):
    return Evaluation(list(ids), np.eye(3)[predicted], np.array(target), {}, {}, {})


def test_of_evaluated_models():
    fused, own = evaluation([0, 1, 2], [0, 1, 1]), {"a": evaluation([0, 0, 0], [0, 1, 1])}
    assert agreement(own, fused, Classification(3)).counts.tolist() == [[1, 1], [0, 1]]


def test_all_labels_of_a_sample_must_be_right():
    target = np.array([[1, 0], [1, 1]])
    fused = Evaluation(["0", "1"], np.array([[0.9, 0.1], [0.9, 0.1]]), target, {}, {}, {})
    assert agreement({"a": fused}, fused, MultiLabel(2)).counts.tolist() == [[1, 0], [0, 1]]


def test_refuses_other_samples_other_targets_and_regression():
    fused = evaluation([0, 1, 2], [0, 1, 1])
    with pytest.raises(InputError, match="other samples"):
        agreement({"a": evaluation([0, 1, 2], [0, 1, 1], ids=("0", "2", "1"))}, fused, Classification(3))
    with pytest.raises(InputError, match="other targets"):
        agreement({"a": evaluation([0, 1, 2], [0, 1, 2])}, fused, Classification(3))
    with pytest.raises(InputError, match="regression"):
        agreement({"a": fused}, fused, Regression())
