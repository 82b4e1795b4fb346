"""What a sweep found: the leaderboard of its trials by validation, and the comparison of the chosen by test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from polymodal.errors import InputError
from polymodal.experiment.figures import Measured, paired
from polymodal.experiment.sweep_file import SweepFile, Trial
from polymodal.experiment.trials import Trials
from polymodal.run import write_atomically
from polymodal.tasks import Retrieval, Task

__all__ = ["Board", "Chosen", "Comparison", "Entry"]

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """One trial of a method: its validation figures by seed, NaN of a run that was not finite."""

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
    def of(cls, file: SweepFile, trials: Trials, found: Sequence[tuple[str, int, int, Found]]) -> Board:
        """From (method, trial, seed, what `measure` said) of every run of the search; reads validation figures alone.

        Raises:
            InputError: the table has no validation part, or its task not that metric.
        """
        return cls(
            file,
            [
                Entry(
                    method,
                    number,
                    settings,
                    *(
                        Measured(
                            {s: _figure(one, "valid", name) for m, n, s, one in found if (m, n) == (method, number)}
                        )
                        for name in (file.metric, "loss")
                    ),
                )
                for method, several in trials.items()
                for number, settings in enumerate(several)
            ],
        )

    def best(self, method: str) -> Entry | None:
        """The trial of the best mean, then of the lower validation loss, then the first; None where none stayed finite."""
        sign = 1.0 if lower_is_better(self.file.metric) else -1.0
        able = [one for one in self.entries if one.method == method and math.isfinite(_mean(one.valid))]
        return min(able, key=lambda one: (sign * _mean(one.valid), _mean(one.loss)), default=None)

    def write(self, out: Path) -> None:
        """`leaderboard.csv`: the trials of each method, the best first."""
        sign = 1.0 if lower_is_better(self.file.metric) else -1.0
        order = list(self.file.methods)
        ranked = sorted(self.entries, key=lambda one: (order.index(one.method), _last(sign * _mean(one.valid))))
        rows = [
            {
                "method": one.method,
                "trial": one.trial + 1,
                "settings": shown(one.settings),
                f"valid_{self.file.metric}": _mean(one.valid),
                "sd": one.valid.deviation,
                "valid_loss": _mean(one.loss),
                "seeds": " ".join(map(str, one.valid.values)),
            }
            for one in ranked
        ]
        _write_csv(out / "leaderboard.csv", rows)


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


@dataclass(frozen=True)
class Comparison:
    """The chosen trial of every method, on all seeds."""

    file: SweepFile
    chosen: Sequence[Chosen]

    def rows(self) -> list[dict[str, Any]]:
        """One a method; differences are to the first, seed by seed, with their standard error."""
        metric = self.file.metric
        first = self.chosen[0].test(metric)
        rows = []
        for one in self.chosen:
            test = one.test(metric)
            gap, error = (math.nan, math.nan) if one is self.chosen[0] else paired(test, first)
            rows.append(
                {
                    "method": one.method,
                    "trial": None if one.entry is None else one.entry.trial + 1,
                    "settings": "none stayed finite" if one.entry is None else shown(one.entry.settings),
                    f"valid_{metric}": math.nan if one.entry is None else _mean(one.entry.valid),
                    f"test_{metric}": _mean(test),
                    "sd": test.deviation,
                    "difference": gap,
                    "difference_se": error,
                    "seconds": one.seconds,
                    **{f"seed_{seed}": value for seed, value in test.values.items()},
                }
            )
        return rows

    def text(self) -> str:
        """The table and what it means, in Markdown."""
        file, metric = self.file, self.file.metric
        first = self.chosen[0].method
        lines = [
            "| method | settings | validation | test | difference | seconds |",
            "|---|---|---|---|---|---|",
        ]
        for row in self.rows():
            test = f"{_number(row[f'test_{metric}'])}{_spread(row['sd'])}"
            gap = (
                ""
                if row["method"] == first
                else f"{_number(row['difference'], '+.4f')}{_spread(row['difference_se'], ' ({})')}"
            )
            cells = [
                row["method"],
                row["settings"],
                _number(row[f"valid_{metric}"]),
                test,
                gap,
                _number(row["seconds"], ".1f"),
            ]
            lines.append(f"| {' | '.join(str(one).replace('|', chr(92) + '|') for one in cells)} |")
        said = (
            f"{file.trials} trial{'s' * (file.trials > 1)} of each method from the list in `trials.json`, chosen by {metric} on "
            f"the validation part (seeds {', '.join(map(str, file.select_seeds))}"
            f"{'; lower is better' if lower_is_better(metric) else ''}); test {metric} of the chosen, mean ± standard deviation "
            f"over seeds {', '.join(map(str, file.seeds))}; difference to {first} with its standard error, paired over seeds; "
            "seconds of one training. All trials: `leaderboard.csv`."
        )
        return (
            "\n\n".join(part for part in (f"# {file.title}", file.note.strip(), "\n".join(lines), said) if part) + "\n"
        )

    def write(self, out: Path) -> None:
        """`sweep.md` and `sweep.csv`."""
        with write_atomically(out / "sweep.md") as temporary:
            temporary.write_text(self.text(), encoding="utf-8")
        _write_csv(out / "sweep.csv", self.rows())


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


def _mean(figures: Measured) -> float:
    """Exact, so that equal figures in another order are a tie."""
    values = list(figures.values.values())
    return math.fsum(values) / len(values) if values else math.nan


def _last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _number(value: float, form: str = ".4f") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _spread(value: float, form: str = " ± {}") -> str:
    return "" if math.isnan(value) else form.format(f"{value:.4f}")


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with write_atomically(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
