"""Synthetic sets: their Bayes accuracies, their definitions, and batches that repeat."""

from __future__ import annotations

import pytest
import torch

from polymodal.data.synthetic import (
    D1A,
    D1B,
    D3,
    ArrayLoader,
    Arrays,
    bayes_d1,
    bayes_d2,
    bayes_d4,
    d1,
    d2,
    d4,
)
from polymodal.errors import InputError

SAMPLES = 100_000  # the posterior's mean has a standard error below .001


@pytest.mark.parametrize(
    ("found", "published"),
    [
        (lambda: bayes_d1(SAMPLES, 0, e1=D1A["e1"], e2=D1A["e2"]), (0.704, 0.955, 0.985)),
        (lambda: bayes_d1(SAMPLES, 0, e1=D1B["e1"], e2=D1B["e2"]), (0.828, 0.954, 0.991)),
        (lambda: bayes_d2(SAMPLES, 0), (0.598, 0.600, 0.957)),
    ],
    ids=["d1a", "d1b", "d2"],
)
def test_bayes_accuracies(found, published):
    assert list(found().values()) == pytest.approx(published, abs=0.003)


def test_d4_needs_the_pair():
    found = bayes_d4(20_000, 0)
    assert found["x1"] == found["x2"] == pytest.approx(1 / 6)
    assert found["both"] > 0.95


def test_bayes_is_what_the_best_rule_reaches():
    """The nearest one-hot vector, and the products of signs, decide D1 as well as the exact posterior."""
    data = d1(50_000, 3, e1=0.3, e2=0.05, nuisance=0)
    bayes = bayes_d1(50_000, 4, e1=0.3, e2=0.05)
    nearest = data.inputs["x1"].argmax(1)
    bits = (data.inputs["x2"][:, :3] * data.inputs["x2"][:, 3:] > 0).long()
    products = (bits * torch.tensor([1, 2, 4])).sum(1)
    reached = [float((one == data.target).float().mean()) for one in (nearest, products)]
    assert reached == pytest.approx([bayes["x1"], bayes["x2"]], abs=0.008)


@pytest.mark.parametrize("settings", [D1A, D1B, D3])
def test_shapes_of_d1(settings):
    data = d1(seed=0, **settings)
    assert data.inputs["x1"].shape == (settings["n"], 8)
    assert data.inputs["x2"].shape == (settings["n"], 6 + settings["nuisance"])
    assert sorted(data.target.unique().tolist()) == list(range(8))
    assert all(x.dtype == torch.float32 for x in data.inputs.values())


def test_erased_samples_are_all_zero():
    data = d1(20_000, 0, e1=0.3, e2=0.05, nuisance=10)
    shares = [float((data.inputs[m] == 0).all(1).float().mean()) for m in ("x1", "x2")]
    assert shares == pytest.approx([0.3, 0.05], abs=0.01)


def test_flagged_samples_of_d2_tell_by_the_pair():
    data = d2(20_000, 0)
    x1, x2 = data.inputs["x1"], data.inputs["x2"]
    flag = x1[:, 4] == 1
    assert float(flag.float().mean()) == pytest.approx(0.4, abs=0.01)
    assert torch.equal(flag, x2[:, 4] == 1)
    codes = (x1[:, :4].argmax(1) + x2[:, :4].argmax(1)) % 4
    assert float((codes == data.target)[flag].float().mean()) > 0.9
    assert float((x1[:, :4].argmax(1) == data.target)[flag].float().mean()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    "make", [lambda s: d1(20, s, e1=0.1, e2=0.1, nuisance=3), lambda s: d2(20, s), lambda s: d4(20, s)]
)
def test_pure_function_of_the_seed(make):
    one, same, other = make(5), make(5), make(6)
    assert all(torch.equal(one.inputs[m], same.inputs[m]) for m in one.inputs)
    assert not torch.equal(one.inputs["x1"], other.inputs["x1"])


def test_refuses_senseless_settings():
    with pytest.raises(InputError, match="n=0"):
        d1(0, 0, e1=0, e2=0, nuisance=0)
    with pytest.raises(InputError, match="lies in"):
        d2(10, 0, e1=1.5)


# Batches --------------------------------------------------------------------------------------------------------------


def loader(count: int = 10, *, shuffle: bool = False, seed: int = 0) -> ArrayLoader:
    data = Arrays({"m0": torch.arange(float(count))[:, None]}, torch.arange(count))
    return ArrayLoader(data, 4, shuffle=shuffle, seed=seed)


def order(loader: ArrayLoader) -> list[list[int]]:
    batches = list(loader)
    assert all(torch.equal(b.inputs["m0"][:, 0].long(), b.target) for b in batches)
    return [batch.target.tolist() for batch in batches]


def test_evaluation_order():
    assert order(loader()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(loader()) == 3


def test_rest_of_one_joins_the_batch_before():
    assert [len(batch) for batch in order(loader(9))] == [4, 5]


def test_training_order_is_a_function_of_seed_and_epoch():
    one, other = loader(shuffle=True, seed=1), loader(shuffle=True, seed=2)
    first = order(one)
    one.set_epoch(1)
    second = order(one)
    one.set_epoch(0)
    assert order(one) == first
    assert second != first != order(other)
    assert sorted(place for batch in second for place in batch) == list(range(10))


def test_skip_acts_once():
    one = loader(shuffle=True)
    whole = order(one)
    one.skip(2)
    assert order(one) == whole[2:]
    assert order(one) == whole
