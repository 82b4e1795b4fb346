"""The methods of the three papers and their combinations under one budget: the five sweeps of experiments/, and what wins.

    python benchmarks/sweeps.py ../shared/data [--sets mosi_utt ...] [--jobs 2] [--check] [--out FILE] [--cache FOLDER]

Runs `polymodal sweep` on each set (about two hours of two cores in all; runs are kept in FOLDER, so that the same command goes
on where it was stopped), and prints its tables. Of the methods that combine others (MLB inside MMLoRA's joint stage, Wander after
MMLoRA, MLB on a Wander model, Wander after MLB) the one that the folds of training and validation prefer is compared with every
method that combines nothing: on test it should be as good as what each of the three papers proposes (MMLoRA, Wander, MLB), within
one standard error.

Test rows and seeds are both samples, so that the standard error of the difference is over both (`_common.two_way`); what rows
alone and seeds alone would say stands beside it, and so do the methods that the papers compare with. `--check` exits with 1 where
a paper's method is better by more than that ("paired"). Wider, and told beside it ("own"), is the standard error of the
combination's accuracy over test rows, which auto.py and advice.py go by.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from _common import circumstances, expanded, grouped, markdown, own_error, signed, two_way
from numpy.typing import NDArray

from polymodal.experiment.fingerprints import fingerprint
from polymodal.experiment.jobs import beside
from polymodal.experiment.sweep import sweep
from polymodal.experiment.sweep_board import Chosen, mean
from polymodal.experiment.sweep_table import Comparison

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"
SETS: Mapping[str, tuple[str, ...]] = {
    "mosi_utt": ("mosi_utt",),
    "mfeat6": ("mfeat6",),
    "grid_digits": ("grid_digits",),
    "grid_digits_noisy": ("grid_digits", "--snr", "-5"),
    "emoji_groups": ("emoji_groups",),
}
"""By the name of the sweep file, what expand.py is asked for."""
GROUPS = {"mosi_utt": "video_id", "emoji_groups": "group"}
"""Arrays of the data whose groups no fold divides."""
PROPOSED = ("mmlora", "wander", "mlb")
"""What the papers propose; the others are what they compare with."""


@dataclass(frozen=True)
class Line:
    """A single method beside the combination that validation prefers: how much better that is, with its standard errors."""

    method: str
    gain: float
    own: float
    paired: float
    rows: float
    seeds: float

    @property
    def holds_own(self) -> bool:
        """By the standard error of the combination's accuracy."""
        return self.gain >= -self.own - 1e-12

    @property
    def holds(self) -> bool:
        """By that of the difference."""
        return self.gain >= -self.paired - 1e-12


def right(comparison: Comparison, one: Chosen, table: str, runs: Path) -> NDArray[np.float64]:
    """(S, N) whether the chosen trial's run of a seed is right on a test row."""
    assert one.entry is not None
    values = comparison.file.settings(one.method, one.entry.settings) | {"table": table}
    found = []
    for seed in comparison.file.seeds:
        told = pd.read_csv(runs / fingerprint(values | {"seed": seed}) / "predictions" / "test.csv")
        found.append((told["prediction"] == told["target"]).to_numpy(float))
    return np.stack(found)


def lines(comparison: Comparison, table: str, runs: Path) -> list[Line]:
    """Every single method that stayed finite on all seeds; none where no combination did."""
    best = comparison.combination
    if best is None or math.isnan(mean(best.test(comparison.file.metric))):
        return []
    gains = comparison.gains()
    others = [one for one in comparison.chosen if not math.isnan(gains.get(one.method, (math.nan,))[0])]
    ours = right(comparison, best, table, runs)
    return [
        Line(one.method, gap, own_error(ours), *errors)
        for one in others
        for gap, *errors in [two_way(ours - right(comparison, one, table, runs))]
    ]


def told(comparison: Comparison, found: list[Line]) -> str:
    """Markdown of a set."""
    best = comparison.combination
    if best is None or not found:
        return f"{comparison.text()}\nNo combination stayed finite."
    heads = [f"{best.method} over", "difference (paired se)", "se of rows alone", "of seeds alone", "paired", "own"]
    rows = [
        [
            one.method,
            signed((one.gain, one.paired)),
            f"{one.rows:.3f}",
            f"{one.seeds:.3f}",
            *("yes" if good else "NO" for good in (one.holds, one.holds_own)),
        ]
        for one in found
    ]
    missed = [one.method for one in found if not one.holds]
    own = [one.method for one in found if not one.holds_own]
    verdict = (
        f"By the paired standard error it is below {_listed(missed)}; by that of its accuracy, {found[0].own:.3f}, below "
        f"{_listed(own)}. Missed, of what the papers propose: {_listed([one for one in missed if one in PROPOSED])}."
    )
    return f"{comparison.text().replace('# ', '### ', 1)}\n{markdown(heads, rows)}\n\n{verdict}"


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the development data, with expand.py")
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--out", type=Path, help="file for the Markdown tables")
    parser.add_argument("--cache", type=Path, default=Path("build/sweeps"), help="expanded sets and finished runs")
    args = parser.parse_args()
    texts, missed = [], 0
    for name in args.sets:
        file, out = EXPERIMENTS / f"sweep_{name}.yaml", args.cache / "runs" / name
        table = expanded(args.data, SETS[name][0], args.cache, *SETS[name][1:])
        if name in GROUPS:
            grouped(args.data, SETS[name][0], table, GROUPS[name])
        with beside(["sweep", str(file), "--data", str(args.cache), "--out", str(out)], args.jobs - 1):
            comparison = sweep(file, args.cache, out)
        found = lines(comparison, comparison.file.where(args.cache), out / "runs")
        missed += sum(not one.holds and one.method in PROPOSED for one in found) if found else 1
        texts.append(told(comparison, found))
        print(texts[-1], flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n\n".join([*texts, circumstances()]) + "\n", encoding="utf-8")
    print(f"\n{circumstances()}")
    return int(bool(args.check and missed))


if __name__ == "__main__":
    sys.exit(main())
