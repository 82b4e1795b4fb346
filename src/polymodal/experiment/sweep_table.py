"""What a sweep found, by test: the chosen trial of every method beside the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymodal.experiment.figures import paired
from polymodal.experiment.sweep_board import Chosen, lower_is_better, mean, preferred, shown, write_csv
from polymodal.experiment.sweep_file import SweepFile
from polymodal.run import write_atomically

__all__ = ["Comparison"]


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
                    f"valid_{metric}": math.nan if one.entry is None else mean(one.entry.valid),
                    f"test_{metric}": mean(test),
                    "sd": test.deviation,
                    "difference": gap,
                    "difference_se": error,
                    "seconds": one.seconds,
                    **{f"seed_{seed}": value for seed, value in test.values.items()},
                }
            )
        return rows

    @property
    def combination(self) -> Chosen | None:
        """Of the methods that combine others, the one that validation prefers; None where none does, or none stayed finite."""
        able = {one.method: one for one in self.chosen if self.file.methods[one.method].combines}
        entry = preferred([one.entry for one in able.values() if one.entry is not None], self.file.metric)
        return None if entry is None else able[entry.method]

    def gains(self) -> dict[str, tuple[float, float]]:
        """Of each method that combines nothing, how much better that combination is on test, and the standard error over seeds.

        Below 0 it is worse, also where a lower metric is better.
        """
        ours = self.combination
        if ours is None:
            return {}
        metric = self.file.metric
        sign = -1.0 if lower_is_better(metric) else 1.0
        singles = [one for one in self.chosen if not self.file.methods[one.method].combines]
        found = {one.method: paired(ours.test(metric), one.test(metric)) for one in singles}
        return {method: (sign * gap, error) for method, (gap, error) in found.items()}

    def text(self) -> str:
        """The table and what it means, in Markdown."""
        file, metric = self.file, self.file.metric
        first, best, gains = self.chosen[0].method, self.combination, self.gains()
        heads = ["method", "settings", "validation", "test", "difference", "seconds"]
        heads += [] if best is None else [f"{best.method} over it"]
        lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
        for row in self.rows():
            test = f"{_number(row[f'test_{metric}'])}{_spread(row['sd'])}"
            gap = "" if row["method"] == first else _gap(row["difference"], row["difference_se"])
            cells = [
                row["method"],
                row["settings"],
                _number(row[f"valid_{metric}"]),
                test,
                gap,
                _number(row["seconds"], ".1f"),
            ]
            if best is not None:
                cells.append(_gap(*gains[row["method"]]) if row["method"] in gains else "")
            lines.append(f"| {' | '.join(str(one).replace('|', chr(92) + '|') for one in cells)} |")
        where = "the validation part"
        if file.folds is not None:
            where = f"what {file.folds} folds of the training and validation rows hold out"
        said = (
            f"{file.trials} trial{'s' * (file.trials > 1)} of each method from the list in `trials.json`, chosen by {metric} on "
            f"{where} (seed{'s' * (len(file.select_seeds) > 1)} {', '.join(map(str, file.select_seeds))}"
            f"{'; lower is better' if lower_is_better(metric) else ''}); test {metric} of the chosen, mean ± standard deviation "
            f"over seeds {', '.join(map(str, file.seeds))}; difference to {first} with its standard error, paired over seeds; "
            "seconds of one training. All trials: `leaderboard.csv`."
        )
        if best is not None:
            below = [method for method, (gain, se) in gains.items() if gain < -(0 if math.isnan(se) else se)]
            unknown = [method for method, (gain, _) in gains.items() if math.isnan(gain)]
            verdict = f"worse than {', '.join(below)}" if below else "worse than none of the others"
            verdict += f", leaving out {', '.join(unknown)}, where a run was not finite," if unknown else ""
            said += (
                f" Of the methods that combine others validation prefers {best.method}; by more than one standard error of "
                f"seeds it is {verdict} on test (above 0 it is better)."
            )
        return (
            "\n\n".join(part for part in (f"# {file.title}", file.note.strip(), "\n".join(lines), said) if part) + "\n"
        )

    def write(self, out: Path) -> None:
        """`sweep.md` and `sweep.csv`."""
        with write_atomically(out / "sweep.md") as temporary:
            temporary.write_text(self.text(), encoding="utf-8")
        write_csv(out / "sweep.csv", self.rows())


def _gap(difference: float, error: float) -> str:
    return f"{_number(difference, '+.4f')}{_spread(error, ' ({})')}"


def _number(value: float, form: str = ".4f") -> str:
    return "-" if math.isnan(value) else f"{value:{form}}"


def _spread(value: float, form: str = " ± {}") -> str:
    return "" if math.isnan(value) else form.format(f"{value:.4f}")
