"""`polymodal fit`: settings from options, overrides and files, then training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from polymodal.cli.options import Many
from polymodal.cli.printing import print_plan, print_result, say
from polymodal.errors import InputError

__all__ = ["fit"]


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
    from polymodal.config import from_flags, laid, load_config, read_yaml

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
        values = with_preset(laid(read_yaml(config) if config else {}, from_flags(flags)))
        if "label" not in values:
            raise InputError("name the label column with --label COLUMN")
        settings = load_config(values, loose)
    if settings.table is None:
        raise InputError("name the table: polymodal fit TABLE --label COLUMN")
    from polymodal.distributed import rank, start
    from polymodal.predictor import Predictor

    start(settings.train.device)
    if dry_run:
        print_plan(Predictor(config=settings).plan(settings.table, settings.valid))
        return
    out = out or _new_folder(Path(settings.table))
    predictor = Predictor(config=settings, out=out, trust=trust if resume is not None else None)
    try:
        predictor.fit(settings.table, settings.valid, time_limit=time_limit, resume=resume is not None)
    except KeyboardInterrupt:
        say(f"stopped; what was done is in {out}, go on with: polymodal fit --resume {out}")
        raise
    if rank() == 0:
        from polymodal.analysis.reports import report as write

        write(out)
        print_result(predictor.metrics, out)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InputError(f"--encoder {text!r}: write NAME=ENCODER, for example video=resnet18")
    return name, value


def _new_folder(table: Path) -> Path:
    for number in range(1, 10_000):
        path = Path(f"run-{table.stem}-{number}")
        if not path.exists():
            return path
    raise InputError("name a run folder with --out")
