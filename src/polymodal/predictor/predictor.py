"""The predictor: a table in, a trained model out."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from polymodal import names
from polymodal.config import Config, Part, from_flags, load_config
from polymodal.data.inputs import Input, input_from_state
from polymodal.data.loader import Loader
from polymodal.data.parts import Parts, assemble
from polymodal.data.samples import Samples
from polymodal.data.schema import Schema
from polymodal.datasets import canonical
from polymodal.distributed import rank, start, wait
from polymodal.errors import InputError
from polymodal.evaluate import Evaluation, evaluate, evaluate_subsets, predict
from polymodal.model import MultimodalModel
from polymodal.predictor.encoders import Encoders, rebuilt
from polymodal.predictor.folder import (
    describe_data,
    keep_files,
    read_settings,
    same_data,
    write_end,
    write_settings,
    write_start,
)
from polymodal.predictor.outcome import assess, left_without, without_modalities
from polymodal.predictor.plan import describe_plan
from polymodal.predictor.predictions import decisions, prediction_frame, probability_frame, scored_frame
from polymodal.predictor.restoring import describe_model, restore_model
from polymodal.predictor.samples import Reader, Source, make_loader, read
from polymodal.predictor.setup import make_setup
from polymodal.predictor.task import task_from, task_of
from polymodal.recipes.base import Only, Result, Setup
from polymodal.run import RunFolder, logger, save_weights, write_atomically
from polymodal.tasks import Task
from polymodal.types import move

__all__ = ["Predictor"]


class Predictor:
    """Trains a model on a table and predicts from it.

    Args:
        label: label column.
        out: folder of the run; nothing is written where None.
        config: a whole configuration, instead of the settings.
        overrides: "key.sub=value" texts laid over the settings.
        trust: modules outside polymodal that the settings may name; None, where you typed them, is any.
        show: force progress bars on or off; by default they show on a terminal.
        **settings: short names of common settings (`epochs`, `batch_size`, `modalities`, `metric`, `device`, ...) and
            top-level keys (`recipe`, `balancer`, `fusion`, `encoders`, `seed`); see docs/architecture.md.

    Raises:
        InputError: an unknown setting, or one out of range.

    Example:
        >>> frame = pd.DataFrame({"x": [0.0, 1.0] * 20, "y": [1.0, 0.5] * 20, "label": ["a", "b"] * 20})
        >>> predictor = Predictor(label="label", epochs=5, show=False).fit(frame)
        >>> predictor.predict(frame.head(2).drop(columns="label"))
        ['a', 'b']
    """

    def __init__(
        self,
        label: str | None = None,
        *,
        out: str | Path | None = None,
        config: Config | None = None,
        overrides: Sequence[str] = (),
        trust: Sequence[str] | None = None,
        show: bool | None = None,
        **settings: Any,
    ) -> None:
        if config is None:
            if label is None:
                raise InputError("name the label column: Predictor(label=...)")
            config = load_config(from_flags(settings | {"label": label}), overrides)
        elif settings or overrides or label is not None:
            raise InputError("give either a config, or a label and settings")
        self.config, self.out, self.show = config, None if out is None else Path(out), show
        self.trust = trust
        self.model_: MultimodalModel | None = None
        self.metrics: dict[str, Any] = {}
        self.notes: list[str] = []
        self._leaderboard: list[dict[str, Any]] = []
        self._schema: Schema | None = None
        self._inputs: dict[str, Input] = {}
        self._task: Task | None = None
        self._fusion: dict[str, Any] = {}
        self._adapter: dict[str, Any] | None = None
        self._built: dict[str, Part] = {}  # the encoders of a loaded run, which need no files of weights

    # Training ---------------------------------------------------------------------------------------------------------

    def plan(self, table: Source, valid: Source | None = None) -> dict[str, Any]:
        """What `fit` would do: kinds, class counts, splits and parameters. Trains nothing and writes nothing."""
        parts = self._assemble(table, valid)
        setup = self._setup(parts, None)
        recipe = self._recipe()
        names.bind(recipe, self.config.recipe.arguments, {"setup": setup}, "recipe")
        setup.seed("plan")
        return describe_plan(self.config, parts, self._first_model(setup), recipe.__name__)

    def fit(
        self,
        table: Source,
        valid: Source | None = None,
        *,
        time_limit: float | None = None,
        resume: bool = False,
    ) -> Self:
        """Train by the configured recipe, evaluate on every split, write the run's folder.

        Args:
            table: path of a CSV, TSV, JSON-lines or Parquet file, a data set such as "cremad:ROOT", or a pandas frame.
            valid: a second table that is the validation split.
            time_limit: seconds for all training; a stage that runs out of time ends after the epoch it is in, and
                later stages train one epoch each.
            resume: go on with what is in `out`.

        Raises:
            InputError: whatever is wrong with settings, table or files; nothing is written then.
        """
        began = time.perf_counter()
        start(self.config.train.device)
        run = None if self.out is None else RunFolder(self.out, resume=resume or rank() > 0)
        wait()
        recipe = self._recipe()
        parts = self._assemble(table, valid)
        setup = self._setup(parts, run)
        setup.deadline = None if time_limit is None else began + time_limit
        arguments = names.bind(recipe, self.config.recipe.arguments, {"setup": setup}, "recipe")
        setup.seed("check")
        if run is None:
            self._finish(recipe(**arguments), parts, setup, None, began)
            return self
        self._first_model(setup)
        if rank() == 0:
            run.sweep()
            write_start(run, self.config, parts, resume=resume)
        try:
            with run.logging():
                for note in parts.notes:
                    logger.info("%s", note, extra={"note": rank() == 0})
                self._finish(recipe(**arguments), parts, setup, run, began)
        except InputError:
            if rank() == 0 and not resume:
                run.withdraw()
            raise
        return self

    def setup(self, table: Source, valid: Source | None = None) -> Setup:
        """The data and settings that `fit` would train with; nothing is trained and nothing written.

        Raises:
            InputError: whatever is wrong with settings, table or files.
        """
        return self._setup(self._assemble(table, valid), None)

    def rounds(self, table: Source, valid: Source | None = None, *, folds: int = 5) -> Iterator[tuple[Setup, Loader]]:
        """Folds of the training and validation rows: of each what `setup` gives, and batches of what it holds out.

        Use each before the next is asked for. A tenth of what is not held out is the validation split; `split.fold_rows`.

        Raises:
            InputError: as of `setup`, and one fold, or too few samples for them.
        """
        told: set[str] = set()
        for number in range(1, max(folds, 1) + 1):
            parts = self._assemble(table, valid, fold=(number, folds))
            for note in parts.notes:
                if note not in told:
                    logger.info("%s", note, extra={"note": rank() == 0})
            told.update(parts.notes)
            yield self._setup(parts, None), self._loader(parts.samples["test"], self.config.train.batch_size)

    def training_setup(self, run: RunFolder) -> Setup:
        """The data and settings of a run loaded from this folder once more, to train further stages of it.

        Raises:
            InputError: it was trained on a frame, or its table has changed since.
        """
        if self.config.table is None:
            raise InputError(
                f"run {run.path} was trained on a frame, which it does not keep; write it to a file and train anew"
            )
        parts = self._assemble(self.config.table, self.config.valid)
        if not same_data(run, describe_data(parts.schema, parts.inputs, parts)):
            raise InputError(
                f"the table {self.config.table} or its files have changed since the run in {run.path}; train anew"
            )
        return self._setup(parts, run)

    def leaderboard(self) -> pd.DataFrame:
        """What a recipe that compares candidates (`auto`) tried: one row a trial; empty for other recipes."""
        return pd.DataFrame(self._leaderboard)

    def _recipe(self) -> Any:
        return names.resolve("recipes", self.config.recipe.name, trust=self.trust)

    def _encoders(self) -> Encoders:
        return Encoders(self.config, self.trust)

    def _assemble(self, table: Source, valid: Source | None, fold: tuple[int, int] | None = None) -> Parts:
        """Read and decode the tables; from here on schema, inputs and task are known."""
        if not isinstance(table, pd.DataFrame):
            self.config.table = canonical(str(table))
        if valid is not None and not isinstance(valid, pd.DataFrame):
            self.config.valid = canonical(str(valid))
        show = self.show and rank() == 0 if self.show is not None else None
        parts = assemble(
            self.config,
            read(table),
            None if valid is None else read(valid),
            fold=fold,
            show=show,
            preprocessing=self._encoders().preprocessing,
        )
        self._schema, self._inputs, self.notes = parts.schema, parts.inputs, parts.notes
        self._task = task_of(parts.schema, parts.train_target.double().numpy(), sentiment=self.config.data.sentiment)
        return parts

    def _setup(self, parts: Parts, run: RunFolder | None) -> Setup:
        """What a recipe trains with, its settings checked against the data."""
        task, make = self._need_task(), self._make_encoder
        return make_setup(self.config, parts, task, make_encoder=make, run=run, show=self.show, trust=self.trust)

    def _first_model(self, setup: Setup) -> MultimodalModel:
        """A model as training begins with; the balancer is checked against it."""
        balancer = setup.make_balancer()
        model = setup.model(setup.modalities, self.config.fusion.model_dump(), heads=balancer.needs_heads)
        balancer.check(cast(Any, model), setup.task)
        return model

    def _make_encoder(self, modality: str, part: Part | None = None) -> nn.Module:
        return self._encoders().make(self._need_schema().modalities[modality], self._inputs[modality], part)

    def _loader(self, samples: Samples, batch: int, *, shuffle: bool = False) -> Loader:
        return make_loader(samples, self.config, batch, shuffle=shuffle)

    def _finish(self, result: Result, parts: Parts, setup: Setup, run: RunFolder | None, began: float) -> None:
        """Evaluate what the recipe ended with, keep it, and write the run's folder."""
        trained = time.perf_counter()
        self.model_, self._fusion, self._adapter = result.model, result.fusion, result.adapter
        self._leaderboard = setup.leaderboard
        batch = self.config.train.batch_size
        scored = {part: parts.samples[part] for part in ("valid", "test") if part in parts.samples}
        self.metrics, found = assess(result, setup, {part: self._loader(one, batch) for part, one in scored.items()})
        if self.config.train.modality_dropout and not setup.dropping:
            logger.warning(
                "train.modality_dropout took no part: recipe %r trains no model of several modalities",
                self.config.recipe.name,
            )
        if run is not None and rank() == 0:
            for part, one in found.items():
                self._write_predictions(run, part, one)
            save_weights(run.path / "model.safetensors", result.model.state_dict())
            run.write_json("model.json", self._description())
            now = time.perf_counter()
            seconds = {**setup.seconds, "evaluation": now - trained, "all": now - began}
            write_end(run, result.best_epoch, seconds, setup.trainable)
            run.write_json("metrics.json", self.metrics)
        wait()

    def _write_predictions(self, run: RunFolder, part: str, found: Evaluation) -> None:
        with write_atomically(run.path / "predictions" / f"{part}.csv") as temporary:
            scored_frame(found, self._need_task(), self._need_schema()).to_csv(temporary, index=False)

    # The finished model -----------------------------------------------------------------------------------------------

    def predict(self, table: Source) -> list[Any]:
        """The decision for each row: class name, list of labels, or number. The table needs no label column.

        For retrieval it is the id of the row whose item suits the row's query best, of all rows of this table.
        """
        return decisions(self._predict(table), self._need_task(), self._need_schema())

    def predict_proba(self, table: Source) -> pd.DataFrame:
        """Probability of each class (columns) for each row, indexed by id; for retrieval the similarity of each item."""
        return probability_frame(self._predict(table), self._need_task(), self._need_schema())

    def prediction_table(self, table: Source) -> pd.DataFrame:
        """Columns `id`, `prediction` and `prob_<class>`, a row a sample of the table.

        For retrieval `id`, `item` (its own), `prediction` (the one found), `similarity` of both, and the `rank` of its own.
        """
        return prediction_frame(self._predict(table), self._need_task(), self._need_schema())

    def features(self, table: Source) -> dict[str, NDArray[np.float64]]:
        """Pooled features (N, D_m) of each modality."""
        model = self._need_model()
        model.eval()
        device = next(model.parameters()).device
        found: dict[str, list[NDArray[np.float64]]] = {m: [] for m in model.modalities}
        with torch.no_grad():
            for batch in self._batches(self._reader().samples(table)):
                batch = move(batch, device)
                for m, one in model.encode(batch.inputs, batch.present).items():
                    found[m].append(one.pooled.double().cpu().numpy())
        return {m: np.concatenate(rows) for m, rows in found.items()}

    def evaluate(
        self, table: Source | None = None, split: str | None = None, *, drop: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Metrics of the fused model and of each modality on a labelled table.

        Args:
            table: the table that the model was trained on by default.
            split: "train", "valid" or "test" of that table; by default all rows of a new table, "test" of its own.
            drop: modalities that no row is to have. Rows that have no other do not count.

        Raises:
            InputError: `drop` names a modality that the model does not have, or all that it has.
        """
        model, task = self._need_model(), self._need_task()
        kept = left_without(drop, model, self._need_schema().modalities)
        samples = self._reader().labelled(table, split)
        loader = self._batches(samples)
        if drop:
            return without_modalities(model, loader, task, samples, drop, kept)
        found = evaluate(model, loader, task, masking=True)
        return found.metrics | {"unimodal": found.unimodal_metrics, "samples": len(samples)}

    def evaluate_subsets(self, table: Source | None = None, split: str | None = None) -> pd.DataFrame:
        """Metrics for every subset of the modalities, a row each: what the model does where only these are there.

        Columns are `modalities` ("audio+video"), `samples` (those that have any of them) and the metrics; table and split
        are those of `evaluate`.

        Raises:
            InputError: the model has one modality, or more than 10.
        """
        model = self._need_model()
        if len(model.modalities) < 2:
            raise InputError(f"the model has one modality, {model.modalities[0]!r}, and so no subsets to compare")
        found = evaluate_subsets(model, self.batches(table, split), self._need_task())
        rows = [{"modalities": "+".join(one.modalities), "samples": one.samples, **one.metrics} for one in found]
        return pd.DataFrame(rows)

    def batches(self, table: Source | None = None, split: str | None = None) -> Only:
        """Batches of the model's modalities with targets, in the table's order; table and split are those of `evaluate`.

        Raises:
            InputError: the label column is missing, a class was not seen in training, or the split is empty.
        """
        return self._batches(self._reader().labelled(table, split))

    def _reader(self) -> Reader:
        return Reader(self.config, self._need_schema(), self._inputs)

    def _batches(self, samples: Samples) -> Only:
        return Only(self._loader(samples, self.config.train.batch_size), self._need_model().modalities)

    def _predict(self, table: Source) -> Evaluation:
        return predict(self._need_model(), self._batches(self._reader().samples(table)), self._need_task())

    # Saving and loading -----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write what `load` needs into a new folder."""
        run = RunFolder(path)
        save_weights(run.path / "model.safetensors", self._need_model().state_dict())
        write_settings(run, self.config)
        run.write_json("model.json", self._description())
        run.write_json("data.json", describe_data(self._need_schema(), self._inputs))
        keep_files(run, self._inputs)
        run.write_json("metrics.json", self.metrics)

    @classmethod
    def load(cls, path: str | Path, *, trust: Sequence[str] = (), show: bool | None = None) -> Self:
        """The predictor of a finished run.

        Args:
            path: the run's folder.
            trust: modules outside polymodal that the run may import.

        Raises:
            InputError: no finished run there, a broken file, or a class from a module that is not trusted.
        """
        run = RunFolder(path, resume=True)
        if not run.path.is_dir():
            raise InputError(f"run {run.path}: no such folder")
        described, data = run.read_json("model.json"), run.read_json("data.json")
        self = cls(config=read_settings(run), trust=trust, show=show)
        self._schema = Schema.from_dict(data["schema"])
        self._inputs = {m: input_from_state(state, run.path / "inputs" / m) for m, state in data["inputs"].items()}
        self._task = task_from(described["task"])
        self.metrics = run.read_json("metrics.json")
        self._fusion, self._adapter = described["fusion"], described.get("adapter")
        if run.has("leaderboard.csv"):
            self._leaderboard = pd.read_csv(run.path / "leaderboard.csv").to_dict("records")  # type: ignore[assignment]
        self._built = {m: Part.model_validate(one) for m, one in described.get("encoders", {}).items()}
        encoders = {m: self._make_encoder(m, self._built.get(m)) for m in described["modalities"]}
        weights = run.path / "model.safetensors"
        self.model_ = restore_model(described, encoders, self._task, weights, trust=trust)
        return self

    def _description(self) -> dict[str, Any]:
        model, schema = self._need_model(), self._need_schema()
        encoders = {
            m: rebuilt(self._built.get(m) or self._encoders().part(schema.modalities[m]), encoder)
            for m, encoder in model.encoders.items()
        }
        return describe_model(model, encoders, self._fusion, self._adapter, schema.task, self._need_task())

    def _need_model(self) -> MultimodalModel:
        if self.model_ is None:
            raise InputError(UNTRAINED)
        return self.model_

    def _need_schema(self) -> Schema:
        if self._schema is None:
            raise InputError(UNTRAINED)
        return self._schema

    def _need_task(self) -> Task:
        if self._task is None:
            raise InputError(UNTRAINED)
        return self._task


UNTRAINED = "the predictor is not trained yet; call fit first"
