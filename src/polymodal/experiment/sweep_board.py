"""The trials of a sweep by validation, and what was chosen of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from polymodal.errors import InputError
from polymodal.experiment.figures import Measured
from polymodal.experiment.sweep_file import SweepFile, Trial
from polymodal.experiment.trials import Trials
from polymodal.run import write_atomically
from polymodal.tasks import Retrieval, Task

__all__ = ["Board", "Chosen", "Entry", "lower_is_better", "mean", "preferred", "shown", "write_csv"]

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One trial of a method: its validation figures by run of the search, NaN of one that was not finite."""

    method: str
    trial: int
    settings: Trial
    valid: Measured
    loss: Measured


@dataclass(frozen=True)
class Board:
    """All trials, in the list's order."""

    file: SweepFile
    entries: Sequence[Entry]

    @classmethod
    def of(cls, file: SweepFile, trials: Trials, found: Sequence[tuple[str, int, Found]]) -> Board:
        """From (method, trial, what `measure` said) of every run of the search; reads figures of validation, or of the folds.

        Raises:
            InputError: the table has no validation part, or its task not that metric.
        """
        of = defaultdict(list)
        for method, number, one in found:
            of[method, number].append(one)
        return cls(
            file,
            [
                Entry(
                    method,
                    number,
                    settings,
                    *(
                        Measured(dict(enumerate(_figure(one, file.judged, name) for one in of[method, number])))
                        for name in (file.metric, "loss")
                    ),
                )
                for method, several in trials.items()
                for number, settings in enumerate(several)
            ],
        )

    def best(self, method: str) -> Entry | None:
        """The trial that validation prefers; None where none stayed finite."""
        return preferred([one for one in self.entries if one.method == method], self.file.metric)

    def write(self, out: Path) -> None:
        """`leaderboard.csv`: the trials of each method, the best first."""
        sign = 1.0 if lower_is_better(self.file.metric) else -1.0
        order = list(self.file.methods)
        ranked = sorted(self.entries, key=lambda one: (order.index(one.method), _last(sign * mean(one.valid))))
        rows = [
            {
                "method": one.method,
                "trial": one.trial + 1,
                "settings": shown(one.settings),
                f"valid_{self.file.metric}": mean(one.valid),
                "sd": one.valid.deviation,
                "valid_loss": mean(one.loss),
                "seeds": " ".join(map(str, self.file.select_seeds)),
            }
            for one in ranked
        ]
        write_csv(out / "leaderboard.csv", rows)


@dataclass(frozen=True)
class Chosen:
    """The trial that validation chose for a method, None where none stayed finite, and its runs by seed."""

    method: str
    entry: Entry | None
    runs: Mapping[int, Found]

    def test(self, metric: str) -> Measured:
        """Test figures by seed.

        Raises:
            InputError: the table has no test part.
        """
        return Measured({seed: _figure(one, "test", metric) for seed, one in self.runs.items()})

    @property
    def seconds(self) -> float:
        """Of training, mean over seeds."""
        spent = [float(one["seconds"]) for one in self.runs.values() if "seconds" in one]
        return math.fsum(spent) / len(spent) if spent else math.nan


def preferred(entries: Sequence[Entry], metric: str) -> Entry | None:
    """The trial of the best validation mean, then of the lower validation loss, then the first; None where none stayed finite."""
    sign = 1.0 if lower_is_better(metric) else -1.0
    able = [one for one in entries if math.isfinite(mean(one.valid))]
    return min(able, key=lambda one: (sign * mean(one.valid), mean(one.loss)), default=None)


def lower_is_better(metric: str) -> bool:
    """Of a task's metric."""
    return metric in Task.lower_is_better | Retrieval.lower_is_better


def shown(settings: Trial) -> str:
    """A trial's settings as one would type them."""
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _figure(found: Found, part: str, metric: str) -> float:
    if "diverged" in found:
        return math.nan
    if part not in found:
        raise InputError(
            f"the runs have no {part} figures: give the table a {part} part (a column split, or data.fractions)"
        )
    if metric not in found[part]:
        raise InputError(f"metric {metric!r}: the runs have {', '.join(found[part])}")
    return float(found[part][metric])


def mean(figures: Measured) -> float:
    """Exact, so that equal figures in another order are a tie."""
    values = list(figures.values.values())
    return math.fsum(values) / len(values) if values else math.nan


def _last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Whole or not at all."""
    with write_atomically(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
