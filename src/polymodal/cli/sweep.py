"""`polymodal sweep`: a fair search over the settings of several methods."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from polymodal.cli.printing import say
from polymodal.errors import InputError

__all__ = ["sweep"]


def sweep(
    file: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    draw: Annotated[bool, Parameter(negative=())] = False,
    jobs: int = 1,
) -> None:
    """Search the settings of several methods with equally many trials each, and compare what validation chose on test.

    Every trial is trained once, by whichever process takes it: run the same command in several terminals, or on machines that
    share the folder, to be done sooner. Stop and repeat as you like; a dead worker's trial is taken over.

    Parameters
    ----------
    file:
        Sweep file.
    data:
        Folder that the file's table lies below, or that has a folder of its data set, named as in `polymodal list datasets`;
        the present one by default.
    out:
        Folder for the list, the runs and the tables; sweep-<name of the file> by default.
    draw:
        Write the list of trials beside the file, as <name>.trials.json to be kept with it, and run nothing.
    jobs:
        Processes that train at a time on this machine.
    """
    from polymodal.experiment.jobs import beside as processes
    from polymodal.experiment.sweep import default_folder
    from polymodal.experiment.sweep import sweep as run
    from polymodal.experiment.sweep_file import read_sweep
    from polymodal.experiment.trials import beside, write_drawn

    if draw:
        trials = write_drawn(file, read_sweep(file))
        say(f"{len(trials)} methods with {len(next(iter(trials.values())))} trials each in {beside(file)}")
        return
    if jobs < 1:
        raise InputError(f"--jobs {jobs}: at least one process")
    out = out or default_folder(file)
    command = ["sweep", str(file), "--out", str(out), *(["--data", str(data)] if data is not None else [])]
    try:
        with processes(command, jobs - 1):
            found = run(file, data, out)
    except KeyboardInterrupt:
        say(f"stopped; what is finished is in {out}, and the same command goes on")
        raise
    print(found.text(), end="")
    say(f"tables in {out}")
