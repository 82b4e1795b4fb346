"""Recipe `joint`."""

from pathlib import Path

import pytest

from polymodal.balancers import MLB, Balancer
from polymodal.fit import History
from polymodal.recipes import joint
from polymodal.run import RunFolder
from tests.builders import difference, weights
from tests.recipes.small_setup import make_setup


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_modalities_and_any_task(count: int, task: str) -> None:
    setup = make_setup(count, task)
    result = joint(setup)
    assert set(result.model.heads) == set(setup.modalities)
    assert list(result.best_epoch) == ["joint"]
    rows = setup.finished["joint"][1].rows
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_heads_only_where_something_trains_them() -> None:
    assert not joint(make_setup(balancer=Balancer)).model.heads
    assert joint(make_setup(balancer=MLB)).model.heads
    assert joint(make_setup(balancer=Balancer, overrides=("fusion=mixture",))).model.heads


def test_same_seed_same_weights_and_another_not() -> None:
    one, two, other = (weights(joint(make_setup(overrides=(f"seed={seed}",))).model) for seed in (1, 1, 2))
    assert difference(one, two) == 0
    assert difference(one, other) > 0


def test_a_finished_stage_is_read_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "run")
    first = joint(make_setup(run=run))
    monkeypatch.setattr("polymodal.recipes.base.fit", None)
    setup = make_setup(run=run)
    again = joint(setup)
    assert again.best_epoch == first.best_epoch
    assert difference(weights(again.model), weights(first.model)) == 0
    assert setup.seconds["joint"] > 0
    assert not (run.path / "stages" / "joint" / "checkpoint").exists()


def test_it_begins_with_what_another_run_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = joint(make_setup(run=RunFolder(tmp_path / "first")))
    monkeypatch.setattr("polymodal.recipes.base.fit", lambda *_, **__: History([], 0, {}))
    begun = joint(make_setup(overrides=("seed=1",)), tmp_path / "first" / "stages" / "joint").model
    afresh = joint(make_setup(overrides=("seed=1",))).model
    for m in begun.encoders:
        assert difference(weights(begun.encoders[m]), weights(first.model.encoders[m])) == 0
        assert difference(weights(begun.encoders[m]), weights(afresh.encoders[m])) > 0
    assert difference(weights(begun.fusion), weights(afresh.fusion)) == 0
