"""Recipe `umt`: teachers first, then a student of fresh encoders."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch

from polymodal import InputError
from polymodal.recipes import umt
from polymodal.types import Batch
from tests.builders import difference
from tests.recipes.setups import make_setup, stages


def distance(setup, result):
    """Mean distance of the student's features to the teachers'."""
    batch: Batch = next(iter(setup.valid))
    total = 0.0
    with torch.no_grad():
        for m, teacher in result.unimodal.items():
            found, wanted = (
                one.eval()(batch.inputs[m]).pooled for one in (result.model.encoders[m], teacher.encoders[m])
            )
            total += float((found - wanted).square().mean())
    return total


def test_students_start_fresh_and_imitate_teachers_that_stay_as_they_are():
    near, far = make_setup(), make_setup()
    strong, free = umt(near, weight=100.0), umt(far, weight=0.0)
    assert distance(near, strong) < 0.5 * distance(far, free)
    for m in near.modalities:
        taught = strong.unimodal[m].encoders[m]
        assert difference(taught.state_dict(), free.unimodal[m].encoders[m].state_dict()) == 0
        assert difference(taught.state_dict(), strong.model.encoders[m].state_dict()) > 0.01
        assert any(p.requires_grad for p in taught.parameters()), "only the copies inside the balancer are frozen"
    assert set(strong.best_epoch) == {"unimodal_x1", "unimodal_x2", "umt"}
    assert not strong.model.heads


def test_resumes_with_the_teachers_of_the_finished_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = umt(make_setup(dropout=0.2))
    with monkeypatch.context() as patch:
        patch.setattr(import_module("polymodal.recipes.umt"), "train_jointly", None)
        with pytest.raises(TypeError):
            umt(make_setup(tmp_path, dropout=0.2))
    assert stages(tmp_path) == ["unimodal_x1", "unimodal_x2"]
    resumed = umt(make_setup(tmp_path, dropout=0.2))
    assert difference(whole.model.state_dict(), resumed.model.state_dict()) == 0


def test_a_wrong_weight_costs_no_training(tmp_path: Path):
    with pytest.raises(InputError, match="weight=-1"):
        umt(make_setup(tmp_path), weight=-1.0)
    assert stages(tmp_path) == []
