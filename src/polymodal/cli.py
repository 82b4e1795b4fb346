"""The command line: parses, calls the predictor, prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import App, Parameter

from polymodal.errors import InputError

__all__ = ["app", "main"]

app = App(
    name="polymodal",
    help="Train one model on several modalities so that none of them is starved by the others.",
    version_flags=["--version"],
)

ABOUT = {
    ("balancers", "joint"): "Joint training: the fused loss alone.",
    ("adapters", "lora"): "Low-rank updates W x + (alpha / r) B A x of the weights of one encoder.",
}
"""What `list` says of classes whose docstring is about something else."""

Many = Annotated[list[str], Parameter(negative=(), consume_multiple=False)]


@app.command
def fit(
    table: str | None = None,
    *overrides: str,
    label: str | None = None,
    modality: Many = [],  # noqa: B006
    encoder: Many = [],  # noqa: B006
    preset: Literal["tiny", "small", "base", "large"] | None = None,
    recipe: str | None = None,
    balancer: str | None = None,
    fusion: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    valid: str | None = None,
    group: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    select: Literal["best", "last"] | None = None,
    modality_dropout: float | None = None,
    device: str | None = None,
    precision: Literal["bf16", "fp16"] | None = None,
    workers: int | None = None,
    on_error: Literal["raise", "skip"] | None = None,
    seed: int | None = None,
    out: Path | None = None,
    resume: Path | None = None,
    config: Path | None = None,
    time_limit: float | None = None,
    trust: Many = [],  # noqa: B006
    dry_run: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Train a model on a table of files, texts and numbers.

    Parameters
    ----------
    table:
        CSV, TSV, JSON-lines or Parquet file; paths in it are relative to its folder. Or a data set, DATASET:ROOT or
        DATASET/PRESET:ROOT, whose preset names label, modalities and preprocessing; see `polymodal list datasets`.
    overrides:
        Settings as key.sub=value, for example balancer.alpha=2 or train.clip=1.
    label:
        Label column.
    modality:
        NAME=COLUMN:KIND, once a modality; kinds are image, audio, video, text, numeric, categorical, vector. Without any,
        they are inferred from the cells.
    encoder:
        NAME=ENCODER of a modality; see `polymodal list encoders`.
    preset:
        Encoders of all other modalities: tiny from scratch, small from pip's packages, base and large from local files.
    recipe:
        Order of training; see `polymodal list recipes`.
    balancer:
        What changes the gradient of a step; see `polymodal list balancers`, or a dotted path of your own.
    fusion:
        How modalities are joined; see `polymodal list fusions`, or a dotted path of your own.
    task:
        classification, multilabel or regression; inferred from the label by default.
    metric:
        What the best epoch is chosen by.
    valid:
        A second table that is the validation split.
    group:
        Column whose groups are not divided between splits.
    epochs:
        Passes over the training split (25).
    batch_size:
        Samples a step and process (32).
    select:
        Keep the weights of the best epoch on validation, or of the last.
    modality_dropout:
        Probability with which a training sample loses each modality (0), so that the model predicts with any of them.
    device:
        cpu keeps off accelerators.
    precision:
        Mixed precision.
    workers:
        Threads or processes that decode.
    on_error:
        Stop at broken files, or skip, count and list them.
    seed:
        Of every random choice (0).
    out:
        Folder of the run, new or empty; run-<table>-<number> by default.
    resume:
        Folder of a run that was stopped: go on with it, with its own settings.
    config:
        YAML file of settings; options and overrides are laid over it.
    time_limit:
        Seconds for all training.
    trust:
        With --resume: module outside polymodal that the run's settings may name.
    dry_run:
        Show kinds, class counts, splits and parameters, and train nothing.
    """
    from polymodal.config import from_flags, load_config, read_yaml

    loose = list(overrides)
    from polymodal.datasets import parse, with_preset

    if table is not None and "=" in table and not Path(table).exists() and parse(table) is None:
        loose.insert(0, table)
        table = None
    flags = dict(
        label=label,
        modalities=modality or None,
        preset=preset,
        recipe=recipe,
        balancer=balancer,
        fusion=fusion,
        task=task,
        metric=metric,
        group=group,
        epochs=epochs,
        batch_size=batch_size,
        select=select,
        modality_dropout=modality_dropout,
        device=device,
        precision=precision,
        workers=workers,
        on_error=on_error,
        seed=seed,
        encoders=dict(_pair(text) for text in encoder) or None,
        table=table,
        valid=valid,
    )
    if resume is not None:
        given = [name for name, value in flags.items() if value is not None] + loose
        if given or out or config:
            raise InputError(
                f"--resume goes on with the settings of {resume}; leave out {', '.join(given) or '--out/--config'}"
            )
        values: dict[str, Any] = read_yaml(resume / "config.yaml")
        values.pop("versions", None)
        settings, out = load_config(values), resume
    else:
        values = with_preset(_merged(read_yaml(config) if config else {}, from_flags(flags)))
        if "label" not in values:
            raise InputError("name the label column with --label COLUMN")
        settings = load_config(values, loose)
    if settings.table is None:
        raise InputError("name the table: polymodal fit TABLE --label COLUMN")
    from polymodal.distributed import rank, start
    from polymodal.predictor import Predictor

    start(settings.train.device)
    if dry_run:
        _print_plan(Predictor(config=settings).plan(settings.table, settings.valid))
        return
    out = out or _new_folder(Path(settings.table))
    predictor = Predictor(config=settings, out=out, trust=trust if resume is not None else None)
    try:
        predictor.fit(settings.table, settings.valid, time_limit=time_limit, resume=resume is not None)
    except KeyboardInterrupt:
        _say(f"stopped; what was done is in {out}, go on with: polymodal fit --resume {out}")
        raise
    if rank() == 0:
        from polymodal.analysis.reports import report as write

        write(out)
        _print_result(predictor.metrics, out)


@app.command
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
    _print_subsets(predictor.evaluate_subsets(table, split).to_dict("records"))


@app.command
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
    _say(f"{len(frame)} predictions in {out}")


@app.command
def demo(out: Path = Path("polymodal-demo"), *, seed: int = 0) -> None:
    """Write a small set of pictures and sounds, train on it in five ways, and show what joint training does to an encoder.

    Parameters
    ----------
    out:
        New folder for the files, the runs and the report.
    seed:
        Of the data and of every random choice.
    """
    from polymodal.demo import demo as run_demo

    run_demo(out, seed)


@app.command
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
    _say(f"report in {write(runs[0]) if len(runs) == 1 else compare(runs, out or Path('report.html'))}")


@app.command
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


data = App(name="data", help="Look into data before training.")
app.command(data)


@data.command
def check(
    table: str,
    root: Path | None = None,
    *,
    label: str | None = None,
    modality: Many = [],  # noqa: B006
    group: str | None = None,
    split: str | None = None,
) -> None:
    """Kinds, sizes, durations, class balance, duplicates and groups that cross splits, broken files by row.

    Of a data set of the papers also its counts beside the published ones. The exit code is 2 where files are broken, and with
    a data set where anything else would stop training.

    Parameters
    ----------
    table:
        CSV, TSV, JSON-lines or Parquet file, or a data set (see `polymodal list datasets`) or DATASET/PRESET with its root.
    root:
        Folder that holds the data set as its owner distributes it.
    label:
        Label column, for class balance.
    modality:
        NAME=COLUMN:KIND, once a modality; inferred by default.
    group:
        Column whose groups should not cross splits.
    split:
        Column that says train, valid or test.
    """
    from polymodal.data.check import check_table
    from polymodal.datasets import find, parse
    from polymodal.datasets.check import check_dataset

    if root is not None:
        find(table.partition("/")[0].partition(",")[0])
    named = parse(table if root is None else f"{table}:{root}")
    if named is not None and split is not None:
        raise InputError(f"--split {split}: the reader of {named.name} divides it; choose by DATASET/PRESET instead")
    found: Any = (
        check_table(table, label=label, modalities=modality, group=group, split=split)
        if named is None
        else check_dataset(named, label=label, modalities=modality, group=group)
    )
    print(found.text() if sys.stdout.isatty() else json.dumps(found.to_dict(), indent=2))
    if found.broken:
        raise SystemExit(2)


@data.command
def prepare(
    dataset: str,
    root: Path,
    out: Path,
    *,
    sound: Literal["wav", "spectrogram"] = "wav",
    faces: Annotated[bool, Parameter(negative=())] = False,
    face_boxes: Path | None = None,
    face_weights: Path | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
) -> None:
    """Extract what a preset needs, once: frames, sound or spectrograms, flow, faces; then name OUT in the place of ROOT.

    Run the same command again after a kill: what is finished is kept, and nothing half-written is ever used. Broken files are
    listed by row, and the exit code is 2 unless they are skipped.

    Parameters
    ----------
    dataset:
        DATASET or DATASET/PRESET; see `polymodal list datasets`.
    root:
        Folder that holds the data set as its owner distributes it; it is only read.
    out:
        New or empty folder, or the one of a command that was stopped.
    sound:
        Keep sounds as WAV, or as the spectrograms that the preset computes.
    faces:
        Cut out faces (cremad), found by OpenCV's bundled detector.
    face_boxes:
        CSV of boxes to cut out instead: clip, left, top, width, height in pixels, and frame where they move.
    face_weights:
        File of EfficientNet-B2's weights; its features of the faces are kept as well.
    on_error:
        What broken files do when everything else is done: raise, or skip to report them and no more.
    workers:
        Threads; one a processor by default, 0 for none.
    """
    from polymodal.datasets import find, parse
    from polymodal.datasets.faces import read_boxes
    from polymodal.datasets.plan import Wanted
    from polymodal.datasets.prepare import prepare as run

    find(dataset.partition("/")[0].partition(",")[0])
    named = parse(f"{dataset}:{root}")
    if named is None:
        raise InputError(f"{dataset}: expected DATASET or DATASET/PRESET; see `polymodal list datasets`")
    faces = faces or face_boxes is not None or face_weights is not None
    if faces and named.name != "cremad":
        raise InputError(f"--faces: no preset of {named.name} uses faces; cremad/conformer does")
    wanted = Wanted(sound, faces=faces, boxes={} if face_boxes is None else read_boxes(face_boxes))
    if face_weights is not None:
        wanted = replace(wanted, embed=_face_features(face_weights), weights=_digest(face_weights))
    done = run(named, out, wanted, on_error=on_error, workers=workers)
    if done.broken:
        _say(f"{len(done.broken)} cells could not be prepared")
    print(json.dumps(done.to_dict(), indent=2))


def _digest(file: Path) -> str:
    import hashlib

    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _face_features(weights: Path) -> Any:
    """(T, H, W, 3) uint8 faces to (T, 1408) features of EfficientNet-B2."""
    import threading

    import torch

    from polymodal.datasets.base import IMAGENET
    from polymodal.encoders import EfficientNet

    net, alone = EfficientNet("efficientnet_b2", weights=weights).eval(), threading.Lock()
    mean, std = (torch.tensor(IMAGENET[name])[:, None, None] * 255 for name in ("mean", "std"))

    def embed(faces: Any) -> Any:
        # One clip at a time: torch's own threads do the rest, and numbers do not depend on who runs beside.
        with alone, torch.inference_mode():
            return net((torch.from_numpy(faces).movedim(-1, 1) - mean) / std).pooled.numpy()

    return embed


@data.command
def fetch_help(dataset: str) -> None:
    """Where a data set's owner distributes it, which files to put where, its terms, and its presets here.

    Parameters
    ----------
    dataset:
        Its name; see `polymodal list datasets`.
    """
    from polymodal.datasets import find

    found = find(dataset)
    print(found.help)
    print("Presets, to be used as a table's path:")
    for name, one in found.presets.items():
        print(f"  {dataset}/{name}:ROOT\n      {one.about}")


@data.command
def miniature(dataset: str, folder: Path, *, seed: int = 0) -> None:
    """Write a few dozen small made-up samples of a data set in its owner's layout.

    Parameters
    ----------
    dataset:
        Its name; see `polymodal list datasets`.
    folder:
        New or empty folder.
    seed:
        Of the samples.
    """
    from polymodal.data.miniature import make

    _say(f"a miniature of {dataset} in {make(dataset, folder, seed)}")


@data.command
def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar; members that would lie outside of the folder, links and devices are refused.

    Parameters
    ----------
    archive:
        The file, compressed or not.
    folder:
        Where to.
    """
    from polymodal.datasets.safe_files import unpack as write

    _say(f"{write(archive, folder)} files in {folder}")


@app.command(name="list")
def list_(what: Literal["balancers", "fusions", "recipes", "adapters", "encoders", "datasets"] | None = None) -> None:
    """Names that the options take, with what each is; adapters go with --recipe adapter recipe.method=NAME.

    Parameters
    ----------
    what:
        One of the lists; all by default.
    """
    from polymodal.names import RETRIEVAL, entries

    packages = {
        "balancers": ("balancers", ("Balancer",)),
        "fusions": ("fusion", ("Fusion",)),
        "recipes": ("recipes", ()),
        "adapters": ("adapters", ()),
        "encoders": ("encoders", ("Encoder", "LayeredEncoder", "State", "linear_heads")),
    }
    for title in packages if what is None else [what] if what in packages else []:
        package, bases = packages[title]
        if not what:
            print(f"{title}:")
        found = entries(package, bases=bases) | (entries(RETRIEVAL) if package == "fusion" else {})
        for name, value in sorted(found.items()):
            text = ABOUT.get((title, name)) or (value.__doc__ or "").strip()
            print(f"{'' if what else '  '}{name:16} {text.splitlines()[0] if text else ''}")
    if what in (None, "datasets"):
        from polymodal.datasets import NAMES, find

        if not what:
            print("datasets:")
        for name in NAMES:
            print(f"{'' if what else '  '}{name:16} {find(name).help.splitlines()[0]}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit code 0, 2 for bad input (with one message on standard error), 130 after Ctrl-C."""
    import logging

    logger, handler = logging.getLogger("polymodal"), _handler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except InputError as error:
        _say(f"polymodal: error: {error}")
        raise SystemExit(2) from None
    except cyclopts.CycloptsError as error:
        _say(f"polymodal: error: {str(error).strip() or type(error).__name__}; see polymodal --help")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
    finally:
        logger.removeHandler(handler)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InputError(f"--encoder {text!r}: write NAME=ENCODER, for example video=resnet18")
    return name, value


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _new_folder(table: Path) -> Path:
    for number in range(1, 10_000):
        path = Path(f"run-{table.stem}-{number}")
        if not path.exists():
            return path
    raise InputError("name a run folder with --out")


def _print_plan(plan: dict[str, Any]) -> None:
    if not sys.stdout.isatty():
        print(json.dumps(plan, indent=2))
        return
    parts = ", ".join(f"{part} {plan[part]['name']}" for part in ("balancer", "fusion"))
    print(f"task        {plan['task']}, recipe {plan['recipe']}, {parts}")
    for m, one in plan["modalities"].items():
        columns = ", ".join(one["columns"])
        print(
            f"modality    {m}: {one['kind']} from {columns}, {one['shape']}, {one['encoder']} {one['parameters']:,} parameters"
        )
    print(f"parameters  {plan['parameters']:,}")
    for part, size in plan["splits"].items():
        counts = ", ".join(f"{name} {n}" for name, n in plan["classes"].get(part, {}).items())
        print(f"{part:11} {size} samples{': ' + counts if counts else ''}")
    for note in plan["notes"]:
        print(f"note        {note}")


def _print_result(metrics: dict[str, Any], out: Path) -> None:
    """A table for people on a terminal, one line of JSON elsewhere."""
    if not sys.stdout.isatty():
        print(json.dumps({"run": str(out), **metrics}))
        return
    from rich.console import Console
    from rich.table import Table

    part = "test" if "test" in metrics else "valid"
    names = list(metrics.get(part, {}))
    shown = Table("", *names, title=f"{part} split")
    shown.add_row("fused", *[f"{metrics[part][name]:.4f}" for name in names], style="bold")
    for m, one in metrics["unimodal"].get(part, {}).items():
        shown.add_row(f"{m} alone", *[f"{one[name]:.4f}" for name in names])
    console = Console()
    console.print(shown)
    console.print(f"run folder: {out}", highlight=False)


def _print_subsets(rows: Sequence[dict[Any, Any]]) -> None:
    """A table for people on a terminal, JSON elsewhere."""
    rows = [{name: None if value != value else value for name, value in row.items()} for row in rows]  # NaN: no sample
    if not sys.stdout.isatty():
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(*rows[0], title="every subset of modalities")
    for row in rows:
        shown.add_row(*["" if v is None else f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()])
    Console().print(shown)


def _handler() -> Any:
    """Warnings, and notes on what was inferred from the table, go to standard error."""
    import logging

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.WARNING:
                _say(f"polymodal: warning: {record.getMessage()}")
            elif getattr(record, "note", False):
                _say(f"note: {record.getMessage()}")

    return Handler()
