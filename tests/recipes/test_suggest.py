"""The advice of Du et al. on sets where the answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from polymodal import InputError
from polymodal.data.synthetic import ArrayLoader, Arrays, d2
from polymodal.encoders import MLP
from polymodal.recipes import ume
from polymodal.recipes.suggest import Advice, suggest_ume_or_umt
from polymodal.tasks import Classification
from tests.recipes.setups import make_setup


def test_figures_are_those_of_validation_and_stages_are_shared(tmp_path: Path):
    setup = make_setup(tmp_path)
    advice = suggest_ume_or_umt(setup)
    average = ume(setup).model
    assert advice.ume == setup.evaluate(average).metrics["accuracy"]
    assert advice.metric == "accuracy"
    assert advice.gain == advice.linear - advice.ume
    assert advice.samples == 64
    assert 0 <= advice.standard_error < 0.2
    assert advice.recipe == ("umt" if advice.gain > 0 else "ume")
    assert set(setup.finished) == {"unimodal_x1", "unimodal_x2", "frozen_concat"}
    assert suggest_ume_or_umt(make_setup(tmp_path)) == advice


def test_encoders_stay_as_they_are_and_run_once():
    setup = make_setup(dropout=0.5)
    setup.config.train.epochs = 3
    suggest_ume_or_umt(setup)
    linear = setup.finished["frozen_concat"][0]
    for m in setup.modalities:
        trained = setup.finished[f"unimodal_{m}"][0].encoders[m].state_dict()
        assert all(torch.equal(value, linear.encoders[m].state_dict()[name]) for name, value in trained.items())
        assert all(p.requires_grad for p in setup.finished[f"unimodal_{m}"][0].encoders[m].parameters())


def test_two_blind_modalities_outvote_one_that_knows_unless_a_linear_head_weighs_them():
    target = (torch.arange(100) % 5 == 0).long()
    blind = torch.ones(100, 2)
    data = Arrays({"x1": torch.nn.functional.one_hot(target).float(), "x2": blind, "x3": blind}, target)
    setup = replace(
        make_setup(),
        modalities=("x1", "x2", "x3"),
        task=Classification(2),
        train=ArrayLoader(data, 20, shuffle=True),
        valid=ArrayLoader(data, 100),
        make_encoder=lambda m: MLP(2, dim=8, hidden=[16]),
    )
    setup.config.train.epochs = 10
    advice = suggest_ume_or_umt(setup)
    assert (advice.ume, advice.linear, advice.recipe, advice.certain) == (0.8, 1.0, "umt", True)
    assert advice.standard_error == pytest.approx(0.0402, abs=1e-4)
    assert "'umt'" in str(advice)
    assert "either" in str(Advice("ume", "accuracy", 0.9, 0.9, 0.0, 0.01, 100))


def test_missing_modalities_take_no_part():
    data = d2(64, 0)
    setup = make_setup()
    batches = []
    for batch in ArrayLoader(data, 32):
        batches.append(batch._replace(present={"x2": torch.arange(len(batch.target)) % 2 == 0}))

    class Given(list):
        def set_epoch(self, epoch):
            """Always the same order."""

    setup = replace(
        setup, task=Classification(4), train=Given(batches), valid=Given(batches),
        make_encoder=lambda m: MLP(5, dim=8, hidden=[8]),
    )  # fmt: skip
    assert suggest_ume_or_umt(setup).samples == 64


def test_needs_validation_and_two_modalities():
    with pytest.raises(InputError, match="validation split"):
        suggest_ume_or_umt(make_setup(valid=False))
    with pytest.raises(InputError, match="two modalities"):
        suggest_ume_or_umt(make_setup(modalities=("x1",)))
