"""Recipes `mmlora` and `full_ume`: from the uni-modal phase, by averaged probabilities, to an ordinary model."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from polymodal import InputError
from polymodal.adapters.lora import lora_adapters
from polymodal.balancers import MultiLoss
from polymodal.config import load_config
from polymodal.recipes import full_ume, mmlora, ume
from polymodal.recipes.base import Setup
from tests.builders import difference
from tests.recipes.setups import make_setup, stages


def with_settings(setup: Setup, alone: int = 2, **stage: Any) -> Setup:
    """Settings of the joint stage, and epochs of the uni-modal ones."""
    stages = {"mmlora": stage, "unimodal_*": {"train": {"epochs": alone}}}
    setup.config = load_config({**setup.config.model_dump(), "stages": stages})
    return setup


def test_it_starts_at_the_ensemble_and_ends_as_an_ordinary_model(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    result = mmlora(setup, rank=2, keep="adapted")
    plain = ume(make_setup()).model
    assert list(result.model.state_dict()) == list(plain.state_dict())
    assert not any(lora_adapters(encoder) for encoder in result.model.encoders.values())
    for m in setup.modalities:
        changed = difference(result.model.encoders[m].state_dict(), result.unimodal[m].encoders[m].state_dict())
        assert changed > 1e-4, "adapted"
        assert difference(result.model.heads[m].state_dict(), result.unimodal[m].heads[m].state_dict()) == 0
    assert stages(tmp_path) == ["mmlora", "unimodal_x1", "unimodal_x2"]
    assert set(result.best_epoch) == {"mmlora", "unimodal_x1", "unimodal_x2"}


def test_the_first_evaluation_is_that_of_the_ensemble_and_the_better_is_kept(tmp_path: Path) -> None:
    good = mmlora(make_setup(tmp_path / "good"))
    told = json.loads((tmp_path / "good" / "mmlora.json").read_text())
    assert told["start"] == pytest.approx(told["ume"], abs=1e-6)
    again = make_setup()
    assert told["ume"] == pytest.approx(again.evaluate(ume(again).model).metrics, abs=1e-6)
    assert good.chosen == told["kept"]
    wild = with_settings(make_setup(tmp_path / "wild"), alone=10, optimizer={"name": "sgd", "lr": 30.0})
    bad = mmlora(wild, rank=4)
    assert bad.chosen == "ume"
    assert difference(bad.model.state_dict(), ume(with_settings(make_setup(), alone=10)).model.state_dict()) == 0
    assert json.loads((tmp_path / "wild" / "mmlora.json").read_text())["kept"] == "ume"
    same = with_settings(make_setup(), alone=10, optimizer={"name": "sgd", "lr": 30.0})
    assert mmlora(same, rank=4, keep="adapted").chosen is None


def test_one_step_is_that_of_the_papers_loss() -> None:
    """By hand: the gradient of -log mean_m P_m(y) through rank-1 factors, one step of SGD on one batch."""
    settings: dict[str, Any] = {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}}
    setup = with_settings(make_setup(), **settings, train={"epochs": 1, "schedule": "constant"})
    loader: Any = setup.train
    loader.data = loader.data._replace(
        inputs={m: x[:32] for m, x in loader.data.inputs.items()}, target=loader.data.target[:32]
    )
    setup.train = type(loader)(loader.data, 32)
    result = mmlora(setup, modalities=["x1"], targets="net.0", keep="adapted")
    alone = result.unimodal
    encoder: Any = alone["x1"].encoders["x1"].eval()
    layer = encoder.net[0]
    # B is zero at first, so only B moves in the first step, along the gradient of the whole weight times A^T.
    x, target = loader.data.inputs, loader.data.target
    weight = layer.weight.detach().clone().requires_grad_(True)
    logits = {"x1": alone["x1"].heads["x1"](encoder.net[1:](F.linear(x["x1"], weight, layer.bias)))}
    logits["x2"] = alone["x2"].eval()({"x2": x["x2"]}).unimodal["x2"].detach()
    p = torch.stack([one.softmax(-1)[torch.arange(32), target] for one in logits.values()]).mean(0)
    (-p.log().mean()).backward()
    adapted: Any = result.model.encoders["x1"]
    moved = adapted.net[0].weight.detach() - layer.weight.detach()
    # -lr G A^T A: rows of the change are combinations of the one row of A, and its projection is that of the gradient.
    a = torch.linalg.svd(moved)[2][0]
    coefficient = -(weight.grad @ a)
    assert torch.linalg.matrix_rank(moved, atol=1e-6) == 1
    found = moved @ a
    torch.testing.assert_close(found / found.norm(), coefficient / coefficient.norm(), atol=1e-4, rtol=0)


def test_modalities_that_are_not_adapted_come_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = make_setup()
    result = mmlora(setup, modalities=["x1"], keep="adapted")
    x2 = result.unimodal["x2"]
    calls: list[int] = []
    again = mmlora(setup, modalities=["x1"], keep="adapted")
    x2.encoders["x2"].register_forward_hook(lambda *_: calls.append(1))
    setup.finished.pop("mmlora")
    third = mmlora(setup, modalities=["x1"], keep="adapted")
    assert (
        len(calls) <= 4 + 2
    )  # two loaders through the cache, and the ensemble's validation; not once an epoch and batch
    for one in (again, third):
        assert difference(one.model.state_dict(), result.model.state_dict()) == 0
        assert difference(one.model.encoders["x2"].state_dict(), x2.encoders["x2"].state_dict()) == 0


def test_resumes_after_the_uni_modal_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mmlora(make_setup(dropout=0.2), keep="adapted")
    with monkeypatch.context() as patch:
        patch.setattr(import_module("polymodal.recipes.mmlora"), "evaluate", None)
        with pytest.raises(TypeError):
            mmlora(make_setup(tmp_path, dropout=0.2), keep="adapted")
    assert stages(tmp_path) == ["unimodal_x1", "unimodal_x2"]
    for _ in range(2):  # the second time every stage is finished
        resumed = mmlora(make_setup(tmp_path, dropout=0.2), keep="adapted")
        assert difference(whole.model.state_dict(), resumed.model.state_dict()) == 0


def test_from_checkpoints(tmp_path: Path) -> None:
    first = ume(make_setup(tmp_path / "first"))
    file = tmp_path / "first" / "stages" / "unimodal_x2" / "model.safetensors"
    setup = make_setup(tmp_path / "second")
    result = mmlora(setup, checkpoints={"x1": tmp_path / "first", "x2": file})
    assert stages(tmp_path / "second") == ["mmlora"]
    assert difference(result.unimodal["x2"].state_dict(), first.unimodal["x2"].state_dict()) == 0
    for path, expected in ((tmp_path / "none.safetensors", "no such file"), (file, "missing|expected")):
        with pytest.raises(InputError, match=expected):
            mmlora(make_setup(tmp_path / "third"), checkpoints={"x1": path, "x2": file})
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match="truncated"):
        mmlora(make_setup(tmp_path / "third"), checkpoints={"x2": file})
    assert stages(tmp_path / "third") == []


def test_without_the_uni_modal_phase_the_heads_train_too() -> None:
    setup = make_setup()
    result = mmlora(setup, fine_tune=False)
    fresh = setup.unimodal_model("x1")
    assert result.unimodal == {}
    assert set(result.best_epoch) == {"mmlora"}
    assert difference(result.model.heads["x1"].state_dict(), fresh.heads["x1"].state_dict()) > 0.01


def test_under_a_balancer() -> None:
    setup, plain = make_setup(), make_setup()
    setup.make_balancer = MultiLoss
    assert (
        difference(mmlora(setup, keep="adapted").model.state_dict(), mmlora(plain, keep="adapted").model.state_dict())
        > 1e-5
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"modalities": ["x3"]}, r"modalities \['x3'\]; name some of x1, x2"),
        ({"rank": 0}, "rank=0"),
        ({"rank": 9}, "rank"),
        ({"targets": "blocks"}, "blocks"),
        ({"keep": "best"}, "keep='best'"),
        ({"combine": "mean"}, "combine='mean'"),
        ({"fine_tune": False, "checkpoints": {"x1": "a"}}, "leaves out the phase"),
        ({"checkpoints": {"x4": "a"}}, r"checkpoints of \['x4'\]"),
    ],
)
def test_wrong_settings_cost_no_training(settings: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=expected):
        mmlora(make_setup(tmp_path), **settings)
    assert stages(tmp_path) == []


def test_full_fine_tuning_starts_from_the_uni_modal_models(tmp_path: Path) -> None:
    result = full_ume(make_setup(tmp_path))
    assert stages(tmp_path) == ["full_ume", "unimodal_x1", "unimodal_x2"]
    for m, one in result.unimodal.items():
        assert difference(result.model.heads[m].state_dict(), one.heads[m].state_dict()) > 1e-4
        assert difference(one.state_dict(), ume(make_setup()).unimodal[m].state_dict()) == 0
