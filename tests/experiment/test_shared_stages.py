"""Uni-modal stages that runs of one folder have in common are trained once, and change no figure."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from polymodal.experiment.runs import measure
from polymodal.experiment.shared_stages import keep, lend, stages_key
from polymodal.run import RunFolder, load_weights
from tests.experiment.test_table import own_table


def settings(folder: Path, **changed: Any) -> dict[str, Any]:
    return {
        "label": "y", "table": str(folder / "own" / "table.csv"), "seed": 3,
        "data": {"modalities": ["a=x:numeric", "b=z:numeric"]}, "train": {"epochs": 2, "device": "cpu"},
    } | changed  # fmt: skip


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages in the order in which they are trained for real."""
    from polymodal.fit import fit

    stages: list[str] = []

    def noted(*args: Any, run: RunFolder, **options: Any) -> Any:
        stages.append(run.path.name)
        return fit(*args, run=run, **options)

    monkeypatch.setattr("polymodal.recipes.base.fit", noted)
    return stages


def same_run(one: Path, other: Path) -> bool:
    weights, others = (load_weights(run / "model.safetensors") for run in (one, other))
    return weights.keys() == others.keys() and all(value.equal(others[name]) for name, value in weights.items())


def test_runs_share_their_uni_modal_stages(tmp_path: Path, trained: list[str]) -> None:
    own_table(tmp_path, 24)
    values = {one: settings(tmp_path, recipe=one) for one in ("ume", "full_ume", "unimodal")}
    found = {one: measure(values[one], tmp_path / "runs" / one, show=False) for one in values}
    assert trained == ["unimodal_a", "unimodal_b", "full_ume"]
    for one in values:
        trained.clear()
        alone = measure(values[one], tmp_path / one / "runs" / one, show=False)
        assert trained[:2] == ["unimodal_a", "unimodal_b"]
        assert same_run(tmp_path / "runs" / one, tmp_path / one / "runs" / one)
        for part in ("valid", "test", "unimodal", "parameters", "trainable"):
            assert alone[part] == found[one][part]


def test_what_decides_the_stages(tmp_path: Path) -> None:
    own_table(tmp_path)
    key = stages_key(settings(tmp_path, recipe="ume"))
    same: list[dict[str, Any]] = [
        {"recipe": {"name": "mmlora", "rank": 4}, "balancer": "mlb", "stages": {"mmlora": {"train": {"epochs": 9}}}},
        {"recipe": "frozen_features", "fusion": "mlp"},
    ]
    for changed in same:
        assert stages_key(settings(tmp_path, **changed)) == key
    others: list[dict[str, Any]] = [
        {"seed": 4},
        {"optimizer": {"lr": 0.3}},
        {"stages": {"unimodal_*": {"train": {"epochs": 9}}}},
        {"encoders": {"a": {"name": "mlp", "hidden": [3]}}},
    ]
    found = {stages_key(settings(tmp_path, recipe="ume", **changed)) for changed in others}
    assert len(found) == len(others)
    assert key not in found
    weights = {"name": "wander", "checkpoints": {"a": "a.safetensors"}}
    before = {"name": "wander", "after": {"name": "mmlora", "checkpoints": {"a": "a.safetensors"}}}
    for recipe in (weights, before, {"name": "joint", "start_from": "a"}, "my_module.recipe"):
        assert stages_key(settings(tmp_path, recipe=recipe)) is None


def test_only_whole_stages_are_kept_and_lent(tmp_path: Path, trained: list[str]) -> None:
    own_table(tmp_path, 24)
    values = settings(tmp_path, recipe="ume")
    measure(values, tmp_path / "runs" / "first", show=False)
    store = tmp_path / "stages" / str(stages_key(values))
    assert sorted(one.name for one in store.iterdir()) == ["unimodal_a", "unimodal_b"]
    (store / "unimodal_b" / "done.json").unlink()  # as if it were another's that is not finished
    run = RunFolder(tmp_path / "runs" / "second")
    lend(store, run)
    assert [one.name for one in (run.path / "stages").iterdir()] == ["unimodal_a"]
    half = run.path / "stages" / ".unimodal_b.1-x.tmp"
    shutil.copytree(store / "unimodal_b", half)  # of one that was killed while it was lent a stage
    trained.clear()
    done = run.stage("unimodal_a").read_json("done.json")
    run.stage("unimodal_a").write_json("done.json", done | {"seconds": 1e4})
    assert measure(values, run.path, show=False)["seconds"] > 1e4, "a stage counts wherever it was trained"
    assert trained == ["unimodal_b"]
    assert not half.exists()
    keep(store, run)
    assert same_run(run.path, tmp_path / "runs" / "first")
