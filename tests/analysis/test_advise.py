"""Advice before training: what is told of data whose structure is known, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from polymodal import InputError
from polymodal.analysis.advise import CANDIDATES, advise
from polymodal.config import laid, load_config
from polymodal.data.synthetic import ArrayLoader, Arrays, d2
from polymodal.names import resolve
from polymodal.recipes.base import Setup
from polymodal.tasks import Classification
from tests.cli import tables
from tests.cli.run import answer, fails
from tests.recipes.setups import make_setup


def pairs(count: int, seed: int) -> Arrays:
    """Two signs of which only the product tells the class."""
    import numpy as np
    import torch

    random = np.random.default_rng(seed)
    signs = random.choice([-1.0, 1.0], (count, 2))
    inputs = {
        m: torch.from_numpy(np.c_[signs[:, i], 0.1 * random.standard_normal((count, 3))]).float()
        for i, m in enumerate(("x1", "x2"))
    }
    target = torch.from_numpy((signs.prod(1) > 0).astype(np.int64))
    return d2(1, 0)._replace(inputs=inputs, target=target)


def of_pairs(setup: Setup) -> Setup:
    from polymodal.encoders import MLP

    return replace(
        setup,
        task=Classification(2),
        config=load_config({"label": "y", "train": {"epochs": 30, "device": "cpu"}, "optimizer": {"lr": 0.01}}),
        train=ArrayLoader(pairs(256, 0), 32, shuffle=True),
        valid=ArrayLoader(pairs(128, 1), 128),
        make_encoder=lambda m: MLP(4, dim=8, hidden=[16]),
    )


def test_where_validation_cannot_tell_the_first_in_order_is_advised() -> None:
    found = advise(make_setup())
    assert list(found.rows) == list(CANDIDATES)
    assert found.chosen in ("multi_loss", "unimodal", "ume_logit", "ume_prob", "frozen_features")
    best = max(row["accuracy"] for row in found.rows.values())
    row = found.rows[found.chosen]
    assert row["accuracy"] >= best - row["se_of_difference"] - 1e-9
    assert set(found.alone) == {"x1", "x2"}
    assert f"Try: {CANDIDATES[found.chosen].options}" in found.text()


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, "multi_loss"),
        ({"preset": "tiny"}, "multi_loss"),
        ({"encoders": {"image": "image_cnn"}}, "multi_loss"),
        ({"preset": "small"}, "unimodal"),
        ({"encoders": {"image": "image_cnn", "text": "minilm_l6"}}, "unimodal"),
        ({"encoders": {"image": {"name": "vit", "weights": "vit.safetensors"}}}, "unimodal"),
    ],
)
def test_equals_are_decided_by_where_encoders_begin(
    settings: dict[str, Any], first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every candidate is as good as the others.
    alike = {name: replace(one, train=CANDIDATES["unimodal"].train) for name, one in CANDIDATES.items()}
    monkeypatch.setattr("polymodal.analysis.advise.CANDIDATES", alike)
    setup = make_setup()
    config = load_config(laid(setup.config.model_dump(exclude={"encoders", "preset"}), settings))
    assert advise(replace(setup, config=config)).chosen == first


def test_classes_that_only_a_pair_tells() -> None:
    found = advise(of_pairs(make_setup()))
    assert max(found.alone.values()) < 0.7
    assert found.rows["frozen_features"]["accuracy"] < 0.75
    assert found.chosen in ("frozen_mlp", "wander", "mlp_multi_loss")
    assert found.rows[found.chosen]["accuracy"] > 0.9


def test_encoders_that_throw_away_alone_what_counts_together(monkeypatch: pytest.MonkeyPatch) -> None:
    from polymodal.encoders import MLP

    some = ("ume_logit", "frozen_mlp", "mlp_multi_loss")
    monkeypatch.setattr("polymodal.analysis.advise.CANDIDATES", {name: CANDIDATES[name] for name in some})
    found = advise(
        replace(
            of_pairs(make_setup()),
            task=Classification(4),
            train=ArrayLoader(d2(600, 1), 32, shuffle=True),
            valid=ArrayLoader(d2(200, 2), 200),
            make_encoder=lambda m: MLP(5, dim=8, hidden=[32]),
        )
    )
    assert found.chosen == "mlp_multi_loss"
    assert found.rows["frozen_mlp"]["accuracy"] < 0.8
    assert found.rows["mlp_multi_loss"]["accuracy"] > 0.85
    assert "Try: --recipe joint --fusion mlp --balancer multi_loss" in found.text()


def test_what_is_advised_is_what_was_compared() -> None:
    setup = make_setup()
    told = advise(setup).rows
    alone = {stage: one for stage, one in setup.finished.items() if stage.startswith("unimodal")}
    for name in CANDIDATES:
        config = load_config(laid(setup.config.model_dump(), CANDIDATES[name].settings))
        balancer = resolve("balancers", config.balancer.name)
        own = replace(
            setup, config=config, finished=dict(alone), make_balancer=balancer
        )  # two have a stage of one name
        recipe = resolve("recipes", config.recipe.name)
        found = setup.evaluate(recipe(own, **config.recipe.arguments).model)
        assert found.metrics["loss"] == pytest.approx(told[name]["loss"]), name


def test_uni_modal_models_are_trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    whole = Setup.fit

    def counted(self: Setup, stage: str, *others: Any, **more: Any) -> Any:
        if self.stage_name(stage) not in self.finished:
            trained.append(stage)
        return whole(self, stage, *others, **more)

    monkeypatch.setattr(Setup, "fit", counted)
    advise(make_setup())
    assert sorted(trained) == [
        "frozen_features", "frozen_features", "joint", "joint", "unimodal_x1", "unimodal_x2", "wander",
    ]  # fmt: skip


def test_what_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="validation split"):
        advise(make_setup(valid=False))
    with pytest.raises(InputError, match="one modality, 'x1'"):
        advise(make_setup(modalities=["x1"]))


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
        "train.device=cpu",
        "data.workers=0",
    )
    assert found["chosen"] in CANDIDATES
    assert found["metric"] == "accuracy"
    assert sorted(path.name for path in tmp_path.iterdir()) == [table.name], "nothing is written"
    assert "name the label column" in fails(capsys, "diagnose", table)
    assert json.dumps(found)
