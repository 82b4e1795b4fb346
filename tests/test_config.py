"""The tree of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from polymodal.config import Config, from_flags, load_config, parse_override, read_yaml, tree
from polymodal.errors import InputError


def load(*overrides: str, **values: Any) -> Config:
    return load_config({"label": "y"} | values, overrides)


def test_defaults_are_the_documented_ones() -> None:
    it = load()
    assert (it.recipe.name, it.balancer.name, it.fusion.name) == ("joint", "joint", "concat")
    assert (it.optimizer.name, it.optimizer.lr, it.optimizer.weight_decay) == ("adamw", 2e-3, 1e-4)
    assert (it.train.schedule, it.train.batch_size, it.train.select, it.seed) == ("cosine", 32, "best", 0)


def test_what_is_dumped_loads_again() -> None:
    it = load("balancer=mlb", "balancer.alpha=2", "encoders.a.name=mlp", "data.fractions=[0.5, 0.25, 0.25]")
    text = yaml.safe_dump(it.model_dump(mode="json"))
    assert load_config(yaml.safe_load(text)) == it


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=3", (["a", "b"], 3)), ("a=1e-3", (["a"], 1e-3)), ("a=[1, 2]", (["a"], [1, 2])), ("a=x=y", (["a"], "x=y")),
        ("a=", (["a"], None)), ("a=null", (["a"], None)), ("a=true", (["a"], True)),
    ],
)  # fmt: skip
def test_parse_override(text: str, expected: tuple[list[str], Any]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["a", "=3", ".a=3", "a..b=3", "a=[1"])
def test_parse_override_refuses(text: str) -> None:
    with pytest.raises(InputError, match="override"):
        parse_override(text)


def test_settings_of_a_method_survive_its_name_given_later() -> None:
    assert load("balancer.alpha=2", "balancer=mlb").balancer.model_dump() == {"name": "mlb", "alpha": 2}
    assert load("balancer.alpha=2", balancer="mlb").balancer.model_dump() == {"name": "mlb", "alpha": 2}


def test_overrides_do_not_change_what_they_are_laid_over() -> None:
    values = {"label": "y", "train": {"epochs": 3}}
    assert load_config(values, ["train.epochs=5"]).train.epochs == 5
    assert values["train"] == {"epochs": 3}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["train.epohcs=3"], r"unknown key 'train.epohcs'; did you mean 'epochs'\?"),
        (["sede=3"], r"unknown key 'sede'; did you mean 'seed'\?"),
        (["optimizer.lr=-1"], "optimizer.lr"),
        (["optimizer.name=lion"], "'adamw', 'adam', 'sgd' or 'bertadam'"),
        (["train.select=first"], "'best' or 'last'"),
        (["train.epochs=2.5"], "train.epochs"),
        (["seed=x"], "seed"),
        (["encoders.a.dim=3"], "encoders.a"),
        (["label.x=3"], "key 'label'"),
        (["data.fold=[0, 5]"], r"data.fold.*\[0, 5\]: expected \[k, n\] with 1 <= k <= n"),
        (["data.fold=[1, 1]"], "at least two folds"),
        (["train.epochs=0", "train.batch_size=0"], "train.epochs.*; .*train.batch_size"),
    ],
)
def test_refused(overrides: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        load(*overrides)


def test_label_is_needed() -> None:
    with pytest.raises(InputError, match="label"):
        load_config({})


def test_flags() -> None:
    flags = {"label": "y", "epochs": 3, "lr": 0.1, "optimizer": "sgd", "group": "who", "seed": 2, "metric": None}
    it = load_config(from_flags(flags))
    assert (it.train.epochs, it.optimizer.lr, it.optimizer.name, it.data.group, it.seed) == (3, 0.1, "sgd", "who", 2)


def test_read_yaml(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("train: {epochs: 3}\n")
    assert read_yaml(file) == {"train": {"epochs": 3}}
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not YAML"):
        read_yaml(file)
    file.write_text("!!python/object/apply:os.system ['true']\n")
    with pytest.raises(InputError, match="not YAML"):
        read_yaml(file)


def test_tree_tells_every_key() -> None:
    keys = {row[0] for row in tree()}
    assert {"label", "balancer", "data.modalities", "optimizer.lr", "train.checkpoint_every", "seed"} <= keys
    assert all(row[3] for row in tree() if row[0].startswith("data."))
