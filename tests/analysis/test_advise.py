"""Advice before training: what is told of data whose structure is known, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polymodal import InputError, Predictor
from polymodal.analysis.advise import CANDIDATES, Judged, advise, decide
from polymodal.config import laid, load_config
from polymodal.data.synthetic import ArrayLoader, Arrays, d1, d2
from polymodal.errors import Diverged
from polymodal.evaluate import evaluate
from polymodal.names import resolve
from polymodal.recipes.base import Only, Setup
from polymodal.tasks import Classification
from tests.cli import tables
from tests.cli.run import answer, fails
from tests.recipes.setups import make_setup


def pairs(count: int, seed: int) -> Arrays:
    """Two signs of which only the product tells the class."""
    import torch

    random = np.random.default_rng(seed)
    signs = random.choice([-1.0, 1.0], (count, 2))
    inputs = {
        m: torch.from_numpy(np.c_[signs[:, i], 0.1 * random.standard_normal((count, 3))]).float()
        for i, m in enumerate(("x1", "x2"))
    }
    target = torch.from_numpy((signs.prod(1) > 0).astype(np.int64))
    return d2(1, 0)._replace(inputs=inputs, target=target)


def of_pairs() -> tuple[Setup, ArrayLoader]:
    from polymodal.encoders import MLP

    setup = replace(
        make_setup(),
        task=Classification(2),
        config=load_config({"label": "y", "train": {"epochs": 30, "device": "cpu"}, "optimizer": {"lr": 0.01}}),
        train=ArrayLoader(pairs(256, 0), 32, shuffle=True),
        valid=ArrayLoader(pairs(128, 1), 128),
        make_encoder=lambda m: MLP(4, dim=8, hidden=[16]),
    )
    return setup, ArrayLoader(pairs(128, 2), 128)


def held_out(count: int = 64, seed: int = 2) -> ArrayLoader:
    """Samples like those of `make_setup` that it does not have."""
    return ArrayLoader(d1(count, seed, e1=0.3, e2=0.05, nuisance=2), 64)


def test_what_is_best_over_all_held_out_samples_is_advised() -> None:
    rounds = [(make_setup(), held_out(64, 2)), (make_setup(), held_out(48, 3))]
    found = advise(rounds)
    assert list(found.rows) == list(CANDIDATES)
    assert found.samples == 112
    assert found.rows[found.chosen]["accuracy"] == max(row["accuracy"] for row in found.rows.values())
    apart = [advise([one]) for one in rounds]
    for name, row in found.rows.items():
        first, second = (one.rows[name]["accuracy"] for one in apart)
        assert row["accuracy"] == pytest.approx((64 * first + 48 * second) / 112)
    best, row = found.rows[found.chosen], found.rows[found.simplest]
    assert row["accuracy"] >= best["accuracy"] - row["se_of_difference"] - 1e-9
    assert set(found.alone) == {"x1", "x2"}
    assert f"Try: {CANDIDATES[found.chosen].options}" in found.text()


def said(right: dict[str, list[int]], classes: int = 2) -> Judged:
    """What candidates said that are right in some of ten samples."""
    target = np.zeros(10, dtype=np.int64)
    found = {name: np.eye(classes)[np.where(np.isin(range(10), one), 0, 1)] * 0.8 + 0.1 for name, one in right.items()}
    return Judged(Classification(classes), "accuracy", target, {"x1": found["unimodal"]}, found)


def test_a_simpler_one_is_named_where_it_is_as_good() -> None:
    most = list(range(8))
    found = decide([said({"unimodal": most, "multi_loss": [*most, 8], "mlb": [0]})])
    assert (found.chosen, found.simplest) == ("multi_loss", "unimodal")
    assert "Simpler, and as good as far as these samples tell: --recipe unimodal" in found.text()
    found = decide([said({"unimodal": [0, 1], "multi_loss": most, "mlb": [0]})])
    assert (found.chosen, found.simplest) == ("multi_loss", "multi_loss")
    assert "Simpler" not in found.text()


def test_a_candidate_that_fails_in_one_fold_is_left_out() -> None:
    found = decide([said({"unimodal": [0], "mlb": [0, 1]}), said({"unimodal": [0]})])
    assert list(found.rows) == ["unimodal"]
    assert found.samples == 20


def test_a_candidate_that_diverges_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverges(setup: Setup) -> Any:
        raise Diverged("no number")

    some = {"unimodal": CANDIDATES["unimodal"], "mlb": replace(CANDIDATES["mlb"], train=diverges)}
    monkeypatch.setattr("polymodal.analysis.advise.CANDIDATES", some)
    assert list(advise([(make_setup(), held_out())]).rows) == ["unimodal"]


def test_folds_end_once_enough_has_been_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polymodal.analysis.advise.CANDIDATES", {"unimodal": CANDIDATES["unimodal"]})
    monkeypatch.setattr("polymodal.analysis.advise.ENOUGH", 100)
    asked: list[int] = []

    def rounds() -> Iterator[tuple[Setup, ArrayLoader]]:
        for number in range(5):
            asked.append(number)
            yield make_setup(), held_out(60, number)

    assert advise(rounds()).samples == 120
    assert asked == [0, 1]


def test_classes_that_only_a_pair_tells() -> None:
    found = advise([of_pairs()])
    assert max(found.alone.values()) < 0.7
    assert found.rows["frozen_features"]["accuracy"] < 0.75
    assert found.chosen in ("frozen_mlp", "wander", "mlp_multi_loss")
    assert found.rows[found.chosen]["accuracy"] > 0.9


def test_encoders_that_throw_away_alone_what_counts_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from polymodal.encoders import MLP

    some = ("ume_logit", "frozen_mlp", "mlp_multi_loss")
    monkeypatch.setattr("polymodal.analysis.advise.CANDIDATES", {name: CANDIDATES[name] for name in some})
    setup = replace(
        of_pairs()[0],
        task=Classification(4),
        train=ArrayLoader(d2(600, 1), 32, shuffle=True),
        valid=ArrayLoader(d2(200, 2), 200),
        make_encoder=lambda m: MLP(5, dim=8, hidden=[32]),
    )
    found = advise([(setup, ArrayLoader(d2(200, 3), 200))])
    assert found.chosen == "mlp_multi_loss"
    assert found.rows["frozen_mlp"]["accuracy"] < 0.8
    assert found.rows["mlp_multi_loss"]["accuracy"] > 0.85
    assert "Try: --recipe joint --fusion mlp --balancer multi_loss" in found.text()


def test_what_is_advised_is_what_was_compared() -> None:
    setup, apart = make_setup(), held_out()
    told = advise([(setup, apart)]).rows
    alone = {stage: one for stage, one in setup.finished.items() if stage.startswith("unimodal")}
    for name in CANDIDATES:
        config = load_config(laid(setup.config.model_dump(), CANDIDATES[name].settings))
        balancer = partial(resolve("balancers", config.balancer.name), **config.balancer.arguments)
        # Two have a stage of one name.
        own = replace(setup, config=config, finished=dict(alone), make_balancer=balancer)
        recipe = resolve("recipes", config.recipe.name)
        model = recipe(own, **config.recipe.arguments).model
        found = evaluate(model, Only(apart, model.modalities), setup.task)
        assert found.metrics["loss"] == pytest.approx(told[name]["loss"]), name


def test_uni_modal_models_are_trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    whole = Setup.fit

    def counted(self: Setup, stage: str, *others: Any, **more: Any) -> Any:
        if self.stage_name(stage) not in self.finished:
            trained.append(stage)
        return whole(self, stage, *others, **more)

    monkeypatch.setattr(Setup, "fit", counted)
    advise([(make_setup(), held_out())])
    assert sorted(trained) == [
        "frozen_features", "frozen_features", "joint", "joint", "joint", "unimodal_x1", "unimodal_x2", "wander",
    ]  # fmt: skip


def test_what_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="no fold to train and judge on"):
        advise([])
    with pytest.raises(InputError, match="validation split"):
        advise([(make_setup(valid=False), held_out())])
    with pytest.raises(InputError, match="one modality, 'x1'"):
        advise([(make_setup(modalities=["x1"]), held_out())])


def test_rounds_of_a_table_hold_out_each_row_once_and_keep_the_test_rows_out() -> None:
    rows = pd.DataFrame(tables.number_rows())
    predictor = Predictor(label="label", modalities=[*tables.NUMBERS[1::2]], show=False)
    seen: list[str] = []
    for setup, apart in predictor.rounds(rows, folds=3):
        ids = [str(one) for batch in apart for one in batch.ids or []]
        learnt = [
            str(one) for loader in (setup.train, setup.valid) for batch in loader or [] for one in batch.ids or []
        ]
        assert len({*ids, *learnt}) == len(ids) + len(learnt)
        assert {*ids, *learnt} == {*rows["id"][rows["split"] != "test"]}
        seen += ids
    assert len(seen) == len(set(seen)) == (rows["split"] != "test").sum() - 3, "one of each class is never held out"


def test_rounds_with_a_table_for_validation() -> None:
    rows = pd.DataFrame(tables.number_rows()).drop(columns="split")
    first, second = rows[:48].reset_index(drop=True), rows[48:].reset_index(drop=True)
    predictor = Predictor(label="label", modalities=[*tables.NUMBERS[1::2]], show=False)
    for setup, apart in predictor.rounds(first, second, folds=2):
        assert [one for batch in setup.valid or [] for one in batch.ids or []] == [*second["id"]]
        assert {one for batch in apart for one in batch.ids or []} < {*first["id"]}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tables.numbers(tmp_path)
    found = answer(
        capsys,
        "diagnose",
        table,
        "--label",
        "label",
        *tables.NUMBERS,
        "--epochs",
        "2",
        "--folds",
        "2",
        "train.device=cpu",
        "data.workers=0",
    )
    assert found["chosen"] in CANDIDATES
    assert found["metric"] == "accuracy"
    rows = [row for row in tables.number_rows() if row["split"] != "test"]
    assert found["samples"] == len(rows) - len({row["label"] for row in rows}), "one of each class is never held out"
    assert sorted(path.name for path in tmp_path.iterdir()) == [table.name], "nothing is written"
    assert "name the label column" in fails(capsys, "diagnose", table)
    told = fails(capsys, "diagnose", table, "--label", "label", *tables.NUMBERS, "--folds", "1")
    assert "folds=1: at least two are needed" in told
    assert json.dumps(found)
