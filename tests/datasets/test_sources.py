"""Sources such as `cremad/mlb,fold=2:ROOT`, presets as plain settings, and the commands about data sets."""

from pathlib import Path

import pandas as pd
import pytest

from polymodal.config import load_config
from polymodal.data.inputs import make_input
from polymodal.data.schema import Modality
from polymodal.datasets import NAMES, canonical, find, open_table, parse, with_preset
from polymodal.datasets.base import hold_out
from polymodal.errors import InputError
from tests.cli.run import fails, polymodal

PRESETS = [(name, source) for name in NAMES for source in find(name).presets]


def test_forms():
    assert parse("cremad:x") == ("cremad", "ogm", {}, Path("x"))
    assert parse("cremad/mlb,fold=2,folds=f.pkl:a/b:c") == (
        "cremad",
        "mlb",
        {"fold": 2, "folds": "f.pkl"},
        Path("a/b:c"),
    )


@pytest.mark.parametrize(
    "text", ["table.csv", "s3://bucket/table.csv", "C:/table.csv", "cremad/a.csv", "train.epochs=3", "cremad:"]
)
def test_what_is_no_source(text):
    assert parse(text) is None


def test_a_file_of_that_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cremad:x").write_text("a,b\n1,2\n")
    assert parse("cremad:x") is None


def test_canonical(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert canonical("cremad:x") == f"cremad/ogm:{tmp_path}/x" == canonical(f"cremad/ogm:{tmp_path}/x")
    assert canonical("t.csv") == f"{tmp_path}/t.csv"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cremda:x", "data set 'cremda' is unknown; did you mean 'cremad'?"),
        ("cremad", "cremad: name the folder that holds the data set as well: cremad:ROOT"),
        ("cremad/mlb", "cremad/mlb:ROOT"),
        ("cremad/mlp:x", "unknown preset 'mlp'; did you mean 'mlb'?"),
        ("cremad,flod=2:x", "has no such setting; did you mean 'fold'?"),
    ],
)
def test_unknown(text, expected):
    with pytest.raises(InputError) as error:
        open_table(text)
    assert expected in str(error.value)


def test_frames_and_tables_pass_through():
    table = open_table(pd.DataFrame({"x": [1.0]}))
    assert open_table(table) is table


@pytest.mark.parametrize(("name", "source"), PRESETS)
def test_presets_are_valid_settings(name, source):
    config = load_config(with_preset({"table": f"{name}/{source}:ROOT"}))
    used = {}
    for text in config.data.modalities:
        m, _, rest = text.partition("=")
        used[m] = rest.rpartition(":")
    assert set(config.data.inputs) <= set(used)
    for m, options in config.data.inputs.items():
        if "tokenizer" not in options:
            make_input(Modality(m, (used[m][0],), used[m][2]), **options)


@pytest.mark.parametrize("name", NAMES)
def test_published_counts_are_of_known_things(name):
    for one in find(name).presets.values():
        assert one.published
        assert all(count > 0 for count in one.published.values())
        assert one.about


def test_own_settings_win_over_the_preset():
    found = with_preset({"table": "cremad:x", "label": "actor", "data": {"inputs": {"audio": {"hop": 100}}}})
    assert found["label"] == "actor"
    assert found["data"]["inputs"]["audio"]["hop"] == 100
    assert found["data"]["inputs"]["audio"]["n_fft"] == 512
    assert find("cremad").presets["ogm"].settings["data"]["inputs"]["audio"]["hop"] == 353
    alone = with_preset({"table": "cremad:x", "data": {"modalities": ["audio=audio:audio"]}})
    assert set(alone["data"]["inputs"]) == {"audio"}
    assert with_preset({"table": "t.csv", "label": "y"}) == {"table": "t.csv", "label": "y"}


def test_hold_out_is_alike_in_every_class():
    labels = ["a"] * 50 + ["b"] * 10 + ["c"]
    chosen = hold_out(labels, 0.1, 0)
    assert [sum(labels[i] == name for i in chosen) for name in "abc"] == [5, 1, 0]
    groups = [f"g{i // 5}" for i in range(61)]
    whole = hold_out(labels, 0.2, 0, groups)
    assert all(({j for j in range(50) if groups[j] == groups[i]} <= whole) for i in whole if i < 50)
    assert sum(i < 50 for i in whole) == 10


@pytest.mark.parametrize("name", NAMES)
def test_fetch_help(name, capsys):
    polymodal("data", "fetch-help", name)
    text = capsys.readouterr().out
    for word in ("Owner", "ROOT", "Terms", *(f"{name}/{source}:ROOT" for source in find(name).presets)):
        assert word in text


def test_list(capsys):
    polymodal("list", "datasets")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(NAMES)


def test_commands_refuse(tmp_path, capsys):
    assert "did you mean 'ave'?" in fails(capsys, "data", "fetch-help", "avee")
    assert "no such folder" in fails(capsys, "data", "check", "cremad", tmp_path / "none")
    assert "'cremat' is unknown" in fails(capsys, "data", "check", "cremat", tmp_path)
    assert "DATASET/PRESET" in fails(capsys, "data", "check", "cremad", tmp_path, "--split", "x")
