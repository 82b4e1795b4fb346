"""The sweeps over real data: every method's settings hold, and the committed list is the one that its file draws."""

from __future__ import annotations

from pathlib import Path

import pytest

from polymodal.experiment.sweep_file import read_sweep
from polymodal.experiment.trials import beside, draw, read_trials
from tests.modules import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("sweep_*.yaml")), ids=lambda path: path.stem)
def test_committed_list(path: Path) -> None:
    file = read_sweep(path)
    assert read_trials(beside(path), file, "") == draw(file)
    assert all(len(one) == file.trials for one in draw(file).values())
