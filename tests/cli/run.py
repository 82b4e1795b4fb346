"""The command line, in this process or as one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from polymodal.cli import main

QUICK = ("--epochs", "2", "--batch-size", "8", "--device", "cpu")
FILES = ("model.safetensors", "metrics.json", "predictions/valid.csv", "predictions/test.csv")


def polymodal(*arguments: object) -> None:
    """Run a command in this process; it must not fail."""
    main([str(one) for one in arguments])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one message of a command that must end with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([str(one) for one in arguments])
    out, error = capsys.readouterr()
    assert stop.value.code == 2, error
    assert out == ""
    # Notes on what was inferred may come first.
    notes, _, message = error.rpartition("polymodal: error: ")
    assert all(line.startswith(("note: ", "polymodal: warning: ")) for line in notes.splitlines()), error
    assert "Traceback" not in error
    return message


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    """What a command prints, read as JSON."""
    capsys.readouterr()
    polymodal(*arguments)
    return json.loads(capsys.readouterr().out)


def process(*arguments: object, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "polymodal", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=600, env=environment(), check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


def environment(warnings: str = "error") -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": warnings}


def same(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same bytes."""
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def metrics(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


def csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype={"id": str})
