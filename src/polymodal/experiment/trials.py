"""The list of a sweep's trials, drawn and written before the first run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from polymodal.errors import InputError
from polymodal.experiment.sweep_file import SweepFile, Trial
from polymodal.run import write_atomically

__all__ = ["Trials", "beside", "draw", "list_of", "read_trials", "write_drawn", "write_trials"]

Trials = dict[str, list[Trial]]
"""Of each method, equally many."""
SHARED = ""
"""Stands for the method where a setting is searched for all of them."""


def draw(file: SweepFile) -> Trials:
    """The trials of every method.

    Every setting has a generator of its own, seeded by the file's seed, the method and the setting. So another method, setting
    or number of trials moves nothing that was drawn before, and settings that all methods share are drawn alike for them.

    Raises:
        InputError: settings that a run would refuse.
    """
    found: Trials = {}
    for method, one in file.methods.items():
        space = file.space_of(method)
        # Python keeps what `random` yields for a seed from version to version.
        random = {key: Random(f"{file.seed}\n{method if key in one.space else SHARED}\n{key}") for key in space}
        found[method] = [{key: space[key].draw(random[key]) for key in space} for _ in range(file.trials)]
    _check(file, found)
    return found


def beside(path: Path) -> Path:
    """Where the list of a sweep file is kept."""
    return path.with_name(f"{path.stem}.trials.json")


def write_drawn(path: Path, file: SweepFile) -> Trials:
    """Draw a file's list and write it beside the file, in the place of one that is there.

    Raises:
        InputError: settings that a run would refuse, or a place that cannot be written.
    """
    trials = draw(file)
    write_trials(beside(path), file, trials)
    return trials


def list_of(path: Path, file: SweepFile, out: Path) -> Trials:
    """The list that a sweep runs: the one beside its file, or else that of its folder, which is drawn where it has none.

    Raises:
        InputError: the list does not fit the file, or the folder holds runs of another.
    """
    committed, kept = beside(path), out / "trials.json"
    if committed.is_file():
        trials = read_trials(committed, file, f"draw it anew with: polymodal sweep {path} --draw")
    elif kept.is_file():
        return read_trials(kept, file, "name another folder with --out, or delete that list to draw anew")
    else:
        trials = draw(file)
    if kept.is_file() and read_trials(kept, file, "name another folder with --out, or delete that list") != trials:
        raise InputError(f"{kept} is not the list {committed}; name another folder with --out, or delete {kept}")
    write_trials(kept, file, trials)
    return trials


def write_trials(path: Path, file: SweepFile, trials: Trials) -> None:
    """Write a list with what it was drawn from.

    Raises:
        InputError: the place cannot be written.
    """
    methods = {method: {"space": _plain(file, method), "trials": found} for method, found in trials.items()}
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps({"seed": file.seed, "methods": methods}, indent=1) + "\n", encoding="utf-8")


def read_trials(path: Path, file: SweepFile, remedy: str) -> Trials:
    """Read a list that fits a file.

    Raises:
        InputError: it does not; the message says in what, and ends with the remedy.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        seed, methods = found["seed"], {name: (one["space"], one["trials"]) for name, one in found["methods"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not a list of trials ({type(error).__name__}: {error}); {remedy}") from error
    problem = _misfit(file, seed, methods)
    if problem:
        raise InputError(f"{path} does not fit the sweep file: {problem}; {remedy}")
    result = {method: methods[method][1] for method in file.methods}
    _check(file, result)
    return result


def _misfit(file: SweepFile, seed: int, methods: Mapping[str, tuple[Any, Any]]) -> str:
    """In what a list does not fit a file; empty where it does."""
    if seed != file.seed:
        return f"it was drawn with seed {seed}, not {file.seed}"
    if set(methods) != set(file.methods):
        return f"it has the methods {', '.join(methods)}, not {', '.join(file.methods)}"
    for method, (drawn_from, trials) in methods.items():
        space = file.space_of(method)
        if drawn_from != _plain(file, method):
            return f"{method!r} was drawn from another space"
        if len(trials) != file.trials:
            return f"{method!r} has {len(trials)} trials, not {file.trials}"
        for number, trial in enumerate(trials, 1):
            wrong = [
                key
                for key in {**space, **trial}
                if key not in space or key not in trial or not space[key].holds(trial[key])
            ]
            if wrong:
                return f"trial {number} of {method!r} does not lie in its space ({', '.join(wrong)})"
    return ""


def _check(file: SweepFile, trials: Trials) -> None:
    for method, found in trials.items():
        for trial in found:
            file.check(method, trial)


def _plain(file: SweepFile, method: str) -> dict[str, Any]:
    return {key: one.model_dump(mode="json", exclude_none=True) for key, one in file.space_of(method).items()}
