"""Recipe `mmbt`: what trains from which epoch on, what a saved run is built from, what is refused."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from polymodal import InputError, Predictor
from polymodal.adapters import MMBT, JointHead, MMBTText
from polymodal.recipes.mmbt import _Thawing
from tests.builders import difference

SMALL = {"vocab_size": 64, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
MAKE: dict[str, Any] = {
    "label": "label", "epochs": 2, "show": False, "device": "cpu", "lr": 0.02, "batch_size": 8,
    "modalities": ["text=text:text", "photo=photo:vector"],
}  # fmt: skip


def frame_of(count=24):
    """Two kinds of words, and four cells of numbers that agree with them."""
    random = np.random.default_rng(0)
    kind = np.arange(count) % 2
    return pd.DataFrame(
        {
            "label": np.where(kind, "cat", "dog"),
            "text": [" ".join(random.choice(["mew", "purr"] if one else ["bark", "growl"], 3)) for one in kind],
            "photo": [(one + random.normal(size=(4, 3))).tolist() for one in kind],
        }
    )


def make(out=None, **settings):
    recipe = {"name": "mmbt", "images": 2, "sep": 3, "freeze_image": 0, "freeze_text": 1, **settings.pop("recipe", {})}
    encoders = {"text": {"name": "bert", "config": SMALL}, "photo": {"name": "mlp", "dim": 6}}
    given = MAKE | {"encoders": encoders, "recipe": recipe} | settings
    return Predictor(**given, out=out, overrides=["data.inputs.text.buckets=64"])


def test_a_run_is_trained_and_loaded(tmp_path):
    frame = frame_of()
    found = make(tmp_path / "run").fit(frame)
    model = found.model_
    assert isinstance(model.adapter, MMBT)
    assert (model.adapter.images, model.adapter.modalities) == (2, ("photo", "text"))
    assert isinstance(model.encoders["text"], MMBTText)
    assert isinstance(model.fusion, JointHead)
    assert all(p.requires_grad for p in model.parameters())
    loaded = Predictor.load(tmp_path / "run")
    assert loaded.model_ is not None
    assert difference(loaded.model_.state_dict(), model.state_dict()) == 0
    assert loaded.evaluate(frame) == found.evaluate(frame)


@pytest.mark.parametrize(("still", "moves"), [((0, 9), {"photo"}), ((9, 0), {"text"}), ((9, 9), set())])
def test_encoders_stand_still_in_their_first_epochs(still, moves):
    frame = frame_of()
    recipe = {"freeze_image": still[0], "freeze_text": still[1]}
    one, more = (make(recipe=recipe, epochs=epochs, select="last").fit(frame).model_ for epochs in (1, 2))
    first, second = one.state_dict(), more.state_dict()
    moved = {key.split(".")[1] for key in first if key.startswith("encoders.") and (first[key] != second[key]).any()}
    assert moved == moves
    assert (first["adapter.project.weight"] != second["adapter.project.weight"]).any()


def test_they_train_from_the_epoch_that_is_given():
    weight = torch.nn.Parameter(torch.ones(2))
    model: Any = SimpleNamespace(
        parameters_of=lambda m, scope: [weight] if (m, scope) == ("text", ("encoder",)) else []
    )
    step: Any = SimpleNamespace(model=model)
    balancer, kept = _Thawing({"photo": 5, "text": 2}), []
    for _ in range(4):
        balancer.start_epoch(model, [])
        weight.grad = torch.ones(2)
        balancer.modulate(step)
        kept.append(weight.grad is not None)
    assert kept == [False, False, True, True]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"balancer": "multi_loss"}, "one sequence here"),
        ({"recipe": {"images": 12}}, "images=12"),
        ({"recipe": {"freeze_text": -1}}, "freeze_text=-1"),
        ({"encoders": {"text": "text_bag", "photo": "mlp"}}, "one image encoder and one Bert"),
    ],
)
def test_what_is_refused(settings, expected):
    with pytest.raises(InputError, match=expected):
        make(**settings).fit(frame_of())


def test_the_recipe_adapter_refuses_it():
    encoders = {"text": {"name": "bert", "config": SMALL}, "photo": "mlp"}
    recipe = {"name": "adapter", "method": {"name": "polymodal.adapters.MMBT", "sep": 3}}
    with pytest.raises(InputError, match="use --recipe mmbt"):
        Predictor(**MAKE, recipe=recipe, encoders=encoders, overrides=["data.inputs.text.buckets=64"]).fit(frame_of())
