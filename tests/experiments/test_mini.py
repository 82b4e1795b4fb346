"""Every experiment file runs in miniature: one row a file here, all rows in .ci/slow."""

from __future__ import annotations

import math
import os
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from polymodal.experiment.file import Experiment, Row, read_experiment
from polymodal.experiment.table import run_table
from tests.modules import ROOT

FILES = sorted((ROOT / "experiments").glob("[!s]*.yaml"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all files, and for all processes of the test run: what they share is run once."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "tables"


CHEAP = {
    "mmlora_table1": "Fine-tuned Visual Model *",
    "mmlora_table4": "fine-tuning / ViT-B / rgb",
    "mmlora_table5": "MMLoRA / ViT-B/ViT-B",
    "mlb_text": "data",
}
"""Rows that take little time, where the first of a file takes long."""


def chosen(name: str, experiment: Experiment) -> Row:
    """The row of `CHEAP`, or the first that trains something, or just the first."""
    rows = [one for one in experiment.rows if fnmatchcase(one.label, CHEAP.get(name, "*"))]
    runs = [one for one in rows if one.settings is not None and any(one.published.values())]
    return next((one for one in runs if one.measure not in ("fact", "cost")), (runs or rows)[0])


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_one_row(file: Path, shared: Path) -> None:
    row = chosen(file.stem, read_experiment(file))
    sets = tuple(name for name in next(iter(row.published)).split("+") if name)
    found = run_table(file, mini=True, rows=row.label, sets=sets, seeds=[0], out=shared)
    measured = [math.isfinite(line.measured.mean) for line in found.lines]
    if row.measure == "fact":
        assert any(measured), "nothing that the paper tells of its data can be told of ours"
    elif row.settings is not None:
        assert all(measured), [f"{line.metric}: {line.note}" for line in found.lines]
    assert "<section" in found.page.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_row(file: Path, shared: Path) -> None:
    found = run_table(file, mini=True, seeds=[0], out=shared)
    for line in found.lines:
        if line.row.settings is not None and line.row.measure != "fact":
            assert math.isfinite(line.measured.mean), f"{line.row.label}, {line.data}, {line.metric}: {line.note}"
