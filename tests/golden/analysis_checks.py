"""How each golden record of analyses is compared with the library: `CHECKS[record](inputs, expected, tol)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from polymodal import metrics
from polymodal.analysis.agreement import agreement_matrix

Record = dict[str, Any]
Check = Callable[[Record, Record, float], None]
FUSED = "correct_mm"


def close(actual: Any, expected: Any, tol: float) -> None:
    """Equal shapes, and every number within `tol`."""
    ours, theirs = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    gap = np.abs(ours - theirs).max()
    assert gap <= tol, f"differs by {gap}, allowed {tol}"


def every_key(expected: Record, known: set[str]) -> None:
    assert set(expected) == known, f"the record holds {sorted(expected)}, this compares {sorted(known)}"


def agreement(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"counts", "percent_of_all", "correct_rate_per_group"})
    unimodal = {key.removeprefix("correct_"): one for key, one in inputs.items() if key != FUSED}
    found = agreement_matrix(unimodal, inputs[FUSED])
    close(found.counts, expected["counts"], tol)
    close(found.percent, expected["percent_of_all"], tol)
    close(found.rate, expected["correct_rate_per_group"], tol)


def sentiment(inputs: Record, expected: Record, tol: float) -> None:
    prediction, target = inputs["pred"], inputs["true"]
    found = metrics.sentiment(prediction, target)
    ours = {
        "mae": metrics.mae(prediction, target),
        "corr": found["pearson"],
        "acc7": found["acc7"],
        **{name: value for name, value in found.items() if name.startswith("acc2_")},
    }
    every_key(expected, set(ours))
    for name, value in ours.items():
        close(value, expected[name], tol)


def retrieval(inputs: Record, expected: Record, tol: float) -> None:
    """Ranks are from 0 on in the record; `RK` is the recall at K of any K."""
    found = metrics.ranks(inputs["sim"]).query
    named = metrics.retrieval(inputs["sim"])
    recalls = [key for key in expected if key[0] == "R" and key[1:].isdigit()]
    every_key(expected, {"ranks0", "MdR", "MnR", *recalls})
    close(found - 1, expected["ranks0"], tol)
    close(named["mdr_q2g"], expected["MdR"], tol)
    close(named["mnr_q2g"], expected["MnR"], tol)
    for key in recalls:
        close(named[f"r_at_{key[1:]}_q2g"], expected[key], tol)


CHECKS: dict[str, Check] = {
    "analysis/agreement_matrix": agreement,
    "analysis/sentiment_metrics": sentiment,
    "analysis/retrieval": retrieval,
}
