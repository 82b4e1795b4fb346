"""What every recipe is given: a way to build models of the run's modalities and to train them stage by stage."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from polymodal import names
from polymodal.balancers import Balancer
from polymodal.config import Config, TrainConfig, of_stage
from polymodal.data.features import FeatureCache, FeatureColumn, Storable
from polymodal.distributed import rank
from polymodal.encoders.base import linear_heads, width
from polymodal.errors import InputError
from polymodal.evaluate import Evaluation, evaluate
from polymodal.fit import History, Schedule, Sized, fit, stepwise
from polymodal.fusion import Fusion
from polymodal.model import MultimodalModel
from polymodal.optim import make_optimizer
from polymodal.run import RunFolder, load_weights, logger
from polymodal.tasks import Task
from polymodal.types import Batch

__all__ = ["Only", "Result", "Setup"]


class Only:
    """A loader whose batches hold some of the modalities alone."""

    def __init__(self, loader: Sized, modalities: Sequence[str]) -> None:
        self.loader, self.modalities = loader, tuple(modalities)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return map(self._pick, self.loader)

    def skip(self, batches: int) -> None:
        """Begin the next iteration after so many batches."""
        self.loader.skip(batches)  # type: ignore[attr-defined]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order."""
        self.loader.set_epoch(epoch)  # type: ignore[attr-defined]

    def sample_keys(self, modality: str) -> tuple[list[str], bool]:
        """See `polymodal.data.features.Storable`."""
        return _storable(self.loader).sample_keys(modality)

    def raw(self, modality: str, places: NDArray[np.int64], draw: int = 0) -> Any:
        """Inputs of the samples at `places`."""
        return _storable(self.loader).raw(modality, places, draw)

    def fixed(self, modalities: Sequence[str]) -> Only:
        """The same loader without random draws of these modalities."""
        return Only(_fixed(self.loader, modalities), self.modalities)

    def replaced(self, columns: Mapping[str, FeatureColumn]) -> Only:
        """The same loader with features in the place of the inputs of some modalities."""
        return Only(cast(Sized, _storable(self.loader).replaced(columns)), self.modalities)

    def losing(self, probability: float, modalities: Sequence[str]) -> Only:
        """The same loader whose samples lose some of these modalities at random; see `Loader.losing`."""
        return Only(_losing(self.loader, probability, modalities), self.modalities)

    def _pick(self, batch: Batch) -> Batch:
        inputs = {m: batch.inputs[m] for m in self.modalities}
        present = {m: batch.present[m] for m in self.modalities if m in batch.present} if batch.present else None
        return batch._replace(inputs=inputs, present=present or None)


def _schedule(settings: TrainConfig) -> str | Schedule:
    if settings.schedule != "step":
        return settings.schedule
    return stepwise(settings.step_every, settings.step_factor, settings.epochs)


def _storable(loader: Sized) -> Storable:
    if not hasattr(loader, "sample_keys"):
        raise InputError(
            f"features of frozen encoders cannot be kept: {type(loader).__name__} does not tell its samples apart; use "
            "polymodal's Loader or ArrayLoader"
        )
    return cast(Storable, loader)


def _fixed(loader: Sized, modalities: Sequence[str]) -> Sized:
    return cast(Sized, loader.fixed(modalities)) if hasattr(loader, "fixed") else loader


def _losing(loader: Sized, probability: float, modalities: Sequence[str]) -> Sized:
    if not hasattr(loader, "losing"):
        raise InputError(
            f"train.modality_dropout={probability}: {type(loader).__name__} cannot take modalities from its samples; use "
            "polymodal's Loader or ArrayLoader"
        )
    return cast(Sized, loader.losing(probability, modalities))


@dataclass
class Result:
    """What a recipe ends with.

    Attributes:
        model: the trained model.
        fusion: name and settings of its fusion, by which it is built again.
        best_epoch: of each stage.
        unimodal: separately trained uni-modal models, where the recipe has them.
        chosen: what a recipe that compares candidates decided for.
        adapter: how the model's adapter is put in again, arguments of `adapters.insert`; None where it has none.
    """

    model: MultimodalModel
    fusion: dict[str, Any]
    best_epoch: dict[str, int]
    unimodal: dict[str, MultimodalModel] = field(default_factory=dict)
    chosen: str | None = None
    adapter: dict[str, Any] | None = None


@dataclass
class Setup:
    """One run's data, settings and building blocks.

    Attributes:
        modalities: names, in order.
        task: what is trained for.
        config: settings of the run.
        train, valid: loaders of all modalities.
        make_encoder: a fresh encoder of a modality.
        make_balancer: a fresh balancer as configured.
        run: the run's folder; stages get folders inside it.
        show: force progress bars on or off.
        trust: modules outside polymodal that settings may name; None where the user typed them just now.
        deadline: `time.perf_counter()` at which training must end; a stage then stops after the epoch it is in.
        suffix: joins the names of all stages.
        seconds: of each stage, filled in as they end.
        trainable: parameters that each stage trains, filled in as they end.
        leaderboard: what a recipe that compares candidates tried.
        dropping: stages whose training samples lost modalities at random (`train.modality_dropout`).
    """

    modalities: tuple[str, ...]
    task: Task
    config: Config
    train: Sized
    valid: Sized | None
    make_encoder: Callable[[str], nn.Module]
    make_balancer: Callable[[], Balancer]
    run: RunFolder | None = None
    show: bool | None = None
    trust: Sequence[str] | None = None
    deadline: float | None = None
    suffix: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    trainable: dict[str, int] = field(default_factory=dict)
    leaderboard: list[dict[str, Any]] = field(default_factory=list)
    finished: dict[str, tuple[MultimodalModel, History]] = field(default_factory=dict)
    dropping: set[str] = field(default_factory=set)

    def stage_name(self, stage: str) -> str:
        """Name of a stage in this run."""
        return stage + self.suffix

    def with_rate(self, lr: float, suffix: str) -> Setup:
        """The same setup with another learning rate; its stages' names end in `suffix`."""
        optimizer = self.config.optimizer.model_copy(update={"lr": lr})
        return replace(
            self, config=self.config.model_copy(update={"optimizer": optimizer}), suffix=self.suffix + suffix
        )

    def seed(self, stage: str) -> None:
        """Seed the random choices of one stage from the run's seed and the stage's name."""
        # torch's generator reads the low 32 bits alone, so both must be mixed into these.
        torch.manual_seed(zlib.crc32(f"{self.config.seed} {stage}".encode()))

    def fusion(self, dims: Mapping[str, int], part: Mapping[str, Any]) -> Fusion:
        """The fusion of that name and settings over modalities of those widths."""
        settings = dict(part)
        make = names.resolve("fusion", settings.pop("name"), bases=("Fusion",), trust=self.trust)
        given = {"dims": dims, "outputs": self.task.outputs, "kind": self.task.mixture}
        built = names.build(make, settings, given, "fusion")
        if not isinstance(built, nn.Module):
            raise InputError(f"fusion {make!r} is a {type(built).__name__}, not a torch module")
        return built  # type: ignore[return-value]

    def balancer(self, part: Mapping[str, Any]) -> Balancer:
        """A fresh balancer of that name and settings, with the run's seed."""
        settings = dict(part)
        make = names.resolve("balancers", settings.pop("name"), bases=("Balancer",), trust=self.trust)
        built = names.build(make, settings, {"seed": self.config.seed}, "balancer")
        if not isinstance(built, Balancer):
            raise InputError(f"balancer {part['name']!r} is a {type(built).__name__}, not a polymodal Balancer")
        return built

    def model(self, modalities: Sequence[str], fusion: Mapping[str, Any], *, heads: bool) -> MultimodalModel:
        """A fresh model of some of the modalities."""
        encoders = {m: self.make_encoder(m) for m in modalities}
        built = self.fusion({m: width(encoder) for m, encoder in encoders.items()}, fusion)
        wanted = heads or getattr(built, "needs_heads", False)
        return MultimodalModel(encoders, built, linear_heads(encoders, self.task.outputs) if wanted else None)

    def unimodal_model(self, modality: str) -> MultimodalModel:
        """A fresh encoder of one modality with a linear head."""
        return self.model([modality], {"name": "mixture"}, heads=True)

    def loaders(self, modalities: Sequence[str]) -> tuple[Sized, Sized | None]:
        """Train and validation loaders of some of the modalities."""
        if tuple(modalities) == self.modalities:
            return self.train, self.valid
        return Only(self.train, modalities), None if self.valid is None else Only(self.valid, modalities)

    def cached(
        self, encoders: Mapping[str, nn.Module], modalities: Sequence[str] = (), *, tokens: Collection[str] = ()
    ) -> tuple[Sized, Sized | None]:
        """Loaders of training and validation whose batches hold the features of these frozen encoders, computed once.

        Inputs that are augmented are taken as evaluation sees them, unless `data.feature_draws` says how many draws to keep.

        Args:
            encoders: by modality.
            modalities: what the batches hold in all; those of `encoders` by default.
            tokens: modalities whose token features are kept beside the pooled ones.
        """
        data = self.config.data
        folder = data.feature_cache or (None if self.run is None else str(self.run.path / "features"))
        train, valid = self.loaders(tuple(modalities) or tuple(encoders))
        if data.feature_draws is None:
            train = _fixed(train, list(encoders))
        for keep in (False, True):
            some = {m: encoder for m, encoder in encoders.items() if (m in tokens) == keep}
            if some:
                cache = FeatureCache(folder, tokens=keep, draws=data.feature_draws, show=self.show)
                train, valid = cache.loader(train, some), None if valid is None else cache.loader(valid, some)
        return train, valid

    def best(self, found: Mapping[str, Mapping[str, float]]) -> str:
        """The name whose validation metrics are best: by the run's metric, then by the loss; of equal ones the first."""
        name = self.config.train.metric or self.task.default_metric
        sign = -1 if name in self.task.lower_is_better else 1
        return max(found, key=lambda one: (sign * found[one][name], -found[one]["loss"]))

    def fit(
        self,
        stage: str,
        build: Callable[[], MultimodalModel],
        balancer: Balancer | None = None,
        loaders: tuple[Sized, Sized | None] | None = None,
    ) -> tuple[MultimodalModel, History]:
        """Build and train one stage; one that is finished, in this process or in its folder, is not trained again.

        Args:
            stage: its name, unique in the run.
            build: makes the untrained model, after the stage's seed is set.
            balancer: joint training where None.
            loaders: of training and validation, where they are not `self.loaders` of the model's modalities.
        """
        stage = self.stage_name(stage)
        if stage in self.finished:
            return self.finished[stage]
        started = time.perf_counter()
        self.seed(stage)
        model = build()
        self.trainable[stage] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        run = None if self.run is None else self.run.stage(stage)
        if run is not None and run.has("done.json"):
            done = run.read_json("done.json")
            model.load_state_dict(load_weights(run.path / "model.safetensors"))
            self.seconds[stage] = done["seconds"]
            logger.info("stage %s is finished already: read from %s", stage, run.path)
            self.finished[stage] = model, History(done["rows"], done["best_epoch"], done["best"])
            return self.finished[stage]
        train, valid = loaders or self.loaders(model.modalities)
        config = of_stage(self.config, stage)
        settings, optimizer = config.train, config.optimizer
        if settings.modality_dropout and len(model.modalities) > 1:
            train = _losing(train, settings.modality_dropout, model.modalities)
            self.dropping.add(stage)
        balancer = balancer or Balancer()
        groups = model.param_groups(optimizer.lr, balancer.scope or ("encoder", "head", "fusion"))
        history = fit(
            model,
            train,
            valid,
            task=self.task,
            epochs=settings.epochs,
            balancer=balancer,
            optimizer=make_optimizer(groups, optimizer, fused=not settings.shard),
            schedule=_schedule(settings),
            clip=settings.clip,
            precision=settings.precision,
            accumulate=settings.accumulate,
            checkpointing=settings.checkpointing,
            compile=settings.compile,
            shard=settings.shard,
            select=settings.select,
            metric=settings.metric,
            device=settings.device,
            checkpoint_every=settings.checkpoint_every,
            trackers=settings.trackers,
            seconds=None if self.deadline is None else max(self.deadline - started, 0.0),
            run=run,
            show=self.show,
        )
        self.seconds[stage] = time.perf_counter() - started
        if run is not None and rank() == 0:
            run.write_json("done.json", history._asdict() | {"seconds": self.seconds[stage]})
            run.drop_checkpoint()
        self.finished[stage] = model, history
        return model, history

    def evaluate(self, model: MultimodalModel, *, masking: bool = False) -> Evaluation:
        """Figures of a model on the validation split; `masking` as in `polymodal.evaluate`."""
        if self.valid is None:
            raise InputError("there is no validation split to compare models on")
        return evaluate(model, self.loaders(model.modalities)[1] or self.valid, self.task, masking=masking)
