"""The collapse guard: a modality at chance although its coefficient can do no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from polymodal.balancers.scores import FunctionScore, Score

__all__ = ["Bound", "chance_score", "collapse_notes"]

PATIENCE = 3
"""Epochs in a row; a modality that is merely slow at first passes the bound faster."""


class Bound(NamedTuple):
    """A value that a balancer's coefficients approach and never pass.

    `value` is below 1 where it slows and above 1 where it speeds up; `name` is what it is called in the method's formula, and
    `setting` the argument that moves it.
    """

    value: float
    name: str
    setting: str

    def reached(self, coefficient: float) -> bool:
        """Whether 95 % of the way from 1 to the bound are gone; never for a bound of 1."""
        return self.value != 1 and (coefficient - 1) / (self.value - 1) >= 0.95


def chance_score(task: Any, score: Score | None) -> float | None:
    """The score 1 / C of a modality that tells nothing; None where none is known.

    Known for one class a sample under a score that is the probability of the true class. With several labels, chance is a
    matter of each label's frequency, and for a regression of the targets' spread: neither is watched.
    """
    if score is None or isinstance(score, FunctionScore) or getattr(task, "mixture", None) != "categorical":
        return None
    return 1.0 / float(task.outputs)


def collapse_notes(rows: Sequence[Mapping[str, Any]], bounds: Sequence[Bound], chance: float | None) -> list[str]:
    """What to say, after the last of these epochs, of modalities that have just been found collapsed.

    A modality m has collapsed once its mean score s_m <= c + c (1 - c) / 10 (c is chance) and its mean coefficient reached
    a bound, in `PATIENCE` epochs running. It is named after the epoch in which this holds for the first time, and never
    again, also by a run that is resumed, since only the history decides.

    Args:
        rows: an epoch's `scores` and `coefficients` by modality each, as in `History.rows`.
        bounds: of the balancer.
        chance: see `chance_score`.

    Source: ours; SCIENCE, D3 (MLB with beta_max 10 at a large learning rate).

    Example:
        >>> row = {"scores": {"a": 0.7, "v": 0.126}, "coefficients": {"a": 0.6, "v": 9.8}}
        >>> collapse_notes([row] * 3, [Bound(10.0, "beta_max", "beta_max")], 1 / 8)
        ["modality 'v': its score 0.126 is at chance while its coefficient has stood at beta_max=10 for 3 epochs; lower
        balancer.beta_max or the learning rate"]
    """
    if chance is None or not rows:
        return []
    notes = []
    for m, score in rows[-1]["scores"].items():
        for bound in bounds:
            streak, first = 0, None
            for place, row in enumerate(rows):
                low = row["scores"].get(m, 1.0) <= chance + 0.1 * chance * (1 - chance)
                streak = streak + 1 if low and bound.reached(row["coefficients"].get(m, 1.0)) else 0
                if streak == PATIENCE and first is None:
                    first = place
            if first == len(rows) - 1:
                notes.append(
                    f"modality {m!r}: its score {score:.3f} is at chance while its coefficient has stood at "
                    f"{bound.name}={bound.value:.3g} for {PATIENCE} epochs; lower balancer.{bound.setting} or the learning rate"
                )
    return notes
