"""The configuration of a run: a strict tree of settings with `key.sub=value` overrides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from polymodal.errors import InputError
from polymodal.names import nearest

__all__ = [
    "Config",
    "OptimizerConfig",
    "Part",
    "from_flags",
    "laid",
    "load_config",
    "of_stage",
    "parse_override",
    "read_yaml",
    "tree",
]


M = TypeVar("M", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Part(BaseModel):
    """A constructor call: `name` of a method or encoder, and its own settings beside it."""

    model_config = ConfigDict(extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings without the name."""
        return dict(self.__pydantic_extra__ or {})


class DataConfig(_Strict):
    """What the table's columns mean, and how its samples are read."""

    modalities: list[str] = Field([], description="NAME=COLUMN:KIND each; inferred from the table when empty")
    task: Literal["auto", "classification", "multilabel", "regression", "retrieval"] = Field(
        "auto", description="kind of the label; retrieval is never guessed, its label names the item of each row"
    )
    id: str | None = Field(None, description="column of sample names; 'id' when there is one")
    split: str | None = Field(None, description="column that says train, valid or test; 'split' when there is one")
    group: str | None = Field(None, description="column whose groups must not be divided between splits")
    separator: str | None = Field(None, description="stands between several labels in one cell")
    sentiment: bool = Field(
        False, description="a regression's label is a sentiment from -3 to 3: tell ACC-2, ACC-7, F1 and Pearson as well"
    )
    fractions: tuple[float, float, float] = Field(
        (0.8, 0.1, 0.1), description="train, valid, test where no split is given"
    )
    fold: tuple[int, int] | None = Field(
        None,
        description="[k, n]: the part test is the k-th of n folds of the training and validation rows, not the split's own",
    )
    inputs: dict[str, dict[str, Any]] = Field(
        {}, description="preprocessing of a modality, e.g. inputs.audio.n_mels=64"
    )
    on_error: Literal["raise", "skip"] = Field("raise", description="what a broken file does")
    cache_bytes: int = Field(
        2 * 2**30, ge=0, description="memory for decoded samples; beyond it they are decoded again"
    )
    decoded: str | None = Field(
        None, description="folder that keeps decoded files from run to run, as far as they are not drawn at random"
    )
    workers: int | None = Field(None, ge=0, description="processes or threads that decode; by the machine when empty")
    feature_cache: str | None = Field(
        None, description="folder of frozen encoders' features, which runs may share; in the run's own when empty"
    )
    feature_draws: int | None = Field(
        None, ge=1, description="stored draws a sample of an input that is augmented at random"
    )

    @field_validator("fold")
    @classmethod
    def _one_of_several(cls, fold: tuple[int, int] | None) -> tuple[int, int] | None:
        if fold is not None and not (fold[1] >= 2 and 1 <= fold[0] <= fold[1]):
            raise ValueError(f"{list(fold)}: expected [k, n] with 1 <= k <= n and at least two folds, such as [1, 5]")
        return fold


class OptimizerConfig(_Strict):
    """The optimiser of every stage."""

    name: Literal["adamw", "adam", "sgd", "bertadam"] = Field(
        "adamw", description="adamw and bertadam decay weights apart from the gradient"
    )
    lr: float = Field(2e-3, gt=0, description="learning rate at the start")
    weight_decay: float = Field(1e-4, ge=0, description="decoupled for adamw, coupled otherwise")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd only")
    betas: tuple[float, float] = Field((0.9, 0.999), description="not of sgd")


class TrainConfig(_Strict):
    """The training loop."""

    epochs: int = Field(25, ge=1, description="passes over the training split")
    batch_size: int = Field(32, ge=1, description="samples a process and micro-batch")
    accumulate: int = Field(1, ge=1, description="micro-batches an optimiser step")
    schedule: Literal["cosine", "constant", "linear", "plateau", "step"] = Field(
        "cosine",
        description="of the learning rate; linear warms up over a tenth of the steps and falls to 0, plateau halves it "
        "after two epochs without gain on validation, step multiplies it by step_factor after every step_every epochs",
    )
    step_every: int = Field(30, ge=1, description="epochs between the steps of the schedule step")
    step_factor: float = Field(0.1, gt=0, lt=1, description="what each step of it leaves of the rate")
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    precision: Literal["bf16", "fp16"] | None = Field(None, description="mixed precision")
    checkpointing: bool = Field(
        False,
        description="keep an encoder's layer inputs alone and compute the rest again for the gradient: less memory",
    )
    compile: bool = Field(False, description="run encoders and fusion through torch.compile")
    shard: bool = Field(False, description="cut encoders and fusion over the processes of the run (FSDP2)")
    device: Literal["cpu", "cuda", "mps"] | None = Field(None, description="the fastest there is when empty")
    select: Literal["best", "last"] = Field("best", description="epoch whose weights are kept")
    metric: str | None = Field(None, description="what the best epoch is chosen by; the task's own when empty")
    modality_dropout: float = Field(
        0.0, ge=0, lt=1, description="probability with which a training sample loses each modality, never all"
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="optimiser steps between resume points within an epoch"
    )
    trackers: list[str] = Field([], description="accelerate's trackers, e.g. tensorboard")


class StageConfig(_Strict):
    """Settings that one stage of a recipe has of its own; what is left out is the run's."""

    optimizer: dict[str, Any] = Field({}, description="as the run's `optimizer`")
    train: dict[str, Any] = Field({}, description="as the run's `train`")


class Config(_Strict):
    """Everything that decides what a run computes."""

    label: str = Field(description="label column")
    table: str | None = Field(None, description="path of the table, where it came from a file")
    valid: str | None = Field(None, description="second table, all of it the validation split")
    recipe: Part = Field(default_factory=lambda: Part(name="joint"), description="order of training, and its settings")
    balancer: Part = Field(default_factory=lambda: Part(name="joint"), description="balancer, and its settings")
    fusion: Part = Field(default_factory=lambda: Part(name="concat"), description="fusion, and its settings")
    encoders: dict[str, Part] = Field({}, description="encoder of a modality, and its settings; by kind when empty")
    preset: Literal["tiny", "small", "base", "large"] | None = Field(
        None, description="encoders of the modalities that name none: from scratch (tiny), or pre-trained ones"
    )
    data: DataConfig = Field(default_factory=DataConfig)  # type: ignore[arg-type]
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)  # type: ignore[arg-type]
    train: TrainConfig = Field(default_factory=TrainConfig)  # type: ignore[arg-type]
    stages: dict[str, StageConfig] = Field(
        {}, description="settings of some stages, by name or pattern, e.g. stages.mmlora.optimizer.lr=1e-4"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of every random choice")


def of_stage(config: Config, stage: str) -> Config:
    """The settings that a stage has: the run's, with those of every pattern of `stages` that its name matches laid over.

    Raises:
        InputError: an unknown setting of a stage.

    Example:
        >>> config = load_config({"label": "y", "stages": {"unimodal_*": {"optimizer": {"lr": 1e-4}}}})
        >>> of_stage(config, "unimodal_audio").optimizer.lr, of_stage(config, "joint").optimizer.lr
        (0.0001, 0.002)
    """
    values = config.model_dump()
    for pattern, own in config.stages.items():
        if fnmatchcase(stage, pattern):
            values["optimizer"] |= own.optimizer
            values["train"] |= own.train
    return load_config(values)


def load_config(values: Mapping[str, Any], overrides: Iterable[str] = ()) -> Config:
    """Validate a tree of settings after laying `key.sub=value` overrides over it.

    Raises:
        InputError: an unknown key (with the nearest valid one) or a value out of range.

    Example:
        >>> load_config({"label": "emotion"}, ["train.epochs=3", "balancer=mlb", "balancer.alpha=2"]).balancer.arguments
        {'alpha': 2}
    """
    merged = _copied(values)
    parsed = [(text, *parse_override(text)) for text in overrides]
    # "balancer=mlb" after "balancer.alpha=2" must not undo it.
    for text, keys, value in sorted(parsed, key=lambda one: len(one[1])):
        node = merged
        for key in keys[:-1]:
            below = node.get(key)
            if isinstance(below, str):
                below = {"name": below}
            elif below is None:
                below = {}
            elif not isinstance(below, dict):
                raise InputError(f"override {text!r}: {key!r} is a value, not a group of settings")
            node[key] = below
            node = below
        node[keys[-1]] = value
    for part in ("recipe", "balancer", "fusion"):
        if isinstance(merged.get(part), dict):
            merged[part].setdefault("name", Config.model_fields[part].get_default(call_default_factory=True).name)
    config = _validated(Config, merged)
    for pattern, own in config.stages.items():  # a wrong setting must not wait for its stage
        _validated(OptimizerConfig, own.optimizer, f"stages.{pattern}.optimizer.")
        _validated(TrainConfig, own.train, f"stages.{pattern}.train.")
    return config


FLAGS = {
    "modalities": "data.modalities",
    "task": "data.task",
    "id": "data.id",
    "split": "data.split",
    "group": "data.group",
    "separator": "data.separator",
    "on_error": "data.on_error",
    "workers": "data.workers",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "select": "train.select",
    "metric": "train.metric",
    "modality_dropout": "train.modality_dropout",
    "device": "train.device",
    "precision": "train.precision",
    "lr": "optimizer.lr",
    "optimizer": "optimizer.name",
}
"""Short names of common settings, as keyword arguments and command-line options."""


def from_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings from short names and top-level keys; what is None is left out.

    Example:
        >>> from_flags({"label": "emotion", "epochs": 3, "metric": None})
        {'label': 'emotion', 'train': {'epochs': 3}}
    """
    values: dict[str, Any] = {}
    for name, value in flags.items():
        if value is None:
            continue
        node = values
        *groups, last = FLAGS.get(name, name).split(".")
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return values


def laid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings with another laid over it; a part of another name is replaced as a whole.

    Example:
        >>> laid({"seed": 1, "balancer": {"name": "mlb", "alpha": 2}}, {"balancer": "ogm"})
        {'seed': 1, 'balancer': {'name': 'ogm'}}
        >>> laid({"balancer": {"name": "mlb", "alpha": 2}}, {"balancer": {"beta_max": 5}})
        {'balancer': {'name': 'mlb', 'alpha': 2, 'beta_max': 5}}
    """
    merged = _copied(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, str) and isinstance(value, Mapping):
            old = {"name": old}
        elif isinstance(old, dict) and isinstance(value, str) and "name" in old:
            value = {"name": value}
        if isinstance(old, dict) and isinstance(value, Mapping):
            other = "name" in value and "name" in old and value["name"] != old["name"]
            value = _copied(value) if other else laid(old, value)
        merged[key] = value
    return merged


def parse_override(text: str) -> tuple[list[str], Any]:
    """Split "key.sub=value"; the value is read as YAML.

    Example:
        >>> parse_override("train.epochs=3")
        (['train', 'epochs'], 3)
    """
    key, equals, value = text.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"override {text!r}: write key.sub=value, for example train.epochs=10")
    try:
        parsed = yaml.safe_load(value) if value else None
    except yaml.YAMLError as error:
        raise InputError(f"override {text!r}: {value!r} is not YAML ({error})") from error
    if isinstance(parsed, str):
        with contextlib.suppress(ValueError):  # YAML 1.1 reads 1e-3 as a text
            parsed = float(parsed)
    return keys, parsed


def read_yaml(path: Path) -> dict[str, Any]:
    """A file of settings."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"settings {path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"settings {path}: not YAML ({error})") from error
    if not isinstance(values, dict):
        raise InputError(f"settings {path}: expected keys and values, found a {type(values).__name__}")
    return values


def tree(model: type[BaseModel] = Config, prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Every configuration key as (key, type, default, what it is), for the docs."""
    rows = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, _Strict):
            rows += tree(kind, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        shown = default.name if isinstance(default, Part) else "required" if field.is_required() else repr(default)
        text = (
            getattr(kind, "__name__", "") if isinstance(kind, type) and not getattr(kind, "__args__", ()) else str(kind)
        )
        rows.append(
            (
                prefix + name,
                text.replace("typing.", "").replace("polymodal.config.", ""),
                shown,
                field.description or "",
            )
        )
    return rows


def _validated(kind: type[M], values: Mapping[str, Any], prefix: str = "") -> M:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(error, kind, prefix)) from None


def _explain(error: ValidationError, root: type[BaseModel], prefix: str) -> str:
    lines = []
    for one in error.errors():
        place = [str(key) for key in one["loc"]]
        key = prefix + ".".join(place)
        if one["type"] == "extra_forbidden":
            model: Any = root
            for step in place[:-1]:
                fields = getattr(model, "model_fields", None)
                model = get_args(model)[-1] if fields is None else fields[step].annotation  # dict[str, ...]
            known = list(model.model_fields)
            lines.append(f"unknown key {key!r}{nearest(place[-1], known)} (there are {', '.join(known)})")
        else:
            lines.append(f"key {key!r} = {one.get('input')!r}: {one['msg']}")
    return "; ".join(lines)


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(value) if isinstance(value, Mapping) else value for key, value in values.items()}
