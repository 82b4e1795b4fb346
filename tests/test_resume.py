"""A run that is killed and resumed ends with the same bytes as one that was not."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from polymodal.run import RunFolder
from tests.cli import tables
from tests.cli.killed import fit_and_die, left_over
from tests.cli.run import fails, metrics, polymodal, same

ARGUMENTS = (
    "--label", "label", *tables.NUMBERS, "--epochs", "3", "--batch-size", "16", "--device", "cpu",
    "train.checkpoint_every=1", "encoders.a.name=mlp", "encoders.a.dropout=0.3", "encoders.b.name=mlp",
    "encoders.b.dropout=0.3",
)  # fmt: skip
METHODS = {"joint": ("--balancer", "mlb"), "ume": ("--recipe", "ume"), "auto": ("--recipe", "auto")}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.numbers(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def whole(table: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Uninterrupted runs."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("joint", "ume"):
        polymodal("fit", table, *ARGUMENTS, *METHODS[name], "--out", folder / name)
    return {name: folder / name for name in METHODS}


@pytest.mark.parametrize(
    ("method", "moment", "count"),
    [
        ("joint", "step", 1),  # before the first resume point
        ("joint", "step", 5),  # within the second epoch
        ("joint", "weights", 6),  # between the best weights and the resume point
        ("joint", "half", 11),  # while a file is written
        ("joint", "weights of the run", 1),
        ("joint", "evaluation", 2),  # at the end of an epoch
        ("ume", "step", 14),  # within the second stage
        ("ume", "stage", 1),  # between the stages
        ("ume", "predictions", 2),
    ],
)
def test_killed_and_resumed(
    method: str, moment: str, count: int, table: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fit_and_die(moment, count, "fit", table, *ARGUMENTS, *METHODS[method], "--out", run)
    assert not (run / "metrics.json").exists()
    polymodal("fit", "--resume", run)
    assert same(run, whole[method])
    assert (run / "history.jsonl").read_text() == (whole[method] / "history.jsonl").read_text()
    assert left_over(run) == []


def test_killed_twice(table: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit_and_die("step", 4, "fit", table, *ARGUMENTS, *METHODS["joint"], "--out", run)
    fit_and_die("step", 3, "fit", "--resume", run)
    polymodal("fit", "--resume", run)
    assert same(run, whole["joint"])


def test_finished_run_is_not_trained_again(
    whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole["ume"], run)
    monkeypatch.setattr("polymodal.recipes.base.fit", None)
    polymodal("fit", "--resume", run)
    assert same(run, whole["ume"])


@pytest.fixture(scope="module")
def stopped(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a resume point within its second epoch."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    fit_and_die("step", 5, "fit", table, *ARGUMENTS, *METHODS["joint"], "--out", run)
    return run


@pytest.mark.parametrize(
    ("harm", "expected"),
    [("truncated", "cannot be read"), ("foreign", "holds a list"), ("other", "belongs to another"), ("text", "cannot")],
)
def test_bad_checkpoint(
    harm: str, expected: str, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    point = run / "stages" / "joint" / "checkpoint" / "last.pt"
    if harm == "truncated":
        point.write_bytes(point.read_bytes()[:-1000])
    elif harm == "text":
        point.write_text("hello")
    else:
        state = torch.load(point, weights_only=True)
        torch.save(list(state) if harm == "foreign" else state | {"model": {"other": torch.zeros(3)}}, point)
    message = fails(capsys, "fit", "--resume", run)
    assert expected in message
    assert str(run / "stages" / "joint") in message
    assert "delete" in message
    # And what the message says helps.
    shutil.rmtree(point.parent)
    polymodal("fit", "--resume", run)
    assert metrics(run)["best_epoch"] >= 1


def test_table_that_changed(stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    changed = tables.numbers(tmp_path, label={0: "cat"})
    text = (run / "config.yaml").read_text()
    start = text.index("table: ")
    (run / "config.yaml").write_text(text[:start] + f"table: {changed}\n" + text[text.index("\n", start) + 1 :])
    before = (run / "data.json").read_bytes()
    assert "have changed since the run" in fails(capsys, "fit", "--resume", run)
    assert (run / "data.json").read_bytes() == before


class _FullDisk:
    """`torch.save` on a disk that is full after some bytes."""

    def __init__(self, after: int) -> None:
        self.left, self.save = after, torch.save

    def __call__(self, state: Any, path: Path) -> None:
        self.left -= 1
        if self.left >= 0:
            self.save(state, path)
            return
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_keeps_the_last_checkpoint(
    table: Path,
    whole: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("polymodal.run.torch.save", _FullDisk(after=4))
        message = fails(capsys, "fit", table, *ARGUMENTS, *METHODS["joint"], "--out", run)
    assert "No space left on device; what was there before is kept" in message
    assert left_over(run) == []
    kept = RunFolder(run / "stages" / "joint", resume=True).load_checkpoint()
    assert kept is not None
    assert (kept["epoch"], kept["done"]) == (1, 1)
    polymodal("fit", "--resume", run)
    assert same(run, whole["joint"])
