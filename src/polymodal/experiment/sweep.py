"""A fair search: equally many trials for every method, chosen on validation, test figures of the chosen alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from polymodal.errors import Diverged, InputError
from polymodal.experiment.claims import Claims
from polymodal.experiment.fingerprints import fingerprint
from polymodal.experiment.runs import measure
from polymodal.experiment.sweep_board import Board, Chosen
from polymodal.experiment.sweep_file import read_sweep
from polymodal.experiment.sweep_table import Comparison
from polymodal.experiment.trials import list_of
from polymodal.run import logger

__all__ = ["default_folder", "sweep"]

Found = Mapping[str, Any]


class Unit(NamedTuple):
    """One training run; `part` is what its figure is of."""

    method: str
    trial: int
    key: str
    values: dict[str, Any]
    part: str

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.values["seed"])

    def __str__(self) -> str:
        fold = self.values.get("data", {}).get("fold")
        which = f", fold {fold[0]} of {fold[1]}" if fold and self.part == "test" else ""
        return f"{self.method}, trial {self.trial + 1}, seed {self.seed}{which}"


def sweep(
    path: Path,
    data: Path | None = None,
    out: Path | None = None,
    *,
    measure: Callable[..., dict[str, Any]] = measure,
    stale: float = 60.0,
) -> Comparison:
    """Run a sweep file's list, choose every method's trial and compare the chosen; whatever is done already is reused.

    Any number of processes, on machines that share `out`, may do the same at once: together they run the list, each run once,
    and each of them returns the same comparison. A run whose loss is not finite any more is a trial that is never chosen.

    Args:
        path: the sweep file.
        data: folder that the file's table lies below.
        out: gets `trials.json`, `runs/<fingerprint>/`, `units/` (who does what), `leaderboard.csv`, `sweep.md` and `sweep.csv`;
            `sweep-<name of the file>` by default.
        measure: trains one run.
        stale: seconds after which a worker that gives no sign of life counts as dead.

    Raises:
        InputError: a wrong file, setting or list, before anything is run; or what made runs fail, after the others.
    """
    file = read_sweep(path)
    table = file.where(data)
    out = default_folder(path) if out is None else Path(out)
    trials = list_of(path, file, out)

    def values(method: str, number: int) -> dict[str, Any]:
        return file.settings(method, trials[method][number]) | {"table": table}

    def units(method: str, number: int, runs: Iterable[dict[str, Any]], part: str) -> list[Unit]:
        return [Unit(method, number, _key(method, own), own, part) for own in runs]

    search = [
        one
        for n in range(file.trials)
        for m in file.methods
        for one in units(m, n, file.searched(values(m, n)), file.judged)
    ]
    work = _Work(Claims(out / "units", stale=stale), out / "runs", measure, file.metric)
    others = set(file.seeds) - (set(file.select_seeds) if file.folds is None else set())
    found = work.run(search, later=len(file.methods) * len(others))
    board = Board.of(file, trials, [(one.method, one.trial, found[one.key]) for one in search])
    board.write(out)
    chosen = {method: board.best(method) for method in file.methods}
    last = [
        one
        for m, best in chosen.items()
        if best is not None
        for one in units(m, best.trial, ({**values(m, best.trial), "seed": seed} for seed in file.seeds), "valid")
    ]
    found = work.run(last)
    winners = [
        Chosen(method, best, {one.seed: found[one.key] for one in last if one.method == method})
        for method, best in chosen.items()
    ]
    comparison = Comparison(file, winners)
    comparison.write(out)
    return comparison


def default_folder(path: Path) -> Path:
    """Where a sweep file's runs go: the same for everybody who starts it from the same place."""
    return Path(f"sweep-{path.stem}")


def _key(method: str, values: Mapping[str, Any]) -> str:
    try:
        return fingerprint(values)
    except InputError as error:
        raise InputError(f"method {method!r}: {error}") from error


class _Work:
    """Runs units that nobody has done, and tells of each that is finished, by whomever."""

    def __init__(self, claims: Claims, runs: Path, measure: Callable[..., dict[str, Any]], metric: str) -> None:
        self._claims, self._runs, self._measure, self._metric = claims, runs, measure, metric
        self._began = time.monotonic()
        self._done = 0

    def run(self, units: list[Unit], later: int = 0) -> dict[str, dict[str, Any]]:
        """What each of these units yielded, by its key; `later` more will follow."""
        of = {one.key: one for one in reversed(units)}
        missing = {key for key in of if self._claims.result(key) is None}
        if len(missing) < len(of) and later:
            logger.info("%d of %d runs are there already", len(of) - len(missing), len(of), extra={"note": True})

        def do(key: str) -> dict[str, Any]:
            try:
                return self._measure(of[key].values, self._runs / key, show=False)
            except Diverged as error:
                return {"diverged": str(error)}

        before, total = self._done, len(missing)

        def tell(key: str, found: Found) -> None:
            if key not in missing:
                return
            missing.discard(key)
            # Others have done some that this worker has not come by yet.
            here = sum(self._claims.result(one) is None for one in missing)
            self._done, left = before + total - here, here + later
            seconds = (time.monotonic() - self._began) / self._done * left
            rest = f"{left} left, about {_duration(seconds)}" if left else "the last"
            logger.info("%s: %s; %s", of[key], self._figure(of[key].part, found), rest, extra={"note": True})

        return self._claims.work([one.key for one in units], do, found=tell)

    def _figure(self, part: str, found: Found) -> str:
        if "diverged" in found:
            return "not finite"
        metrics, named = found.get(part, {}), "validation" if part == "valid" else "held-out"
        if self._metric not in metrics:
            return f"no {named} {self._metric}"
        return f"{named} {self._metric} {metrics[self._metric]:.4f}, {found['seconds']:.0f} s"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
