"""Every experiment file runs in miniature: one row a file here, all rows in .ci/slow."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from polymodal.experiment.file import Experiment, Row, read_experiment
from polymodal.experiment.table import run_table
from tests.modules import ROOT

FILES = sorted((ROOT / "experiments").glob("[!s]*.yaml"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all files: what they share is run once."""
    return tmp_path_factory.mktemp("tables")


def first_row(experiment: Experiment) -> Row:
    return next(row for row in experiment.rows if row.settings is not None and any(row.published.values()))


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_one_row(file: Path, shared: Path) -> None:
    row = first_row(read_experiment(file))
    data = next(name for name, metrics in row.published.items() if metrics)
    sets = tuple(data.split("+"))
    found = run_table(file, mini=True, rows=row.label, sets=sets, seeds=[0], out=shared)
    assert found.lines
    for line in found.lines:
        assert math.isfinite(line.measured.mean), f"{line.row.label}, {line.data}, {line.metric}: {line.note or 'not measured'}"
    assert found.page.read_text().count("<section") >= 1


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_row(file: Path, shared: Path) -> None:
    found = run_table(file, mini=True, seeds=[0], out=shared)
    for line in found.lines:
        if line.row.settings is not None and line.row.measure != "fact":
            assert math.isfinite(line.measured.mean), f"{line.row.label}, {line.data}, {line.metric}: {line.note}"
