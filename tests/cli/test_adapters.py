"""Adapters on the command line: fitted, kept, loaded back, told what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polymodal import Predictor
from polymodal.run import load_weights
from tests.cli.run import FILES, answer, fails, metrics, polymodal

ENCODERS = [
    text
    for m in ("a", "b")
    for text in (
        "--encoder", f"{m}=sequence_transformer", f"encoders.{m}.dim=8", f"encoders.{m}.depth=2", f"encoders.{m}.heads=2",
    )
]  # fmt: skip
QUICK = ("--label", "label", "--epochs", "1", "--batch-size", "16", "--device", "cpu")


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 rows of two sequences of vectors, the first of unequal length; those of test are the longest."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("sequences") / "table.jsonl"
    with path.open("w") as file:
        for i in range(48):
            part, c = {6: "valid", 7: "test"}.get(i % 8, "train"), i % 3 % 2
            rows: dict[str, Any] = {
                "a": (random.normal(size=(3 + i % 3 + 4 * (part == "test"), 3)) + c).round(3).tolist(),
                "b": (random.normal(size=(4, 2)) - c).round(3).tolist(),
            }
            file.write(json.dumps({"id": f"{i:03d}", **rows, "label": "ab"[c], "split": part}) + "\n")
    return path


METHODS = {
    "wander": ["--recipe", "wander", "recipe.down=2", "recipe.rank_t=2", "recipe.rank_h=2", "recipe.tokens=2"],
    "between": [
        "--recipe",
        "wander",
        "recipe.output=per_modality",
        "recipe.last=2",
        "recipe.at=[1]",
        "recipe.rank_h=2",
    ],
    "houlsby": ["--recipe", "adapter", "recipe.method=houlsby", "recipe.method.down=2", "recipe.modalities=[b]"],
    "ptuning": ["--recipe", "adapter", "recipe.method=ptuning_v2", "recipe.method.tokens=2"],
    "maple": ["--recipe", "adapter", "recipe.method=MaPLe", "recipe.method.depth=2", "recipe.fine_tune=false"],
    "pmf": ["--recipe", "adapter", "recipe.method=pmf", "--fusion", "mixture", "fusion.combine=logit"],
    "lora": ["--recipe", "adapter", "recipe.method=lora", "recipe.method.rank=2", "recipe.fine_tune=false"],
}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_kept_whole_and_loads_back(
    name: str, sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    polymodal("fit", sequences, *QUICK, *ENCODERS, *METHODS[name], "--out", run)
    assert all((run / file).is_file() for file in FILES)
    found = answer(capsys, "evaluate", run)
    assert found["accuracy"] == metrics(run)["test"]["accuracy"]
    described = json.loads((run / "model.json").read_text())["adapter"]
    assert (described is None) == (name == "lora"), "which is merged"
    assert " head included: trainable params: " in (run / "log.txt").read_text()
    predictor = Predictor.load(run)
    saved = load_weights(run / "model.safetensors")
    assert predictor.model_ is not None
    assert all(torch.equal(value, saved[key]) for key, value in predictor.model_.state_dict().items())
    if name in ("wander", "between", "ptuning", "pmf"):
        for m in ("a", "b"):
            own = load_weights(run / "stages" / f"unimodal_{m}" / "model.safetensors")
            assert all(torch.equal(saved[key], one) for key, one in own.items() if key.startswith("encoders."))
    predictor.save(tmp_path / "copy")
    assert answer(capsys, "evaluate", tmp_path / "copy", sequences, "--split", "test") == found
    if name == "houlsby":  # removed, it leaves what it was put into, trained LayerNorms included
        encoder: Any = predictor.model_.encoders["b"]
        encoder.houlsby.remove()
        first = load_weights(run / "stages" / "unimodal_b" / "model.safetensors")
        for key, value in predictor.model_.encoders["b"].state_dict().items():
            assert torch.equal(value, first[f"encoders.b.{key}"])


def test_one_run_begins_with_another(sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The column b plays a's part in the second run, whose vectors are narrower."""
    polymodal("fit", sequences, *QUICK, *ENCODERS, "--out", tmp_path / "first")
    capsys.readouterr()
    start = f"recipe.start_from.a={tmp_path / 'first'}"
    over = (
        "--modality",
        "a=b:vector",
        "--modality",
        "b=a:vector",
        "--recipe",
        "wander",
        start,
        "recipe.fine_tune=false",
    )
    polymodal("fit", sequences, *QUICK, *ENCODERS, *over, "--out", tmp_path / "second")
    assert "start_from, modality 'a': fresh are project.weight; left out of" in capsys.readouterr().err
    first, second = (load_weights(tmp_path / run / "model.safetensors") for run in ("first", "second"))
    assert torch.equal(first["encoders.a.layers.1.linear1.weight"], second["encoders.a.layers.1.linear1.weight"])


def test_list_adapters(capsys: pytest.CaptureFixture[str]) -> None:
    polymodal("list", "adapters")
    shown = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert {
        "lora",
        "houlsby",
        "ptuning",
        "ptuning_v2",
        "maple",
        "pmf",
        "mbt",
        "uniadapter",
        "aurora",
        "wander",
    } == shown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--recipe", "houlsby"], "no recipe but an adapter: --recipe adapter recipe.method=houlsby"),
        (["--recipe", "wander", "recipe.rank=4"], "recipe.rank: wander has no such setting; did you mean"),
        (["--recipe", "wander", "recipe.lengths.a=2", "recipe.lengths.b=4", "recipe.longer=error"], "allow them"),
        (["--recipe", "adapter", "recipe.method=houlsby", "recipe.method.widht=4"], "no such setting"),
        (["--recipe", "adapter", "recipe.method=pmf", "recipe.method.last=3"], "last=3 layers of encoders"),
        (["--recipe", "wander", "--modality", "a=a:vector"], "at least two"),
    ],
)
def test_bad_input(
    arguments: list[str], expected: str, sequences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoders = ENCODERS[:5] if "a=a:vector" in arguments else ENCODERS
    assert expected in fails(capsys, "fit", sequences, *QUICK, *encoders, *arguments, "--out", tmp_path / "run")
