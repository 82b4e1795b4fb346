"""Recipe `gblend`: its weights come from runs of each head alone, and its loss follows them."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from polymodal import InputError
from polymodal.evaluate import evaluate
from polymodal.recipes import gblend, joint, ume
from polymodal.recipes.base import Only
from polymodal.recipes.gblend import Blend, gblend_weights
from tests.builders import difference, make_model
from tests.properties import assert_close, backward, exact
from tests.recipes.setups import make_setup, stages

MODULE = import_module("polymodal.recipes.gblend")  # the package's attribute of that name is the recipe


def weights_in(setup, stage="gblend"):
    """What the history says of each epoch's weights."""
    rows = setup.finished[stage][1].rows
    return [exact([row["coefficients"][k] for k in ("x1", "x2", "fused")]) for row in rows]


def test_offline_weights_are_those_of_separate_runs():
    setup, other = make_setup(), make_setup()
    result = gblend(setup)
    ends = {m: one for m, one in ume(other).unimodal.items()} | {"fused": joint(other).model}
    losses = []
    for name, stage in (("x1", "unimodal_x1"), ("x2", "unimodal_x2"), ("fused", "joint")):
        other.seed(stage)
        fused = name == "fused"
        start = other.model(other.modalities, {"name": "concat"}, heads=False) if fused else other.unimodal_model(name)
        for model in (start, ends[name]):
            for loader in (other.train, other.valid or other.train):
                losses.append(evaluate(model, Only(loader, model.modalities), other.task).metrics["loss"])
    expected = gblend_weights(*exact(losses).view(3, 4).T)
    for found in weights_in(setup):
        assert_close(found, expected, 1e-6)
    assert_close(expected.sum(), 1.0)
    assert set(result.model.heads) == set(result.unimodal) == {"x1", "x2"}
    assert set(result.best_epoch) == {"unimodal_x1", "unimodal_x2", "joint", "gblend"}


def test_online_estimates_every_super_epoch_from_copies_and_disturbs_nothing(monkeypatch: pytest.MonkeyPatch):
    setup = make_setup(dropout=0.2)
    setup.config.train.epochs = 3
    gblend(setup, mode="online", super_epoch=2)
    found = weights_in(setup)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])
    names = {f"gblend_{number}_{k}" for number in (0, 1) for k in ("x1", "x2", "fused")}
    assert set(setup.finished) == names | {"gblend"}
    assert len(setup.finished["gblend_0_x1"][1].rows) == 2
    assert len(setup.finished["gblend_1_x1"][1].rows) == 1
    rates = [setup.finished[f"gblend_{number}_fused"][1].rows[0]["lr"] for number in (0, 1)]
    assert rates[0] == pytest.approx(0.01)
    assert 0 < rates[1] < 0.5 * rates[0]

    # The same weights from nowhere: what the estimates leave behind is nothing but them.
    given = make_setup(dropout=0.2)
    given.config.train.epochs = 3
    monkeypatch.setattr(MODULE, "_estimate", lambda setup, builds: found[2 * ("_1_" in builds["x1"][0])])
    gblend(given, mode="online", super_epoch=2)
    assert difference(setup.finished["gblend"][0].state_dict(), given.finished["gblend"][0].state_dict()) < 1e-6


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_killed_and_resumed(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = gblend(make_setup(dropout=0.2), mode, super_epoch=1)
    calls = []

    def die(self, step, run=torch.Tensor.backward):
        calls.append(1)
        if len(calls) == 5:  # within the second of two epochs
            raise KeyboardInterrupt
        return super(Blend, self).backward(step, run)

    with monkeypatch.context() as patch:
        patch.setattr(Blend, "backward", die, raising=False)
        with pytest.raises(KeyboardInterrupt):
            gblend(make_setup(tmp_path, dropout=0.2), mode, super_epoch=1)
    assert "gblend" not in stages(tmp_path)
    resumed = gblend(make_setup(tmp_path, dropout=0.2), mode, super_epoch=1)
    assert difference(whole.model.state_dict(), resumed.model.state_dict()) == 0


def test_loss_is_the_weighted_sum():
    weights = exact([0.5, 0.2, 0.3])
    step, loss = backward(Blend(["m0", "m1"], weights), make_model())
    expected = 0.5 * step.unimodal_loss("m0") + 0.2 * step.unimodal_loss("m1") + 0.3 * step.fused_loss()
    assert_close(loss, expected.detach(), 1e-6)


def test_nothing_learned_gives_equal_weights_and_a_fused_head_that_overfits_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(MODULE, "_losses", lambda *_: [1.0, 1.0])
    setup = make_setup()
    gblend(setup)
    assert_close(weights_in(setup)[0], [1 / 3] * 3, 1e-6)
    series = iter([[2.0, 2.0], [1.0, 1.5], [2.0, 2.0], [1.0, 1.5], [2.0, 2.0], [1.0, 3.0]])
    monkeypatch.setattr(MODULE, "_losses", lambda *_: next(series))
    with caplog.at_level(logging.WARNING, "polymodal"):
        gblend(make_setup())
    assert "fused head did not generalise" in caplog.text


@pytest.mark.parametrize(
    ("options", "match"), [({"mode": "on"}, "mode='on'"), ({"mode": "online", "super_epoch": 0}, "super_epoch=0")]
)
def test_wrong_settings_cost_no_training(options, match, tmp_path: Path):
    with pytest.raises(InputError, match=match):
        gblend(make_setup(tmp_path), **options)
    with pytest.raises(InputError, match="validation split"):
        gblend(make_setup(tmp_path, valid=False))
    with pytest.raises(InputError, match="'fused'"):
        gblend(replace(make_setup(tmp_path), modalities=("x1", "fused")))
    assert stages(tmp_path) == []
