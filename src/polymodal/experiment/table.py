"""The runner of an experiment file: it trains what its cells lack."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polymodal.errors import Diverged, InputError
from polymodal.experiment.claims import Claims
from polymodal.experiment.file import read_experiment
from polymodal.experiment.lines import lines_of
from polymodal.experiment.mini import Miniatures
from polymodal.experiment.page import write
from polymodal.experiment.plan import Sources, Table, plan
from polymodal.experiment.results import Results
from polymodal.experiment.runs import measure
from polymodal.run import logger

__all__ = ["run_table"]


def run_table(
    file: Path,
    *,
    data: Path | None = None,
    mini: bool = False,
    rows: str | None = None,
    sets: tuple[str, ...] = (),
    seeds: Sequence[int] | None = None,
    out: Path = Path("tables"),
    show: bool | None = None,
    measure: Callable[..., dict[str, Any]] = measure,
) -> Results:
    """Train what an experiment file's cells lack, and put its figures beside the published ones.

    Several processes may work on the same folder at once: each takes runs that no other has. A run that fails leaves its
    cells empty; the others are run, and the error comes at the end.

    Args:
        file: the experiment file.
        data: folder that holds the data sets.
        mini: take miniatures and small encoders instead.
        rows: pattern of row labels.
        sets: data sets.
        seeds: instead of the file's.
        out: folder that tables share: its `runs` are reused by every cell with the same settings.
        show: force progress bars on or off.
        measure: trains one run.

    Raises:
        InputError: a wrong file, row, set or setting, before anything is run; or what made runs fail, after the others.
    """
    experiment = read_experiment(file)
    cells = experiment.cells(rows, sets)
    small = Miniatures(out / "miniatures") if mini else None
    sources = Sources(experiment, data, small)
    table = plan(experiment, cells, tuple(seeds or experiment.seeds), sources)
    claims = Claims(out)
    began, total = time.perf_counter(), len(table.runs)
    missing = [key for key in table.runs if claims.result(key) is None]
    logger.info("%d runs, %d of them done", total, total - len(missing), extra={"note": True})

    def train(key: str) -> dict[str, Any]:
        values = dict(table.runs[key])
        begin = values.get("recipe", {}).get("start_from") if isinstance(values.get("recipe"), Mapping) else None
        if isinstance(begin, str) and begin.startswith("run:"):
            values["recipe"] = {**values["recipe"], "start_from": str(out / "runs" / begin.removeprefix("run:"))}
        try:
            return measure(values, out / "runs" / key, probe=key in table.probes, show=show)
        except Diverged as error:
            return {"diverged": str(error)}
        except InputError as error:
            table.failed[key] = str(error)
            raise

    def told(key: str, found: Mapping[str, Any]) -> None:
        table.found[key] = dict(found)
        if key not in missing:
            return
        left = sum(one not in table.found for one in missing)
        spent, done = time.perf_counter() - began, len(missing) - left
        ahead = f", about {spent / done * left / 60:.0f} min left" if done > 0 and left else ""
        logger.info("%d of %d runs%s: %s", total - left, total, ahead, table.named(key), extra={"note": True})

    error: InputError | None = None
    try:
        for group in _in_order(table):
            claims.work(group, train, found=told)
    except InputError as raised:
        error = raised
    _probe_later(table, claims, out, measure)
    runs = {place: out / "runs" / key for place, key in table.of.items()}
    results = Results(experiment, lines_of(table, sources), out, mini=mini, runs=runs)
    write(results)
    if error is not None:
        raise InputError(f"{_told(table) or error}; the other cells are in {results.markdown}") from error
    return results


def _told(table: Table) -> str:
    """What went wrong, each message once, with the first run that it stopped and how many more."""
    runs: dict[str, list[str]] = {}
    for key, message in table.failed.items():
        runs.setdefault(message, []).append(table.named(key))
    told = [
        f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {message}"
        for message, names in runs.items()
    ]
    return f"{len(table.failed)} of {len(table.runs)} runs failed. " + "; ".join(told) if told else ""


def _in_order(table: Table) -> list[list[str]]:
    """Runs that others begin with first."""
    before = {
        str(values["recipe"]["start_from"]).removeprefix("run:")
        for values in table.runs.values()
        if isinstance(values.get("recipe"), Mapping) and values["recipe"].get("start_from")
    }
    first = [key for key in table.runs if key in before]
    return [first, [key for key in table.runs if key not in before]]


def _probe_later(table: Table, claims: Claims, out: Path, measure: Callable[..., dict[str, Any]]) -> None:
    """Probe runs that were finished before a cell asked for it."""
    for key in (one for one in table.runs if one in table.probes):
        if key in table.found and not {"probe", "diverged"} & set(table.found[key]):
            table.found[key] = measure(table.runs[key], out / "runs" / key, probe=True)
