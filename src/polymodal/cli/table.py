"""`polymodal table`: a table or figure of a paper, measured beside published."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from polymodal.cli.printing import say
from polymodal.errors import InputError

__all__ = ["table"]


def table(
    file: Path,
    *,
    data: Path | None = None,
    mini: Annotated[bool, Parameter(negative=())] = False,
    rows: str | None = None,
    sets: Annotated[list[str], Parameter(negative=(), consume_multiple=True)] = [],  # noqa: B006
    seeds: Annotated[list[int], Parameter(negative=(), consume_multiple=True)] = [],  # noqa: B006
    jobs: int = 1,
    out: Path = Path("tables"),
) -> None:
    """Train what a table of a paper needs and print it beside the published figures.

    What is finished is not trained again, in whichever table it was needed first; stop and repeat as you like, also from
    several terminals or machines at once on one folder.

    Parameters
    ----------
    file:
        Experiment file, e.g. experiments/mmlora_table5.yaml.
    data:
        Folder with a folder of each data set, named as in `polymodal list datasets`.
    mini:
        Made-up miniatures and small encoders instead: whether every row runs.
    rows:
        Pattern of row labels, e.g. "MMLoRA*".
    sets:
        Data sets of the file; all by default.
    seeds:
        Instead of the file's.
    jobs:
        Processes that train at a time.
    out:
        Folder for the runs and the tables, which all experiment files may share.
    """
    from polymodal.experiment.jobs import beside
    from polymodal.experiment.table import run_table

    if jobs < 1:
        raise InputError(f"--jobs {jobs}: at least one process")
    if (data is None) != mini:
        raise InputError("say where the data sets are with --data ROOT, or take made-up ones with --mini")
    command = ["table", str(file), "--out", str(out), *(["--mini"] if mini else ["--data", str(data)])]
    command += [*(["--rows", rows] if rows else []), *(["--sets", *sets] if sets else [])]
    command += ["--seeds", *map(str, seeds)] if seeds else []
    with beside(command, jobs - 1):
        results = run_table(file, data=data, mini=mini, rows=rows, sets=tuple(sets), seeds=seeds or None, out=out)
    print(results.text())
    if sys.stdout.isatty():
        say(f"page with pictures in {results.page}")
