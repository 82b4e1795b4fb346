"""Recipe `wander`: the adapter behind or between frozen encoders, from cached tokens, resumed exactly."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from polymodal import InputError
from polymodal.adapters import JointHead, Wander
from polymodal.balancers import MLB, MultiLoss
from polymodal.data.features import FeatureCache
from polymodal.evaluate import unimodal_source
from polymodal.fit import fit
from polymodal.loop import Loop
from polymodal.model import MultimodalModel
from polymodal.optim import make_optimizer
from polymodal.recipes import joint, mmlora, wander
from polymodal.types import Batch, Features, Padded
from tests.builders import difference
from tests.recipes.sequences import make_setup
from tests.recipes.setups import make_setup as make_vectors
from tests.recipes.setups import stages

SMALL: dict[str, Any] = {"down": 3, "tokens": 2, "rank_t": 2, "rank_h": 2}
LAYERS: dict[str, Any] = {"down": 3, "rank_t": 2, "rank_h": 2, "output": "per_modality", "last": 2}


@pytest.mark.parametrize("options", [SMALL, LAYERS], ids=["behind", "between"])
def test_frozen_encoders_stay_bit_for_bit_and_the_rest_learns(options: dict[str, Any], tmp_path: Path) -> None:
    result = wander(make_setup(tmp_path), **options)
    assert stages(tmp_path) == ["unimodal_x1", "unimodal_x2", "wander"]
    for m, one in result.unimodal.items():
        assert difference(result.model.encoders[m].state_dict(), one.encoders[m].state_dict()) == 0
    trains = {name for name, p in result.model.named_parameters() if p.requires_grad}
    assert trains == {name for name, _ in result.model.named_parameters() if not name.startswith("encoders.")}
    adapter = result.model.adapter
    assert isinstance(adapter, Wander)
    assert all(p.abs().sum() > 0 for p in adapter.parameters()), "what began at zero has moved"


def test_the_trained_model_computes_the_papers_formula() -> None:
    """Logits by one einsum over the trained tensors, on what the uni-modal encoders yield."""
    setup = make_setup()
    result = wander(setup, **SMALL)
    batch = next(iter(setup.valid or ()))
    w = result.model.state_dict()
    fused, prefix = [], []
    for m in setup.modalities:
        h = result.unimodal[m].encoders[m].eval()(batch.inputs[m]).tokens
        narrow = F.gelu(h @ w[f"adapter.downs.0.layers.{m}.weight"].T + w[f"adapter.downs.0.layers.{m}.bias"])
        time, feature = (w[f"adapter.fusions.0.joint.{one}.{m}"] for one in ("w_t", "w_h"))
        fused.append(torch.einsum("rtl,nld,sod->rsnto", time, narrow, feature))
        prefix.append(h)
    joint = (fused[0] * fused[1]).sum((0, 1)) / 2 + torch.cat(prefix, 1)[:, :2]
    logits = joint[:, 0] @ w["fusion.layer.weight"].T + w["fusion.layer.bias"]
    torch.testing.assert_close(result.model.eval()(batch.inputs).logits, logits, atol=1e-5, rtol=1e-5)


def test_the_cache_changes_nothing_but_time() -> None:
    """The same model trained in an own loop on the inputs themselves."""
    setup = make_setup()
    result = wander(setup, **SMALL)
    frozen = {m: copy.deepcopy(one.encoders[m]).requires_grad_(False) for m, one in result.unimodal.items()}
    setup.seed("wander")
    adapter = Wander({"x1": 8, "x2": 8}, {"x1": 6, "x2": 8}, **SMALL)
    model = MultimodalModel(frozen, JointHead({"x1": 8, "x2": 8}, 6), adapter=adapter)
    groups = model.param_groups(0.01)
    optimizer = make_optimizer(groups, setup.config.optimizer)
    fit(model, setup.train, setup.valid, task=setup.task, epochs=2, optimizer=optimizer, device="cpu", show=False)
    assert difference(model.state_dict(), result.model.state_dict()) < 1e-5


def test_encoders_run_once_a_sample_and_a_warm_cache_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    encode = FeatureCache._encode

    def spy(self: FeatureCache, places: Any, *args: Any) -> dict[str, Tensor]:
        seen.append(len(places))
        return encode(self, places, *args)

    monkeypatch.setattr(FeatureCache, "_encode", spy)
    over = (f"data.feature_cache={tmp_path}",)
    cold = wander(make_setup(overrides=over), **SMALL)
    assert sum(seen) == 2 * (96 + 48)
    seen.clear()
    warm = wander(make_setup(overrides=over), **SMALL)
    assert seen == []
    plain = wander(make_setup(), **SMALL)
    assert difference(cold.model.state_dict(), warm.model.state_dict()) == 0
    assert difference(cold.model.state_dict(), plain.model.state_dict()) == 0


@pytest.mark.parametrize("options", [SMALL, LAYERS], ids=["behind", "between"])
def test_a_run_killed_in_the_midst_goes_on_exactly(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = ("stages.wander.train.epochs=3",)
    whole = wander(make_setup(dropout=0.2, overrides=over), **options)
    finish = Loop.finish_epoch

    def killed(self: Loop, *args: Any) -> dict[str, Any]:
        row = finish(self, *args)
        if self.model.adapter is not None and self.epoch == 1:
            raise KeyboardInterrupt
        return row

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "finish_epoch", killed)
        with pytest.raises(KeyboardInterrupt):
            wander(make_setup(tmp_path, dropout=0.2, overrides=over), **options)
    assert stages(tmp_path) == ["unimodal_x1", "unimodal_x2"]
    for _ in range(2):  # the second time every stage is finished
        resumed = wander(make_setup(tmp_path, dropout=0.2, overrides=over), **options)
        assert difference(whole.model.state_dict(), resumed.model.state_dict()) == 0


def test_vectors_are_sequences_of_one() -> None:
    result = wander(make_vectors(), down=2, tokens=1)
    assert result.adapter is not None
    assert result.adapter["lengths"] == {"x1": 1, "x2": 1}
    assert result.adapter["part"]["name"] == "wander"


def test_the_head_reads_the_joint_sequence_once_unless_another_is_asked_for() -> None:
    assert isinstance(wander(make_setup(), **SMALL).model.fusion, JointHead)
    mlp = wander(make_setup(overrides=("fusion=mlp",)), **SMALL)
    assert type(mlp.model.fusion).__name__ == "MLP"
    wide = {"x1": (8, 2), "x2": (4, 2)}
    result = wander(make_setup(shapes=wide), **SMALL, width=5, residual="projected")
    assert result.model.fusion.dims == {"x1": 5, "x2": 5}
    with pytest.raises(InputError, match="one joint output, which uni-modal heads cannot tell apart"):
        wander(make_setup(overrides=("fusion=mixture",)), **SMALL)


def test_each_modality_alone_is_told_by_masking_where_features_know_of_each_other() -> None:
    result = wander(make_setup(), **LAYERS)
    assert unimodal_source(result.model, masking=True) == "masking"
    assert unimodal_source(result.unimodal["x1"], masking=True) == "heads"


def longer_by(setup: Any, tokens: int) -> Batch:
    """The first validation batch with more tokens of x1 behind its own."""
    batch = next(iter(setup.valid))
    x1 = torch.cat([batch.inputs["x1"], torch.full((48, tokens, 16), 9.0)], 1)
    mask = torch.ones(x1.shape[:2], dtype=torch.bool)
    return Batch({"x1": Padded(x1, mask), "x2": batch.inputs["x2"]}, batch.target)


@pytest.mark.parametrize("options", [SMALL, {**LAYERS, "last": 0}], ids=["joint", "per_modality"])
def test_tokens_beyond_the_longest_of_training_take_no_part(options: dict[str, Any]) -> None:
    """Token features given as they are, since an encoder's own attention would see more tokens."""
    setup = make_setup()
    result = wander(setup, **options)
    assert isinstance(result.model.adapter, Wander)
    h = {m: torch.randn(3, n, 8) for m, n in {"x1": 6, "x2": 8}.items()}
    long = h | {"x1": torch.cat([h["x1"], torch.full((3, 4, 8), 9.0)], 1)}
    found = [result.model.adapter.after({m: Features(x.mean(1), x) for m, x in one.items()}) for one in (h, long)]
    x1, x2 = (torch.stack([one[m].tokens[:, :2] for one in found]) for m in ("x1", "x2"))  # type: ignore[index]
    torch.testing.assert_close(x1[0], x1[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(x2[0], x2[1], atol=1e-6, rtol=0)
    assert result.model(*longer_by(setup, 4)[:1]).logits.shape == (48, 6)


@pytest.mark.parametrize(
    ("options", "changes", "expected"),
    [
        ({"rank_sum": "middle"}, {}, "rank_sum='middle'"),
        ({"rank_t": 0}, {}, "rank_t=0: it must be 1 or more"),
        ({"lengths": {"x1": 6}}, {}, r"lengths \{'x1': 6\} for modalities \['x1', 'x2'\]"),
        ({"residual": "own"}, {}, "residual='own'"),
        ({"last": 2}, {}, "output='joint', which stands behind the encoders"),
        ({"last": 3, "output": "per_modality"}, {}, "last=3 layers of encoders .*'x1': 2"),
        ({"zero": "x3"}, {}, "zero='x3'"),
        ({"longer": "keep"}, {}, "longer='keep'"),
        ({}, {"shapes": {"x1": (8, 2), "x2": (4, 2)}}, "widths .*differ; give the joint output's width"),
        ({"width": 5}, {}, "residual 'concat_prefix' adds tokens of widths"),
        ({}, {"shapes": {"x1": (8, 2)}}, r"fusion of \['x1'\]: it multiplies modalities, so it needs at least two"),
        ({"fine_tune": False, "checkpoints": {"x1": "a"}}, {}, "leaves out the phase"),
        ({"start_from": "a", "checkpoints": {"x1": "a"}}, {}, "give one"),
        ({"after": "mmlora", "fine_tune": False}, {}, "after='mmlora' says where the encoders come from"),
        ({"after": "mmlor"}, {}, "mmlor"),
        ({"after": {"name": "mmlora", "rnk": 2}}, {}, r"wander\.after\.rnk: mmlora has no such setting"),
    ],
)
def test_wrong_settings_cost_no_training(
    options: dict[str, Any], changes: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=expected):
        wander(make_setup(tmp_path, **changes), **options)
    assert stages(tmp_path) == []


def test_sequences_longer_than_allowed_and_heads_of_one_output_are_told() -> None:
    with pytest.raises(InputError, match=r"sequences of \{'x2': 8\} tokens; allow them or longer='cut'"):
        wander(make_setup(), **SMALL, lengths={"x1": 6, "x2": 7}, longer="error")
    setup = make_setup()
    setup.make_balancer = MultiLoss
    with pytest.raises(InputError, match="one joint output"):
        wander(setup, **SMALL)


def test_wander_after_mmlora_and_with_a_balancer_of_its_own(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    setup.make_balancer = MultiLoss
    options: dict[str, Any] = {"down": 3, "rank_t": 2, "rank_h": 2, "output": "per_modality"}
    result = wander(setup, **options, after={"name": "mmlora", "rank": 2, "keep": "adapted"})
    assert stages(tmp_path) == ["mmlora", "unimodal_x1", "unimodal_x2", "wander"]
    adapted = mmlora(make_setup(), rank=2, keep="adapted")
    for m, encoder in result.model.encoders.items():
        assert difference(encoder.state_dict(), adapted.model.encoders[m].state_dict()) == 0
        assert difference(encoder.state_dict(), adapted.unimodal[m].encoders[m].state_dict()) > 0
        head = result.model.heads[m].state_dict()
        assert difference(head, adapted.model.heads[m].state_dict()) > 0, "the balancer trains it in the last stage"


def test_wander_after_joint_training_begins_with_that_very_model(tmp_path: Path) -> None:
    options: dict[str, Any] = {"down": 3, "rank_t": 2, "rank_h": 2, "output": "per_modality"}
    after = {"name": "joint", "balancer": {"name": "mlb", "alpha": 2}}
    result = wander(make_setup(tmp_path, overrides=("stages.wander.optimizer.lr=1e-30",)), **options, after=after)
    assert stages(tmp_path) == ["joint", "wander"]
    done = json.loads((tmp_path / "stages" / "joint" / "done.json").read_text())
    assert all(set(row["coefficients"]) == {"x1", "x2"} for row in done["rows"])
    before = make_setup()
    before.make_balancer = lambda: MLB(alpha=2)
    trained = joint(before).model.eval()
    inputs = next(iter(before.valid or ())).inputs
    assert difference(result.model.fusion.state_dict(), trained.fusion.state_dict()) < 1e-20
    assert torch.allclose(result.model.eval()(inputs).logits, trained(inputs).logits, rtol=0, atol=1e-6)
    moved = wander(make_setup(), **options, after=after)
    assert moved.model.eval()(inputs).logits.sub(trained(inputs).logits).abs().max() > 1e-3


def test_a_wrong_balancer_of_the_recipe_before_costs_no_training(tmp_path: Path) -> None:
    for balancer, expected in (({"name": "mlbb"}, "mlbb"), ({"name": "mlb", "alpa": 1}, r"balancer\.alpa")):
        with pytest.raises(InputError, match=expected):
            wander(make_setup(tmp_path), **SMALL, after={"name": "joint", "balancer": balancer})
    assert stages(tmp_path) == []


def test_a_recipe_that_leaves_no_encoders_to_freeze(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="after='joint': its model has no head of x1, x2 alone"):
        wander(make_setup(tmp_path), **SMALL, after="joint")
