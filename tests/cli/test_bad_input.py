"""Bad input ends with exit code 2 and one message that names it, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli import tables
from tests.cli.run import QUICK, fails, polymodal
from tests.cli.tables import CLASSES, MEDIA, NUMBERS, part_of
from tests.data.files import cut, write_csv

LABEL = ("--label", "label")
A = ("--modality", "a=a1,a2:numeric")


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: object) -> str:
    """The message of a `fit` that must not leave its run folder."""
    message = fails(capsys, "fit", *arguments, "--out", folder / "run")
    assert not (folder / "run").exists()
    return message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--label", "lable"], ["no column 'lable'", "did you mean 'label'?"], id="label"),
        pytest.param([], ["--label COLUMN"], id="no label"),
        pytest.param([*LABEL, "--modality", "a=zz:numeric"], ["a=zz:numeric", "no column 'zz'"], id="column"),
        pytest.param([*LABEL, "--modality", "a=a1:nummeric"], ["unknown kind 'nummeric'", "'numeric'"], id="kind"),
        pytest.param([*LABEL, "--modality", "a1"], ["expected NAME=COLUMN:KIND"], id="modality"),
        pytest.param([*LABEL, "--modality", "a=split:numeric"], ["'split'", "row 1 (line 2)", "'train'"], id="cells"),
        pytest.param([*LABEL, *NUMBERS, "--group", "speaker"], ["no column 'speaker'"], id="group"),
        pytest.param([*LABEL, *NUMBERS, "--recipe", "jiont"], ["recipe 'jiont'", "'joint'"], id="recipe"),
        pytest.param([*LABEL, *NUMBERS, "--balancer", "mbl"], ["balancer 'mbl'", "'mlb'"], id="balancer"),
        pytest.param([*LABEL, *NUMBERS, "--fusion", "conact"], ["fusion 'conact'", "'concat'"], id="fusion"),
        pytest.param([*LABEL, *NUMBERS, "--encoder", "a=mpl"], ["encoder 'mpl'", "'mlp'"], id="encoder"),
        pytest.param([*LABEL, *NUMBERS, "--encoder", "a=linear_heads"], ["'linear_heads' is unknown"], id="no encoder"),
        pytest.param([*LABEL, *NUMBERS, "--encoder", "c=mlp"], ["encoder of 'c'", "a, b"], id="encoder of none"),
        pytest.param([*LABEL, *NUMBERS, "--encoder", "mlp"], ["write NAME=ENCODER"], id="encoder form"),
        pytest.param([*LABEL, *NUMBERS, "--encoder", "a=image_cnn"], ["reads image", "numeric"], id="encoder kind"),
        pytest.param([*LABEL, *NUMBERS, "--metric", "acuracy"], ["metric 'acuracy'", "'accuracy'"], id="metric"),
        pytest.param([*LABEL, *NUMBERS, "--task", "clasification"], ["data.task", "'classification'"], id="task"),
        pytest.param([*LABEL, *NUMBERS, "--device", "gpu"], ["train.device", "'cpu', 'cuda' or 'mps'"], id="device"),
        pytest.param([*LABEL, *NUMBERS, "--device", "cuda"], ["device 'cuda' is not there"], id="no such device"),
        pytest.param([*LABEL, *NUMBERS, "--seed", "-1"], ["seed", "-1"], id="seed"),
        pytest.param([*LABEL, *NUMBERS, "--epochs", "0"], ["train.epochs", "0"], id="epochs"),
        pytest.param([*LABEL, *NUMBERS, "--epochs", "x"], ["--epochs", "into int"], id="no number"),
        pytest.param([*LABEL, *NUMBERS, "--epohcs", "3"], ["--epohcs", "--epochs"], id="option"),
        pytest.param([*LABEL, "train.epohcs=3"], ["unknown key 'train.epohcs'", "'epochs'"], id="key"),
        pytest.param([*LABEL, "trian.epochs=3"], ["unknown key 'trian'", "'train'"], id="group of keys"),
        pytest.param([*LABEL, "train.epochs.x=3"], ["'train.epochs' = {'x': 3}"], id="key below a value"),
        pytest.param([*LABEL, "epochs"], ["override 'epochs': write key.sub=value"], id="override"),
        pytest.param([*LABEL, *NUMBERS, "balancer.alhpa=3", "balancer=mlb"], ["balancer.alhpa", "'alpha'"], id="setting"),
        pytest.param([*LABEL, *NUMBERS, "balancer=mlb", "balancer.alpha=-1"], ["alpha=-1"], id="value"),
        pytest.param([*LABEL, *NUMBERS, "balancer=mlb", "balancer.alpha=much"], ["alpha='much'"], id="value type"),
        pytest.param([*LABEL, *NUMBERS, "encoders.a.name=mlp", "encoders.a.dim=-1"], ["encoders.a", "dim=-1"], id="dim"),
        pytest.param([*LABEL, *NUMBERS, "recipe=ume", "recipe.conbine=logit"], ["recipe.conbine", "'combine'"], id="arg"),
        pytest.param([*LABEL, *NUMBERS, "recipe=ume", "recipe.combine=all"], ["combine='all'"], id="recipe value"),
        pytest.param([*LABEL, *NUMBERS, "data.inputs.a.size=3"], ["input 'a'", "unknown option 'size'"], id="input"),
        pytest.param([*LABEL, *NUMBERS, "data.inputs.c.size=3"], ["data.inputs.c: no such modality"], id="input of none"),
        pytest.param([*LABEL, *NUMBERS, "data.split=label"], ["'label'", "train, valid or test"], id="split column"),
        pytest.param([*LABEL, *NUMBERS, "train.trackers=[wandbb]"], ["tracker 'wandbb' is unknown"], id="tracker"),
        pytest.param([*LABEL, *NUMBERS, "--balancer", "nowhere.Own"], ["'nowhere' cannot be imported"], id="module"),
        pytest.param([*LABEL, *NUMBERS, "--fusion", "json.JSONDecoder"], ["not a torch module"], id="no module"),
        pytest.param([*LABEL, *NUMBERS, "--balancer", "json.nothing"], ["has no 'nothing'"], id="attribute"),
        # What compares modalities, and what filters parameters, before the first step.
        pytest.param([*LABEL, *A, "--balancer", "mlb"], ["MLB compares modalities", "['a']"], id="one modality"),
        pytest.param([*LABEL, *A, "--fusion", "film"], ["FiLM joins", "given 1"], id="one modality fused"),
        pytest.param([*LABEL, *NUMBERS, "--balancer", "ogm"], ["OGM", "param_filter='conv'", "'a'"], id="filter"),
        pytest.param([*LABEL, *NUMBERS, "--balancer", "ogm_ge"], ["param_filter='conv'"], id="filter of noise"),
        pytest.param([*LABEL, *NUMBERS, "balancer=mlb", "balancer.scope=[adapter]"], ["['adapter'] matches no"], id="scope"),
    ],
)  # fmt: skip
def test_settings(
    arguments: list[str], expected: list[str], numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, tmp_path, numbers, *arguments)
    for text in expected:
        assert text in message, message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"label": {9: "dog"}}, ["class 'dog'", "test part", "row 10 (line 11)"], id="class of test alone"),
        pytest.param({"label": {8: "dog"}}, ["class 'dog'", "valid part", "row 9 (line 10)"], id="class of valid alone"),
        pytest.param({"label": dict.fromkeys(range(60), "ant")}, ["only one class, 'ant'"], id="one class"),
        pytest.param(
            {"label": {i: "ant" if part_of(i) == "train" else "bee" for i in range(60)}}, ["one class only ('ant')"],
            id="one class in training",
        ),
        pytest.param({"label": {4: ""}}, ["missing label", "row 5 (line 6)"], id="empty label"),
        pytest.param({"label": {i: "nan" if i == 7 else i * 1.5 for i in range(60)}}, ["row 8 (line 9)"], id="NaN label"),
        pytest.param({"split": dict.fromkeys(range(60), "test")}, ["no row is marked 'train'"], id="empty split"),
        pytest.param({"split": {3: "trian"}}, ["'trian' in row 4 (line 5)", "'train'"], id="split word"),
        pytest.param({"a1": {5: "far"}}, ["'a1'", "row 6 (line 7)", "'far'"], id="number"),
    ],
)  # fmt: skip
def test_tables(
    changes: dict[str, dict[int, Any]], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    regression = ("--task", "regression") if len(changes.get("label", {})) == 60 and "1.5" in str(changes) else ()
    message = refused(capsys, tmp_path, tables.numbers(tmp_path, **changes), *LABEL, *NUMBERS, *regression)
    for text in ["numbers.csv", *expected]:
        assert text in message, message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "no such file"),
        ("", "the file is empty"),
        ("a,label\n", "has no rows"),
        ("a,label\n1\n", "row 1 (line 2)"),
    ],
)
def test_tables_that_are_none(
    content: str | None, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    if content is not None:
        table.write_text(content)
    assert expected in refused(capsys, tmp_path, table, *LABEL)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "no such file"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "truncated": (lambda path: cut(path, 0.5), "truncated"),
    "foreign": (lambda path: path.write_text("hello"), "not a readable"),
}


@pytest.mark.parametrize("harm", BROKEN)
def test_broken_files_are_listed_by_row(harm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tables.media(tmp_path, count=20)
    do, expected = BROKEN[harm]
    do(tmp_path / "1.png")
    (tmp_path / "6.wav").write_text("no sound")
    message = refused(capsys, tmp_path, table, *LABEL, *MEDIA)
    assert "2 of 20 samples cannot be read" in message
    assert f"row 2 (line 3), modality 'photo': {tmp_path / '1.png'}: " in message
    assert expected in message
    assert f"row 7 (line 8), modality 'sound': {tmp_path / '6.wav'}: " in message
    assert "--on-error skip" in message


def test_broken_files_may_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tables.media(tmp_path)
    (tmp_path / "1.png").unlink()
    polymodal("fit", table, *LABEL, *MEDIA, *QUICK, "--on-error", "skip", "--out", tmp_path / "run")
    assert "skipped 1 broken samples: row 2 (line 3)" in capsys.readouterr().err
    assert "skipped 1 broken" in (tmp_path / "run" / "log.txt").read_text()


def test_run_folders_that_hold_something(numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary.txt").write_text("dear diary")
    assert "exists and is not empty" in fails(capsys, "fit", numbers, *LABEL, "--out", mine)
    assert [file.name for file in mine.iterdir()] == ["diary.txt"]
    assert "is a file" in fails(capsys, "fit", numbers, *LABEL, "--out", mine / "diary.txt")
    # An empty folder is as good as a new one, and stays when the run is refused.
    (mine / "diary.txt").unlink()
    fails(capsys, "fit", numbers, *LABEL, *NUMBERS, "--recipe", "ume", "recipe.combine=all", "--out", mine)
    assert not mine.exists() or list(mine.iterdir()) == []


def test_settings_files(numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.yaml"
    assert "settings.yaml: no such file" in refused(capsys, tmp_path, numbers, *LABEL, "--config", file)
    for content, expected in {"a: [": "not YAML", "- 1": "expected keys and values", "lable: x": "'lable'"}.items():
        file.write_text(content)
        assert expected in refused(capsys, tmp_path, numbers, *LABEL, "--config", file)


def test_resume_of_what_is_no_run(numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such file" in fails(capsys, "fit", "--resume", tmp_path / "none")
    message = fails(capsys, "fit", "--resume", tmp_path / "none", "--epochs", "3")
    assert "leave out epochs" in message


@pytest.mark.parametrize("words", [["fti"], ["list", "balancer"], ["evaluate"], ["predict", "run"]])
def test_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "see polymodal --help" in fails(capsys, *words)


def test_too_few_rows_to_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{k: v for k, v in row.items() if k != "split"} for row in tables.number_rows()]
    pairs = [next(row for row in rows if row["label"] == name) for name in CLASSES]
    message = refused(capsys, tmp_path, write_csv(tmp_path / "few.csv", pairs), *LABEL, *NUMBERS)
    assert "part of the split is empty" in message


def test_diverging_training_names_the_loss(numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(
        capsys,
        tmp_path,
        numbers,
        *LABEL,
        *NUMBERS,
        "--batch-size",
        "8",
        "--balancer",
        "multi_loss",
        "optimizer.lr=1e30",
    )
    assert "the loss became nan in step 2 of epoch 1: not finite is the loss of ['fused', 'a', 'b']" in message
    assert "Lower the learning rate" in message
    # One step an epoch: it is the validation that shows it.
    message = refused(capsys, tmp_path, numbers, *LABEL, *NUMBERS, "--batch-size", "64", "optimizer.lr=1e30")
    assert "after epoch 1 the predictions of 6 of 6 samples are not finite" in message
