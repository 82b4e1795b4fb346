"""Recipe `adapter`: any method by its name over frozen encoders; weights of another run to begin with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polymodal import InputError
from polymodal.adapters import Adapter
from polymodal.balancers import MultiLoss
from polymodal.encoders.base import State
from polymodal.recipes import adapter, ume, unimodal
from polymodal.recipes.transfer import take_over
from tests.builders import difference
from tests.recipes.sequences import make_setup
from tests.recipes.setups import make_setup as make_vectors
from tests.recipes.setups import stages

ALONE = ("train.epochs=1",)
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 1},
    "houlsby": {"down": 2},
    "ptuning": {"tokens": 2},
    "ptuning_v2": {"tokens": 2},
    "maple": {"depth": 2},
    "pmf": {"last": 1, "query": 1},
    "mbt": {"last": 2, "tokens": 1},
    "uniadapter": {"down": 2},
    "aurora": {"rank": 2},
    "wander": {"output": "per_modality", "down": 2, "rank_t": 1, "rank_h": 1},
}


@pytest.mark.parametrize("name", METHODS)
def test_each_method_trains_and_leaves_the_encoders_weights(name: str) -> None:
    setup = make_setup(overrides=ALONE)
    start = {}
    for m in setup.modalities:
        setup.seed(f"unimodal_{m}")
        start[m] = {key: value.clone() for key, value in setup.make_encoder(m).state_dict().items()}
    result = adapter(setup, {"name": name, **METHODS[name]}, fine_tune=False)
    assert result.unimodal == {}
    changed = set()
    for m, encoder in result.model.encoders.items():
        own = encoder.state_dict()
        changed |= {key for key, value in start[m].items() if not torch.equal(own[key], value)}
    if name == "lora":  # merged, into the projections to Q, K and V alone
        assert result.adapter is None
        assert {key.split(".", 2)[2] for key in changed} == {"self_attn.in_proj_weight"}
    elif name == "houlsby":
        assert {key.split(".")[2] for key in changed} == {"norm1", "norm2"}
    else:
        assert changed == set()
    if result.adapter is not None:
        assert result.adapter["part"]["name"] == name


def test_all_methods_of_the_package_are_tried() -> None:
    from polymodal.names import entries

    assert set(METHODS) == set(entries("adapters"))


def test_heads_go_on_from_the_uni_modal_phase() -> None:
    """At a rate of nothing LoRA under averaged logits is the ensemble."""
    over = ("fusion=mixture", "fusion.combine=logit", "stages.adapter.optimizer.lr=1e-30")
    setup = make_setup(overrides=over)
    result = adapter(setup, "lora")
    ensemble = ume(make_setup(overrides=over), combine="logit").model
    batch = next(iter(setup.valid or ()))
    with torch.no_grad():
        found, expected = (one.eval()(batch.inputs).logits for one in (result.model, ensemble))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_under_a_balancer_there_are_uni_modal_heads() -> None:
    setup = make_setup(overrides=ALONE)
    setup.make_balancer = MultiLoss
    assert set(adapter(setup, {"name": "pmf", "last": 1}).model.heads) == {"x1", "x2"}


def test_of_some_modalities_the_others_come_from_the_cache(tmp_path: Path) -> None:
    over = (*ALONE, f"data.feature_cache={tmp_path}")
    result = adapter(make_setup(overrides=over), {"name": "houlsby", "down": 2}, modalities=["x2"])
    assert hasattr(result.model.encoders["x2"], "houlsby")
    assert not hasattr(result.model.encoders["x1"], "houlsby")
    assert len(list(tmp_path.iterdir())) == 1, "features of one encoder"


class Shift(Adapter):
    """An adapter of somebody's own: adds a learned vector between the layers."""

    def __init__(self, dims: dict[str, int], last: int = 1, start: float = 0.5) -> None:
        super().__init__(last)
        self.shifts = nn.ParameterDict({m: torch.full((dim,), start) for m, dim in dims.items()})

    def between(self, index: int, states: dict[str, State]) -> dict[str, State]:
        return {m: state._replace(tokens=state.tokens + self.shifts[m]) for m, state in states.items()}


def test_an_adapter_of_ones_own_by_its_dotted_path() -> None:
    result = adapter(
        make_setup(overrides=ALONE), {"name": "tests.recipes.test_adapter.Shift", "last": 2, "start": 0.25}
    )
    assert isinstance(result.model.adapter, Shift)
    assert all(0 < (p.detach() - 0.25).abs().max() < 0.2 for p in result.model.adapter.shifts.values())


@pytest.mark.parametrize(
    ("options", "changes", "expected"),
    [
        ({"method": "houlsbi"}, {}, "adapter 'houlsbi' is unknown; did you mean 'houlsby'"),
        ({"method": "mlb"}, {}, "no adapter but a balancer: --balancer mlb"),
        ({"method": {"down": 3}}, {}, "name the method, for example recipe.method=houlsby"),
        ({"method": {"name": "houlsby", "dwon": 3}}, {}, "no such setting; did you mean 'down'"),
        ({"method": {"name": "houlsby", "encoder": 3}}, {}, "set by the library"),
        ({"method": {"name": "houlsby", "down": "wide"}}, {}, "down='wide'"),
        ({"method": "houlsby", "modalities": ["x3"]}, {}, r"modalities \['x3'\].*name some of x1, x2"),
        ({"method": "mbt", "modalities": ["x1"]}, {}, "acts on all encoders together"),
        ({"method": {"name": "maple", "depth": 9}}, {}, "depth=9 in encoders"),
        ({"method": "maple"}, {"shapes": {"x1": (8, 2)}}, r"MaPLe joins modalities and was given \['x1'\]"),
        ({"method": "pmf"}, {"shapes": {"x1": (8, 2)}}, r"PMF joins modalities and was given \['x1'\]"),
        ({"method": "mbt"}, {"shapes": {"x1": (8, 2)}}, r"MBT joins modalities and was given \['x1'\]"),
        ({"method": "wander"}, {"shapes": {"x1": (8, 2)}}, "needs at least two"),
        ({"method": "uniadapter"}, {"shapes": {"x1": (8, 2), "x2": (4, 2)}}, "UniAdapter: tokens of widths"),
        ({"method": "aurora"}, {"shapes": {"x1": (8, 2), "x2": (4, 2)}}, "Aurora: tokens of widths"),
        ({"method": "ptuning"}, {"shapes": {"x1": (8, 2)}, "start_from": {"x2": "a"}}, r"start_from of \['x2'\]"),
    ],
)
def test_wrong_settings_cost_no_training(
    options: dict[str, Any], changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    changes = dict(changes)
    start = {"start_from": changes.pop("start_from")} if "start_from" in changes else {}
    with pytest.raises(InputError, match=expected):
        adapter(make_setup(tmp_path, **changes), **options, **start)
    assert stages(tmp_path) == []


def test_encoders_without_layers_are_told(tmp_path: Path) -> None:
    for method, expected in (
        ("houlsby", "Houlsby in MLP: it has no layers"),
        ("pmf", "acts between layers; encoders of"),
    ):
        with pytest.raises(InputError, match=expected):
            adapter(make_vectors(tmp_path), method)
    assert stages(tmp_path) == []


# Weights of another run -------------------------------------------------------------------------------------------------


def test_it_begins_with_what_another_run_trained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pre-trained on vectors of width 16, adapted on some of width 12: all but the projection of the input agree."""
    unimodal(make_setup(tmp_path / "first"))
    source = {m: tmp_path / "first" / "stages" / f"unimodal_{m}" / "model.safetensors" for m in ("x1", "x2")}
    from safetensors.torch import load_file

    trained = {m: load_file(file) for m, file in source.items()}
    with caplog.at_level(logging.INFO, "polymodal"):
        result = adapter(
            make_setup(width=12, overrides=ALONE), {"name": "mbt", "last": 2}, fine_tune=False, start_from=source
        )
    told = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(told) == 2
    assert "modality 'x1': fresh are project.weight; left out of" in told[0]
    for m, encoder in result.model.encoders.items():
        for key, value in encoder.state_dict().items():
            if key != "project.weight":
                assert torch.equal(value, trained[m][f"encoders.{m}.{key}"]), key
        assert encoder.get_parameter("project.weight").requires_grad, "what nothing has trained, trains"
    whole = adapter(
        make_setup(tmp_path / "second", width=12), {"name": "mbt", "last": 2}, start_from=tmp_path / "first"
    )
    assert stages(tmp_path / "second") == ["adapter", "unimodal_x1", "unimodal_x2"]
    plain = adapter(make_setup(width=12), {"name": "mbt", "last": 2})
    assert difference(whole.unimodal["x1"].state_dict(), plain.unimodal["x1"].state_dict()) > 0.01


def test_a_run_without_the_encoders_is_told(tmp_path: Path) -> None:
    unimodal(make_setup(tmp_path / "first", shapes={"x1": (8, 2)}))
    with pytest.raises(InputError, match="there is no encoder of x2 in it"):
        adapter(
            make_setup(), "mbt", start_from={"x2": tmp_path / "first" / "stages" / "unimodal_x1" / "model.safetensors"}
        )
    with pytest.raises(InputError, match="no such file"):
        adapter(make_setup(), "mbt", start_from=tmp_path / "nowhere")
    with pytest.raises(InputError, match="not one tensor fits a Linear, which has weight"):
        take_over(nn.Linear(2, 2, bias=False), {"weight": torch.ones(3, 3)}, "a.pt")


def test_one_file_for_all_modalities_may_lack_some(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unimodal(make_setup(tmp_path, shapes={"x1": (8, 2)}))
    file = tmp_path / "stages" / "unimodal_x1" / "model.safetensors"
    with caplog.at_level(logging.WARNING, "polymodal"):
        adapter(make_setup(overrides=ALONE), {"name": "mbt", "last": 2}, start_from=file)
    assert "has no encoder of 'x2', which begins afresh" in caplog.text
