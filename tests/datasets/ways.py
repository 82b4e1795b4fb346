"""A data set's miniature through the command line: check, fit with its preset and small encoders, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from polymodal.datasets import open_table
from tests.cli.run import answer, metrics, polymodal

SMALL = ("--epochs", "12", "--batch-size", "8", "--device", "cpu", "--workers", "0", "optimizer.lr=0.01")
SMALL_FRAMES = ("data.inputs.video.height=16", "data.inputs.video.width=16", "data.inputs.video.augment=none")
"""The place of a square tells the class of a miniature, which a mirror would hide."""


def check_fit_evaluate(
    capsys: pytest.CaptureFixture[str], source: str, run: Path, *settings: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `data check` says, and what `evaluate` says of the test part, the same as the run's own metrics."""
    name, _, root = source.partition(":")
    checked = answer(capsys, "data", "check", name, root)
    assert checked["broken"] == checked["problems"] == []
    polymodal("fit", source, *SMALL, *settings, "--out", run)
    found = answer(capsys, "evaluate", run)
    for key, value in metrics(run)["test"].items():
        assert found[key] == pytest.approx(value)
    return checked, found


def counts(source: str) -> dict[str, int]:
    """Rows of each part."""
    return {str(k): int(v) for k, v in open_table(source).frame["split"].value_counts().items()}


def small_sequences(*modalities: str) -> list[str]:
    """Settings of a small Transformer for each of these modalities."""
    small = {"name": "sequence_transformer", "dim": "16", "depth": "1", "heads": "2"}
    return [f"encoders.{m}.{key}={value}" for m in modalities for key, value in small.items()]
