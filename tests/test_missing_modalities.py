"""Rows that lack a modality, through the predictor: every fusion trains, predicts and evaluates on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polymodal import Predictor
from polymodal.errors import InputError
from polymodal.names import entries
from tests.cli.run import same

FUSIONS = sorted(entries("fusion", bases=("Fusion",)))
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 8, "device": "cpu", "show": False}
VECTORS = ["a=a:vector", "b=b:vector"]


def frame(count: int = 48, lacking: bool = True) -> pd.DataFrame:
    """Two vectors that both tell the class; of every eight rows the second lacks a and the fifth lacks b."""
    rng = np.random.default_rng(0)
    label = np.arange(count) // 2 % 2
    vectors = {m: (label[:, None] * 2 - 1 + rng.normal(0, 0.7, (count, 3))).tolist() for m in ("a", "b")}
    if lacking:
        for m, first in (("a", 1), ("b", 4)):
            vectors[m][first::8] = [None] * len(vectors[m][first::8])
    parts = ["train", "train", "valid", "train", "train", "train", "test", "train"] * (count // 8)
    return pd.DataFrame({**vectors, "label": np.where(label, "yes", "no"), "split": parts})


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_trains_and_predicts(fusion: str) -> None:
    table = frame()
    predictor = Predictor(label="label", modalities=VECTORS, fusion=fusion, modality_dropout=0.3, **QUICK).fit(table)
    plain = predictor.predict_proba(table)
    assert np.isfinite(plain.to_numpy()).all()
    # A row's prediction depends on its own cells alone, and one without b is the same whatever other rows have.
    alone = table.copy()
    alone["b"] = None
    found = predictor.predict_proba(alone).to_numpy()
    np.testing.assert_allclose(found[4::8], plain.to_numpy()[4::8], atol=1e-5)
    if fusion != "film":  # the first conditions: without it the second passes, without the second nothing is left
        assert not np.allclose(found[0], plain.to_numpy()[0])
    rows = predictor.evaluate_subsets(table).set_index("modalities")
    assert list(rows.index) == ["a", "b", "a+b"]
    assert list(rows["samples"]) == [42, 42, 48]
    for kept, dropped in (("a", "b"), ("b", "a")):
        figures = predictor.evaluate(table, drop=[dropped])
        assert (figures["samples"], figures["dropped"], set(figures["unimodal"])) == (42, [dropped], {kept})
        assert figures["accuracy"] == rows["accuracy"][kept]
        assert figures["loss"] == pytest.approx(rows["loss"][kept])


def test_dropout_keeps_a_model_from_leaning_on_one_modality() -> None:
    """Both tell the class, a the better: plain training leaves b, which alone is nearly as good, unused."""
    rng = np.random.default_rng(1)
    label = np.arange(400) % 2
    a, b = ((label[:, None] * 2 - 1) * size + rng.normal(0, 0.3, (400, 2)) for size in (6.0, 0.5))
    table = pd.DataFrame({"a": a.tolist(), "b": b.tolist(), "label": label})
    settings = QUICK | {"epochs": 5, "task": "classification", "modalities": VECTORS}
    # Not standardised, so that a's larger numbers lead.
    plain, losing = (
        Predictor(label="label", overrides=["data.inputs.a.standardize=false"], modality_dropout=p, **settings).fit(
            table
        )
        for p in (0.0, 0.5)
    )
    assert losing.evaluate(table, drop=["a"])["accuracy"] > 0.9
    assert losing.evaluate(table, drop=["a"])["loss"] < 0.7 * plain.evaluate(table, drop=["a"])["loss"]


def test_a_stage_of_one_modality_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    settings = QUICK | {"modalities": VECTORS, "recipe": "ume"}
    plain, losing = (Predictor(label="label", modality_dropout=p, **settings).fit(frame()) for p in (0.0, 0.9))
    assert plain.metrics == losing.metrics
    assert "took no part: recipe 'ume' trains no model of several modalities" in caplog.text


def test_a_stopped_run_goes_on_with_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.parquet"
    frame().to_parquet(path)
    settings = QUICK | {"modalities": VECTORS, "epochs": 3, "modality_dropout": 0.5, "balancer": "mlb"}
    settings["overrides"] = ["train.checkpoint_every=1"]
    Predictor(label="label", out=tmp_path / "whole", **settings).fit(path)

    from polymodal.loop import Loop

    steps: list[int] = []
    count = Loop.count

    def stop(self: Loop) -> None:
        count(self)
        steps.append(self.done)
        if len(steps) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "count", stop)
    with pytest.raises(KeyboardInterrupt):
        Predictor(label="label", out=tmp_path / "cut", **settings).fit(path)
    monkeypatch.undo()
    Predictor(label="label", out=tmp_path / "cut", **settings).fit(path, resume=True)
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_what_cannot_be_dropped() -> None:
    table = frame()
    fused = Predictor(label="label", modalities=VECTORS, **QUICK).fit(table)
    for drop, message in (
        (["audio"], "drop 'audio': no such modality \\(it has a, b\\)"),
        (["a", "b"], "without all of a, b the model has nothing to predict from"),
    ):
        with pytest.raises(InputError, match=message):
            fused.evaluate(table, drop=drop)
    lonely = table[table["a"].isna()]
    with pytest.raises(InputError, match="without b no row has any modality"):
        fused.evaluate(lonely, drop=["b"])
    single = Predictor(label="label", modalities=VECTORS, recipe="unimodal", **QUICK).fit(table)
    (used,) = single.model_.modalities if single.model_ else ()
    other = {"a": "b", "b": "a"}[used]
    with pytest.raises(InputError, match=f"drop '{other}': the model does not use it \\(it has {used}\\)"):
        single.evaluate(table, drop=[other])
    with pytest.raises(InputError, match=f"its only modality, {used},"):
        single.evaluate(table, drop=[used])
    with pytest.raises(InputError, match=f"the model has one modality, '{used}'"):
        single.evaluate_subsets(table)


def test_dropout_that_makes_no_sense() -> None:
    for share in (1.0, -0.5, 3):
        with pytest.raises(InputError, match=r"train\.modality_dropout"):
            Predictor(label="label", modality_dropout=share)
    with pytest.raises(InputError, match=r"modality_dropout=0\.2: there is one modality, 'a'"):
        Predictor(label="label", modalities=VECTORS[:1], modality_dropout=0.2, **QUICK).fit(frame())
