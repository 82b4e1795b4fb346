"""What is asked of a trained run: its metrics, predictions, report and diagnosis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from polymodal.cli.options import Many
from polymodal.cli.printing import print_subsets, say
from polymodal.errors import InputError

__all__ = ["diagnose", "evaluate", "predict", "report"]


def evaluate(
    run: Path,
    table: str | None = None,
    *,
    split: str | None = None,
    drop: Many = [],  # noqa: B006
    subsets: Annotated[bool, Parameter(negative=())] = False,
    trust: Many = [],  # noqa: B006
) -> None:
    """Metrics of a trained run, on its own test split or on another table.

    Parameters
    ----------
    run:
        Folder that `fit` wrote.
    table:
        Labelled table; the one that the run was trained on by default.
    split:
        train, valid or test part of the table; a new table is evaluated as a whole by default.
    drop:
        Modality to take from every row, once a modality.
    subsets:
        A table of the metrics for every subset of the modalities instead.
    trust:
        Module outside polymodal that the run may import.
    """
    from polymodal.predictor import Predictor

    predictor = Predictor.load(run, trust=trust)
    if not subsets:
        print(json.dumps(predictor.evaluate(table, split, drop=drop), indent=2))
        return
    if drop:
        raise InputError(f"--drop {drop[0]}: --subsets tells every subset already; leave one of the two out")
    print_subsets(predictor.evaluate_subsets(table, split).to_dict("records"))


def predict(run: Path, table: str, *, out: Path, trust: Many = []) -> None:  # noqa: B006
    """Predict each row of a table, which needs no label column.

    Parameters
    ----------
    run:
        Folder that `fit` wrote.
    table:
        Table with the columns that the run's modalities are read from.
    out:
        CSV file to write: id, prediction, prob_<class> of each class.
    trust:
        Module outside polymodal that the run may import.
    """
    from polymodal.predictor import Predictor
    from polymodal.run import write_atomically

    frame = Predictor.load(run, trust=trust).prediction_table(table)
    with write_atomically(out) as temporary:
        frame.to_csv(temporary, index=False)
    say(f"{len(frame)} predictions in {out}")


def report(*runs: Path, out: Path | None = None) -> None:
    """Write RUN/report.html of one run, or one page that compares several.

    Parameters
    ----------
    runs:
        Folders that `fit` wrote.
    out:
        HTML file of the comparison; report.html in the present folder by default.
    """
    from polymodal.analysis.reports import compare
    from polymodal.analysis.reports import report as write

    if not runs:
        raise InputError("name a run folder: polymodal report RUN...")
    if len(runs) == 1 and out is not None:
        raise InputError(
            f"the report of one run is {runs[0] / 'report.html'}; --out is for a page that compares several"
        )
    say(f"report in {write(runs[0]) if len(runs) == 1 else compare(runs, out or Path('report.html'))}")


def diagnose(run: Path, *, seed: int = 0, trust: Many = []) -> None:  # noqa: B006
    """Tell on the validation split which modality of a run is under-trained, by how much, and what to try.

    Parameters
    ----------
    run:
        Folder that `fit` wrote; the diagnosis goes to RUN/diagnose.json and into its report.
    seed:
        Of the bootstrap.
    trust:
        Module outside polymodal that the run may import.
    """
    from polymodal.analysis.diagnose import diagnose as look
    from polymodal.analysis.reports import report as write

    print(look(run, trust=trust, seed=seed).text())
    write(run)
