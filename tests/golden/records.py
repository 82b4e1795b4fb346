"""Reading golden records and comparing them; the folder may be another one with the same records."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.golden import (
    analysis_checks,
    balancer_checks,
    fusion_checks,
    lora_checks,
    peft_checks,
    preprocess_checks,
    wander_checks,
)
from tests.golden.checks import CHECKS

OWN = Path(__file__).parent / "cases"
FOLDER = Path(os.environ.get("POLYMODAL_GOLDEN_DIR", OWN))


ASSERTING: Mapping[str, Callable[[dict[str, Any], dict[str, Any], float], None]] = (
    balancer_checks.CHECKS
    | fusion_checks.CHECKS
    | analysis_checks.CHECKS
    | lora_checks.CHECKS
    | peft_checks.CHECKS
    | preprocess_checks.CHECKS
    | wander_checks.CHECKS
)
"""Checks that assert by themselves, by "topic/name": function of inputs, expected and tolerance."""
CHECKED = {f"{topic}/{name}" for topic, names in CHECKS.items() for name in names} | set(ASSERTING)


class Record(NamedTuple):
    topic: str
    name: str
    inputs: dict[str, Any]
    expected: dict[str, Any]
    tol: float

    @property
    def id(self) -> str:
        return f"{self.topic}/{self.name}"


def records() -> list[Record]:
    """All records of the folder."""
    files = [file for file in sorted(FOLDER.glob("*.json")) if file.name != "index.json"]
    return [
        Record(file.stem, one["name"], one["inputs"], one["expected"], one["tol"])
        for file in files
        for one in json.loads(file.read_text())
    ]


def checking(record: Record) -> Callable[[dict[str, Any]], None]:
    """A function that asserts that the library computes all of these expected values."""
    if record.id in ASSERTING:
        return lambda expected: ASSERTING[record.id](record.inputs, expected, record.tol)
    found = CHECKS[record.topic][record.name](record.inputs, list(record.expected))
    return lambda expected: compare(found, expected, record.tol)


def compare(found: Any, expected: Any, tol: float, place: str = "expected") -> None:
    """Assert the same keys, the same shapes and every number within `tol`."""
    if isinstance(expected, dict):
        assert set(found) == set(expected), f"{place}: computed {sorted(found)}, expected {sorted(expected)}"
        for key, value in expected.items():
            compare(found[key], value, tol, f"{place}.{key}")
        return
    ours, theirs = as_array(found), np.asarray(expected, np.float64)
    assert ours.shape == theirs.shape, f"{place}: shape {ours.shape}, expected {theirs.shape}"
    gap = np.abs(ours - theirs)
    assert (gap <= tol).all(), f"{place}: {ours} is not {theirs} (largest difference {gap.max()}, tolerance {tol})"


def as_array(value: Any) -> np.ndarray:
    if isinstance(value, list):
        return np.stack([as_array(one) for one in value])
    return np.asarray(value.detach() if hasattr(value, "detach") else value, np.float64)


def moved(expected: Any, by: float) -> Iterator[tuple[str, Any]]:
    """The expected values with one number (or text) changed, for each in turn."""
    if isinstance(expected, dict | list):
        for key, value in expected.items() if isinstance(expected, dict) else enumerate(expected):
            for place, other in moved(value, by):
                changed = expected.copy()
                changed[key] = other
                yield f".{key}{place}", changed
    elif isinstance(expected, str):
        yield "", expected + "?"
    else:  # by one place of a float at least, or a large number would not move at all
        yield "", expected + max(abs(by), np.spacing(abs(float(expected)))) * np.sign(by)
