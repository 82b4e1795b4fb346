"""Recipes with adapters for retrieval: what is frozen, what trains, what a saved run is built from, what is refused."""

# mypy: disable-error-code="union-attr, operator"

import numpy as np
import pandas as pd
import pytest

from polymodal import InputError, Predictor
from polymodal.adapters import Wander
from polymodal.run import load_weights
from tests.builders import difference

EXPERTS = ("rgb", "sound")


def frame_of(count=32, seed=0):
    """Captions, pictures and sounds of one code a video; every fifth video is silent."""
    random = np.random.default_rng(seed)
    codes = random.normal(size=(count, 4))
    return pd.DataFrame(
        {
            "video": [f"v{i}" for i in range(count)],
            "caption": [code + 0.1 * random.normal(size=4) for code in codes],
            "rgb": [(code + 0.1 * random.normal(size=(3, 4))).tolist() for code in codes],
            "sound": [
                None if i % 5 == 0 else (code + 0.1 * random.normal(size=(2, 4))).tolist()
                for i, code in enumerate(codes)
            ],
        }
    )


def make(recipe, out=None, epochs=2):
    return Predictor(
        label="video", task="retrieval", epochs=epochs, show=False, device="cpu", recipe=recipe, out=out, lr=0.01,
        modalities=["caption=caption:vector", "rgb=rgb:vector", "sound=sound:vector"],
        encoders={m: {"name": "expert", "dim": 8} for m in EXPERTS},
        fusion={"name": "mmt", "query": "caption", "depth": 1, "heads": 2, "hidden": 16},
    )  # fmt: skip


def test_wander_over_the_experts(tmp_path):
    frame = frame_of()
    recipe = {"name": "wander", "down": 4, "rank_t": 2, "rank_h": 2}
    found = make(recipe, tmp_path / "run").fit(frame)
    model = found.model_
    wander = model.fusion.adapter
    assert isinstance(wander, Wander)
    assert wander.lengths == {"rgb": 3, "sound": 2}
    before = load_weights(tmp_path / "run" / "stages" / "retrieval" / "model.safetensors")
    after = {name: value for name, value in model.state_dict().items() if name in before}
    moved = {name for name in before if not np.array_equal(before[name].numpy(), after[name].numpy())}
    assert moved
    assert all(name.startswith(("fusion.units.", "fusion.weigh.")) for name in moved)
    assert wander.output == "per_modality"  # begins as the identity: one time factor of each fusion is zero
    assert all(bool(p.any()) for p in wander.parameters())
    loaded = Predictor.load(tmp_path / "run")
    assert difference(loaded.model_.state_dict(), model.state_dict()) == 0
    assert loaded.evaluate(frame) == found.evaluate(frame)


METHODS = {"maple": {"depth": 1}, "pmf": {"last": 1, "query": 2, "hidden": 3}}


@pytest.mark.parametrize("method", METHODS)
def test_prompts_between_the_layers_of_the_experts(method, tmp_path):
    frame = frame_of()
    recipe = {"name": "adapter", "method": {"name": method, **METHODS[method]}}
    found = make(recipe, tmp_path / "run").fit(frame)
    before = load_weights(tmp_path / "run" / "stages" / "retrieval" / "model.safetensors")
    after = found.model_.state_dict()
    moved = {name for name in before if not np.array_equal(before[name].numpy(), after[name].numpy())}
    assert moved
    assert all(name.startswith(("fusion.units.", "fusion.weigh.")) for name in moved)
    new = {name for name in after if name not in before}
    assert new
    assert all(name.startswith("fusion.adapter.adapter.") for name in new)
    assert new == {name for name, p in found.model_.named_parameters() if "adapter" in name and p.requires_grad}
    loaded = Predictor.load(tmp_path / "run")
    assert difference(loaded.model_.state_dict(), after) == 0
    assert loaded.evaluate(frame) == found.evaluate(frame)


def test_a_model_that_begins_with_another_run(tmp_path):
    first = make("joint", tmp_path / "first").fit(frame_of())
    recipe = {"name": "wander", "down": 4, "fine_tune": False, "start_from": str(tmp_path / "first")}
    second = make(recipe, epochs=1).fit(frame_of(seed=1))
    one, two = first.model_.state_dict(), second.model_.state_dict()
    for name in ("fusion.layers.0.linear1.weight", "encoders.rgb.project.weight"):
        assert (one[name] == two[name]).all()
    assert (one["fusion.units.rgb.gate.weight"] != two["fusion.units.rgb.gate.weight"]).any()


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"name": "adapter", "method": "maple"}, "depth=9 in encoders {'rgb': 1, 'sound': 1} deep"),
        ({"name": "adapter", "method": "pmf"}, "last=2 layers over experts with 1"),
        ({"name": "adapter", "method": {"name": "uniadapter", "down": 2}}, "all experts' at once"),
        ({"name": "wander", "last": 1}, "last"),
        ({"name": "wander", "checkpoints": {"rgb": "x"}}, "use start_from"),
        ({"name": "wander", "start_from": {"rgb": "x"}}, "one run or file in retrieval"),
        ({"name": "wander", "start_from": "nowhere"}, "no such file"),
    ],
)
def test_what_is_refused(recipe, expected):
    with pytest.raises(InputError, match=expected):
        make(recipe).fit(frame_of(24))


def test_an_empty_query_is_told_by_its_row():
    frame = frame_of(24)
    frame.loc[6, "caption"] = None
    with pytest.raises(InputError, match="table, row 7: the query 'caption' is empty; fill it in"):
        make("joint").fit(frame)
