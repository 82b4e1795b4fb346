"""The predictor on pandas frames: the same as the command line, in Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import polymodal as pm
from tests.cli import tables

MODALITIES = ["a=a1,a2:numeric", "b=b1,b2:numeric"]


def frame(**changes: Any) -> pd.DataFrame:
    return pd.DataFrame(tables.number_rows()).assign(**changes)


def predictor(**settings: Any) -> pm.Predictor:
    usual: dict[str, Any] = {"epochs": 2, "batch_size": 16, "device": "cpu"}
    return pm.Predictor(label="label", modalities=MODALITIES, show=False, **usual | settings)


@pytest.fixture(scope="module")
def trained() -> pm.Predictor:
    return predictor(balancer="mlb", epochs=8).fit(frame())


def test_predictions(trained: pm.Predictor) -> None:
    new = frame().drop(columns=["label", "split"])
    probabilities = trained.predict_proba(new)
    assert list(probabilities.columns) == list(tables.CLASSES)
    assert list(probabilities.index) == [f"{i:04d}" for i in range(60)]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert trained.predict(new) == list(probabilities.idxmax(axis=1))
    assert list(trained.prediction_table(new)["id"]) == list(probabilities.index)


def test_features(trained: pm.Predictor) -> None:
    found = trained.features(frame().head(5))
    assert {m: one.shape for m, one in found.items()} == {"a": (5, 64), "b": (5, 64)}
    assert found["a"].dtype == np.float64


def test_evaluate(trained: pm.Predictor) -> None:
    found = trained.evaluate(frame(), "test")
    assert found["samples"] == 6
    assert found["loss"] == pytest.approx(trained.metrics["test"]["loss"])
    with pytest.raises(pm.InputError, match="trained on a frame"):
        trained.evaluate()


def test_save_and_load(trained: pm.Predictor, tmp_path: Path) -> None:
    trained.save(tmp_path / "saved")
    loaded = pm.Predictor.load(tmp_path / "saved")
    assert loaded.metrics == trained.metrics
    pd.testing.assert_frame_equal(loaded.predict_proba(frame()), trained.predict_proba(frame()))
    with pytest.raises(pm.InputError, match="not empty"):
        trained.save(tmp_path / "saved")


def test_a_frame_and_its_file_give_the_same_model(trained: pm.Predictor, tmp_path: Path) -> None:
    other = predictor(balancer="mlb", epochs=8, out=tmp_path / "run").fit(tables.numbers(tmp_path))
    assert other.metrics == trained.metrics
    assert other.evaluate()["loss"] == pytest.approx(trained.metrics["test"]["loss"])


def test_frames_are_not_changed() -> None:
    given = frame()
    before = given.copy()
    predictor(epochs=1).fit(given)
    pd.testing.assert_frame_equal(given, before)


def test_a_fold_is_judged_in_the_place_of_the_test_part(tmp_path: Path) -> None:
    rows = frame()
    held: set[str] = set()
    for number in (1, 2):
        one = predictor(overrides=[f"data.fold=[{number}, 2]"], out=tmp_path / f"{number}")
        one.fit(tables.numbers(tmp_path))
        told = pd.read_csv(tmp_path / f"{number}" / "predictions" / "test.csv", dtype=str)
        held |= set(told["id"])
        loaded = pm.Predictor.load(tmp_path / f"{number}", show=False)
        assert loaded.evaluate()["samples"] == len(told)
        assert loaded.evaluate()["loss"] == pytest.approx(one.metrics["test"]["loss"])
        assert loaded.evaluate(rows, "test")["samples"] == 6, "of another table its own test part"
    known = {f"{i:04d}" for i, part in enumerate(rows["split"]) if part != "test"}
    assert held < known
    assert len(held) == len(known) - len(tables.CLASSES), "one sample of each class always trains"


def test_validation_frame() -> None:
    rows = frame().drop(columns="split")
    found = predictor().fit(rows.iloc[:44], rows.iloc[44:].reset_index(drop=True))
    assert "test" not in found.metrics
    assert found.metrics["valid"]["accuracy"] <= 1


def test_plan_trains_nothing() -> None:
    one = predictor(balancer="mlb")
    plan = one.plan(frame())
    assert plan["splits"] == {"train": 48, "valid": 6, "test": 6}
    assert plan["balancer"]["name"] == "mlb"
    with pytest.raises(pm.InputError, match="not trained"):
        one.predict(frame())
    with pytest.raises(pm.InputError, match=r"recipe.conbine"):
        predictor(recipe={"name": "ume", "conbine": "x"}).plan(frame())


def test_missing_modality_cells() -> None:
    import json

    rows = tables.number_rows()
    given = pd.DataFrame(
        {
            "a": [None if i % 5 == 0 else [r["a1"], r["a2"]] for i, r in enumerate(rows)],
            "b": [[r["b1"], r["b2"]] for r in rows],
            "label": [r["label"] for r in rows],
            "split": [r["split"] for r in rows],
        }
    )
    one = pm.Predictor(label="label", epochs=2, balancer="mlb", show=False, device="cpu").fit(given)
    assert set(one.metrics["unimodal"]["test"]) == {"a", "b"}
    assert np.isfinite(one.predict_proba(given)).all().all()
    json.dumps(one.metrics, allow_nan=False)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"epohcs": 3}, "'epochs'|epohcs"),
        ({"metric": "acuracy"}, "'accuracy'"),
        ({"encoders": {"c": "mlp"}}, "no such modality"),
        ({"time_limit": 3}, "time_limit"),
    ],
)
def test_unknown_settings(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(pm.InputError, match=expected):
        predictor(**settings).fit(frame())


def test_label_or_config() -> None:
    from polymodal.config import load_config

    with pytest.raises(pm.InputError, match="label"):
        pm.Predictor()
    with pytest.raises(pm.InputError, match="either a config"):
        pm.Predictor(label="x", config=load_config({"label": "y"}))


def test_errors_of_a_recipe_are_not_taken_for_bad_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr("polymodal.recipes.base.fit", broken)
    with pytest.raises(TypeError, match="a bug"):
        predictor().fit(frame())


def test_damaged_run_is_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    predictor(out=run).fit(frame())
    other = tmp_path / "other"
    predictor(out=other, encoders={"a": {"name": "mlp", "dim": 8}}).fit(frame())
    (run / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(pm.InputError, match="does not fit the model"):
        pm.Predictor.load(run)
