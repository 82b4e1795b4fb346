"""The collapse guard: it speaks of D3, once, and not of runs where a modality is merely slow."""

# mypy: disable-error-code="arg-type"

import logging
import math

import pytest
import torch

from polymodal.balancers import MLB, OGM, OGM_GE, Joint, MultiLoss
from polymodal.balancers.collapse import PATIENCE, Bound, chance_score, collapse_notes
from polymodal.data.synthetic import D1B, D3, ArrayLoader, d1
from polymodal.encoders import MLP, linear_heads
from polymodal.fit import fit
from polymodal.fusion import Concat
from polymodal.model import MultimodalModel
from polymodal.tasks import Classification, MultiLabel, Regression

UP, DOWN = Bound(10.0, "beta_max", "beta_max"), Bound(0.5, "1 - tanh(alpha)", "alpha")


def row(score, coefficient):
    return {"scores": {"a": 0.7, "v": score}, "coefficients": {"a": 0.8, "v": coefficient}}


def notes(rows, chance=0.125):
    """What is said after each epoch."""
    return [collapse_notes(rows[: end + 1], [DOWN, UP], chance) for end in range(len(rows))]


def test_says_it_once_and_only_when_both_hold_long_enough():
    dead = row(0.126, 9.8)
    said = notes([row(0.4, 3.0), *[dead] * 6])
    assert [len(one) for one in said] == [0, 0, 0, 1, 0, 0, 0]
    assert "'v'" in said[3][0]
    assert "beta_max=10 for 3 epochs; lower balancer.beta_max" in said[3][0]
    again = [*[dead] * 3, row(0.4, 3.0), *[dead] * 4]
    assert sum(len(one) for one in notes(again)) == 1
    assert not any(notes([dead, dead, row(0.126, 5.0), dead, dead]))
    assert not any(notes([row(0.3, 9.8)] * 5))
    assert not any(notes([row(0.126, 1.0)] * 5))
    assert not any(notes([{"scores": {}, "coefficients": {}}] * 5))
    assert not any(notes([dead] * 5, chance=None))
    assert PATIENCE == 3


def test_the_lower_bound_counts_too():
    assert "1 - tanh(alpha)=0.5" in notes([row(0.126, 0.51)] * 3)[-1][0]


@pytest.mark.parametrize(("bound", "coefficient", "reached"), [
    (10.0, 9.6, True), (10.0, 9.4, False), (10.0, 0.5, False), (0.5, 0.52, True), (0.5, 0.6, False), (0.5, 2.0, False),
    (1.0, 1.0, False), (1.0, 5.0, False),
])  # fmt: skip
def test_bound(bound, coefficient, reached):
    assert Bound(bound, "", "").reached(coefficient) == reached


def test_balancers_tell_their_bounds():
    assert [one.value for one in MLB(0.5, 10).bounds()] == [1 - math.tanh(0.5), 10]
    assert MLB(0.5, None).bounds()[1].value == 2
    for make in (OGM, OGM_GE):
        assert [one.value for one in make(0.3).bounds()] == [1 - math.tanh(0.3)]
    assert Joint().bounds() == MultiLoss().bounds() == ()
    extremes = MLB(0.5, 10).coefficients({"a": torch.tensor(1e-6), "v": torch.tensor(1.0)}, Classification(8))
    for k, bound in zip(extremes.values(), reversed(MLB(0.5, 10).bounds()), strict=True):
        assert bound.reached(float(k))


def test_chance():
    heads = MLB().score
    assert chance_score(Classification(8), heads) == 0.125
    assert chance_score(Classification(8), None) is None
    assert chance_score(Classification(8), MLB(score=lambda step: {}).score) is None
    assert chance_score(MultiLabel(3), heads) is None
    assert chance_score(Regression(), heads) is None


def train(settings, lr, epochs, caplog, beta_max=10.0, batch=50):
    data = d1(**settings, seed=0)
    torch.manual_seed(0)
    encoders = {m: MLP(x.shape[1], dim=32, hidden=[64, 64]) for m, x in data.inputs.items()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 32), 8), linear_heads(encoders, 8))
    balancer = MLB(alpha=0.5, beta_max=beta_max)
    optimizer = torch.optim.SGD(model.param_groups(lr, balancer.scope), momentum=0.9)
    with caplog.at_level(logging.WARNING, "polymodal"):
        fit(
            model,
            ArrayLoader(data, batch, shuffle=True),
            None,
            task=Classification(8),
            epochs=epochs,
            balancer=balancer,
            optimizer=optimizer,
            schedule="constant",
            device="cpu",
            show=False,
        )
    return [record.getMessage() for record in caplog.records]


def test_fit_says_it_of_d3(caplog):
    said = train(D3, 0.1, 12, caplog)
    assert len(said) == 1
    assert "modality 'x2'" in said[0]
    assert "beta_max=10" in said[0]
    assert "learning rate" in said[0]


def test_fit_is_silent_where_a_modality_is_merely_slow(caplog):
    assert train({**D1B, "n": 800}, 0.03, 12, caplog) == []
