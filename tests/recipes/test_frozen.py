"""Recipes `frozen_features` and `linear_eval`: encoders stay as they are and run once a sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from polymodal import InputError
from polymodal.config import Part
from polymodal.data.synthetic import ArrayLoader, d4
from polymodal.encoders import MLP
from polymodal.evaluate import evaluate
from polymodal.recipes import frozen_features, linear_eval, ume
from polymodal.recipes.frozen import features_of
from polymodal.types import Batch
from tests.builders import difference
from tests.recipes.setups import make_setup, stages


def test_a_classifier_on_frozen_features(tmp_path: Path) -> None:
    setup = make_setup(tmp_path, dropout=0.1)
    setup.config.train.epochs = 20
    result = frozen_features(setup)
    assert stages(tmp_path) == ["frozen_features", "unimodal_x1", "unimodal_x2"]
    for m, one in result.unimodal.items():
        assert difference(result.model.encoders[m].state_dict(), one.encoders[m].state_dict()) == 0
    assert not result.model.heads
    assert setup.evaluate(result.model).metrics["accuracy"] > 0.3
    assert list((tmp_path / "features").rglob("*.safetensors"))
    again = make_setup(dropout=0.1)
    again.config.train.epochs = 20
    for m, one in ume(again).unimodal.items():
        assert difference(one.state_dict(), result.unimodal[m].state_dict()) == 0
    resumed = frozen_features(make_setup(tmp_path, dropout=0.1))
    assert difference(resumed.model.state_dict(), result.model.state_dict()) == 0


def test_a_classifier_on_features_of_encoders_as_they_come(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    fresh = {m: setup.make_encoder(m) for m in setup.modalities}  # from another seed than the recipe's
    result = frozen_features(setup, fine_tune=False)
    assert stages(tmp_path) == ["frozen_features"]
    assert not result.unimodal
    linear = linear_eval(make_setup(), of="pretrained").unimodal
    for m, encoder in result.model.encoders.items():
        assert difference(encoder.state_dict(), linear[m].encoders[m].state_dict()) == 0
        assert difference(encoder.state_dict(), fresh[m].state_dict()) > 0
    with pytest.raises(InputError, match="leaves out the phase that checkpoints are of"):
        frozen_features(make_setup(), fine_tune=False, checkpoints={"x1": "somewhere"})


@pytest.mark.parametrize(("fusion", "kept"), [("transformer", True), ("concat", False)])
def test_a_fusion_of_tokens_trains_on_tokens(fusion: str, kept: bool, tmp_path: Path) -> None:
    """What it trains on is what it is evaluated on: the cache keeps tokens for the fusions that read them, and for no other."""
    setup = make_setup(tmp_path)
    pairs = d4(96, 0)
    setup.train, setup.valid = ArrayLoader(pairs, 32, shuffle=True), ArrayLoader(pairs, 96)
    setup.make_encoder = lambda m: MLP(16, dim=8)
    setup.config.fusion = Part(name=fusion)
    setup.config.train.epochs = 1
    result = frozen_features(setup, fine_tune=False)
    stored = [load_file(one) for one in (tmp_path / "features").rglob("*.safetensors")]
    assert stored
    assert all(("tokens" in one) == kept for one in stored)
    cached = setup.cached(dict(result.model.encoders.items()), tokens=setup.modalities if kept else ())[1]
    assert cached is not None
    raw, found = setup.evaluate(result.model).probabilities, evaluate(result.model, cached, setup.task).probabilities
    np.testing.assert_allclose(found, raw, atol=1e-6)


@pytest.mark.parametrize("of", ["pretrained", "unimodal"])
def test_linear_evaluation(of: str, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    setup.config = type(setup.config).model_validate(
        {
            **setup.config.model_dump(),
            "stages": {"linear_x1": {"train": {"epochs": 3}}, "linear_x2": {"train": {"epochs": 4}}},
        }
    )
    result = linear_eval(setup, of=of)  # type: ignore[arg-type]
    assert {"linear_x1", "linear_x2"} <= set(stages(tmp_path))
    assert [len(setup.finished[f"linear_{m}"][1].rows) for m in ("x1", "x2")] == [3, 4]
    assert result.chosen in setup.modalities
    expected = ume(make_setup()).unimodal if of == "unimodal" else None
    for m, model in result.unimodal.items():
        encoder = model.encoders[m]
        assert not any(p.requires_grad for p in encoder.parameters())
        if expected:
            assert difference(encoder.state_dict(), expected[m].encoders[m].state_dict()) == 0
    assert setup.valid is not None
    batch: Batch = next(iter(setup.valid))
    chosen = str(result.chosen)
    assert result.model({chosen: batch.inputs[chosen]}).logits.shape == (64, 8)


def test_unknown_encoders() -> None:
    with pytest.raises(InputError, match="of='joint'"):
        linear_eval(make_setup(), of="joint")  # type: ignore[arg-type]


def test_looking_at_features_leaves_the_mode_of_every_part() -> None:
    encoder = MLP(8, dim=8, dropout=0.5).train()
    encoder.net.eval()  # as a frozen BatchNorm is kept
    before = [part.training for part in encoder.modules()]
    features_of(encoder, next(iter(make_setup().train)), "x1")
    assert [part.training for part in encoder.modules()] == before
