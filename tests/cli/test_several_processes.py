"""`torchrun -m polymodal fit`: one run folder, every sample counted once, the same model on every process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import tables
from tests.cli.run import answer, csv, environment, metrics, polymodal

ARGUMENTS = ("--label", "label", *tables.MEDIA, "--epochs", "2", "--device", "cpu", "--balancer", "mlb")


def test_two_processes(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "polymodal")
    command = [*launch, "fit", str(media), *ARGUMENTS, "--batch-size", "4", "--out", str(run)]
    said, told = tmp_path / "out.txt", tmp_path / "err.txt"
    with said.open("w") as out, told.open("w") as error:
        child = subprocess.Popen(command, stdout=out, stderr=error, env=environment(""), start_new_session=True)
        try:
            code = child.wait(900)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # the processes that it started too
            raise
    assert code == 0, told.read_text()
    assert said.read_text().count('"best_epoch"') == 1  # one of them speaks
    alone = tmp_path / "alone"
    polymodal("fit", media, *ARGUMENTS, "--batch-size", "8", "--out", alone)
    assert {str(f.relative_to(run)) for f in run.rglob("*")} == {str(f.relative_to(alone)) for f in alone.rglob("*")}
    assert list(csv(run / "predictions" / "valid.csv")["id"]) == ["0008", "0018", "0028", "0038"]
    # BatchNorm keeps statistics of its process: the saved ones are those that were evaluated.
    again = answer(capsys, "evaluate", run)
    assert again["samples"] == 4
    for name, value in metrics(run)["test"].items():
        assert again[name] == pytest.approx(value, abs=1e-6)
    rows = [csv(one / "predictions" / "valid.csv") for one in (run, alone)]
    assert list(rows[0]["target"]) == list(rows[1]["target"])
