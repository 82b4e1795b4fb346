"""What is asked of a trained run: its metrics, predictions, report and diagnosis."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

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


def diagnose(
    run: Path,
    *overrides: str,
    label: str | None = None,
    modality: Many = [],  # noqa: B006
    preset: Literal["tiny", "small", "base", "large"] | None = None,
    epochs: int | None = None,
    config: Path | None = None,
    folds: int | None = None,
    seed: int = 0,
    trust: Many = [],  # noqa: B006
) -> None:
    """Tell on the validation split which modality of a run is under-trained, by how much, and what to try.

    Of a table, before training: train each modality alone, heads on the frozen encoders, and three joint models (Multi-Loss,
    linear and MLP; MLB), each on every fold of the training and validation rows, and say which recipe to take.

    Parameters
    ----------
    run:
        Folder that `fit` wrote; the diagnosis goes to RUN/diagnose.json and into its report. Or a table or data set, as `fit`
        takes it.
    overrides:
        Of a table: settings as key.sub=value.
    label:
        Of a table: label column.
    modality:
        Of a table: NAME=COLUMN:KIND, once a modality; inferred by default.
    preset:
        Of a table: encoders of all modalities.
    epochs:
        Of a table: passes over the training split (25).
    config:
        Of a table: YAML file of settings.
    folds:
        Of a table: how often its training and validation rows are divided anew (5), until 2,000 samples have been judged.
    seed:
        Of the bootstrap, or of the trainings.
    trust:
        Module outside polymodal that the run may import.
    """
    given = [label, modality, preset, epochs, config, folds, overrides]
    if not run.is_dir():
        flags = {"label": label, "modalities": modality or None, "preset": preset, "epochs": epochs, "seed": seed}
        _advise(str(run), flags, config, overrides, 5 if folds is None else folds)
        return
    if any(given):
        raise InputError(f"{run} is a run's folder, whose settings are known; leave out those of a table")
    from polymodal.analysis.diagnose import diagnose as look
    from polymodal.analysis.reports import report as write

    print(look(run, trust=trust, seed=seed).text())
    write(run)


def _advise(table: str, flags: dict[str, Any], config: Path | None, overrides: Sequence[str], folds: int) -> None:
    from polymodal.analysis.advise import advise
    from polymodal.config import from_flags, laid, load_config, read_yaml
    from polymodal.datasets import with_preset
    from polymodal.predictor import Predictor

    values = with_preset(laid(read_yaml(config) if config else {}, from_flags(flags | {"table": table})))
    if "label" not in values:
        raise InputError(f"{table} is no run's folder; of a table name the label column with --label COLUMN")
    settings = load_config(values, overrides)
    found = advise(Predictor(config=settings).rounds(table, settings.valid, folds=folds))
    print(found.text() if sys.stdout.isatty() else json.dumps(found.to_dict(), indent=2))
