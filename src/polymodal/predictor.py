"""The predictor: a table in, a trained model out, and everything about it in one folder."""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import pandas as pd
import torch
import yaml
from numpy.typing import NDArray
from torch import nn

from polymodal import names
from polymodal.adapters import insert
from polymodal.balancers import Balancer
from polymodal.config import Config, Part, from_flags, load_config
from polymodal.data.cache import Cache
from polymodal.data.inputs import Input, input_from_state
from polymodal.data.loader import Loader
from polymodal.data.missing import without
from polymodal.data.parts import Parts, assemble
from polymodal.data.samples import Samples
from polymodal.data.schema import Modality, Schema
from polymodal.data.split import split_rows
from polymodal.data.table import Table
from polymodal.datasets import canonical, open_table
from polymodal.distributed import rank, start, wait, world_size
from polymodal.encoders.base import linear_heads, width
from polymodal.encoders.by_kind import facts
from polymodal.encoders.presets import choose, expand
from polymodal.errors import InputError
from polymodal.evaluate import Evaluation, evaluate, evaluate_subsets, predict, unimodal_source
from polymodal.fusion.retrieval import Pairing
from polymodal.metrics import own_columns, ranks
from polymodal.model import MultimodalModel
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.over_experts import put_over_experts
from polymodal.run import RunFolder, load_weights, logger, save_weights, write_atomically
from polymodal.tasks import Classification, MultiLabel, Regression, Retrieval, Task

__all__ = ["Predictor"]

Source = str | Path | pd.DataFrame


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
        self._leaderboard: list[dict[str, Any]] = []
        self.metrics: dict[str, Any] = {}
        self.notes: list[str] = []
        self._schema: Schema | None = None
        self._inputs: dict[str, Input] = {}
        self._task: Task | None = None
        self._built: dict[str, Part] = {}  # the encoders of a loaded run, which need no files of weights

    # Training ---------------------------------------------------------------------------------------------------------

    def plan(self, table: Source, valid: Source | None = None) -> dict[str, Any]:
        """What `fit` would do: kinds, class counts, splits and parameters. Trains nothing and writes nothing."""
        parts = self._assemble(table, valid)
        setup = self._setup(parts, None)
        balancer = setup.make_balancer()
        recipe = self._recipe()
        names.bind(recipe, self.config.recipe.arguments, {"setup": setup}, "recipe")
        setup.seed("plan")
        model = setup.model(setup.modalities, self.config.fusion.model_dump(), heads=balancer.needs_heads)
        balancer.check(cast(Any, model), setup.task)
        return {
            "modalities": {
                m: {
                    "columns": list(one.columns),
                    "kind": one.kind,
                    "shape": list(parts.inputs[m].shape),
                    "encoder": type(model.encoders[m]).__name__,
                    "parameters": sum(p.numel() for p in model.encoders[m].parameters()),
                }
                for m, one in parts.schema.modalities.items()
            },
            "task": parts.schema.task,
            "splits": {part: len(samples) for part, samples in parts.samples.items()},
            "classes": parts.class_counts(),
            "recipe": names.typed_name(recipe.__name__),
            "balancer": self.config.balancer.model_dump(),
            "fusion": self.config.fusion.model_dump(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "notes": parts.notes,
        }

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
        first = setup.model(setup.modalities, self.config.fusion.model_dump(), heads=setup.make_balancer().needs_heads)
        setup.make_balancer().check(cast(Any, first), setup.task)
        del first
        if rank() == 0:
            run.sweep()
            self._write_settings(run, parts, resume)
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

    def _write_settings(self, run: RunFolder, parts: Parts, resume: bool) -> None:
        data = _data(parts)
        if resume and run.has("data.json") and json.loads(json.dumps(data)) != run.read_json("data.json"):
            raise InputError(
                f"the table {self.config.table} or its files have changed since the run in {run.path} was started, so that "
                "it cannot be gone on with; train anew with another --out"
            )
        run.write_text("config.yaml", _yaml(self.config))
        run.write_json("data.json", data)
        self._keep_files(run)

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
        if json.loads(json.dumps(_data(parts))) != run.read_json("data.json"):
            raise InputError(
                f"the table {self.config.table} or its files have changed since the run in {run.path}; train anew"
            )
        return self._setup(parts, run)

    def _recipe(self) -> Any:
        return names.resolve("recipes", self.config.recipe.name, trust=self.trust)

    def _assemble(self, table: Source, valid: Source | None) -> Parts:
        if not isinstance(table, pd.DataFrame):
            self.config.table = canonical(str(table))
        if valid is not None and not isinstance(valid, pd.DataFrame):
            self.config.valid = canonical(str(valid))
        one = _open(table)
        two = None if valid is None else _open(valid)
        show = self.show and rank() == 0 if self.show is not None else None
        parts = assemble(self.config, one, two, show=show, preprocessing=self._preprocessing)
        self._schema, self._inputs, self.notes = parts.schema, parts.inputs, parts.notes
        self._task = _task(parts.schema, parts.train_target.double().numpy())
        return parts

    def _setup(self, parts: Parts, run: RunFolder | None) -> Setup:
        metric = self.config.train.metric
        task = self._need_task()
        known = list(task.metrics(*_probe_metrics(task)))
        if metric is not None and metric not in known:
            raise InputError(
                f"metric {metric!r} is unknown{names.nearest(metric, known)}; this task has {', '.join(known)}"
            )
        for m in self.config.encoders:
            if m not in parts.schema.modalities:
                raise InputError(
                    f"encoder of {m!r}: no such modality{names.nearest(m, parts.schema.modalities)}; "
                    f"there are {', '.join(parts.schema.modalities)}"
                )
        probability = self.config.train.modality_dropout
        if probability and len(parts.schema.modalities) < 2:
            raise InputError(
                f"train.modality_dropout={probability}: there is one modality, {next(iter(parts.schema.modalities))!r}, "
                "which a sample cannot lose; leave it at 0"
            )
        balancer = self.config.balancer
        make = names.resolve("balancers", balancer.name, bases=("Balancer",), trust=self.trust)

        def make_balancer() -> Balancer:
            built = names.build(make, balancer.arguments, {"seed": self.config.seed}, "balancer")
            if not isinstance(built, Balancer):
                raise InputError(f"balancer {balancer.name!r} is a {type(built).__name__}, not a polymodal Balancer")
            return built

        make_balancer()
        fusion = names.resolve("fusion", self.config.fusion.name, bases=("Fusion",), trust=self.trust)
        _check_retrieval(task, fusion, self.config)
        if isinstance(task, Retrieval):
            _check_queries(parts, self.config)
        batch = self.config.train.batch_size
        samples = parts.samples
        return Setup(
            modalities=tuple(parts.schema.modalities),
            task=task,
            config=self.config,
            train=self._loader(samples["train"], batch, shuffle=True),
            valid=self._loader(samples["valid"], batch) if "valid" in samples else None,
            make_encoder=self._make_encoder,
            make_balancer=make_balancer,
            run=run,
            show=self.show,
            trust=self.trust,
        )

    def _loader(self, samples: Samples, batch: int, *, shuffle: bool = False) -> Loader:
        size, workers = batch if shuffle else max(batch, 256), self.config.data.workers
        return Loader(
            samples, size, shuffle=shuffle, seed=self.config.seed, rank=rank(), world=world_size(), workers=workers
        )

    def _encoder_part(self, modality: Modality) -> Part:
        """Class and settings of a modality's encoder, a preset's name replaced by what it stands for."""
        part = self.config.encoders.get(modality.name) or choose(modality.kind, self.config.preset)
        return expand(part, f"encoders.{modality.name}")

    def _encoder_class(self, part: Part) -> Any:
        return names.resolve("encoders", part.name, bases=("Encoder", "LayeredEncoder", "State"), trust=self.trust)

    def _preprocessing(self, modality: Modality, given: Mapping[str, Any]) -> dict[str, Any]:
        part = self._encoder_part(modality)
        wanted = getattr(self._encoder_class(part), "preprocessing", None)
        return wanted(modality.kind, part.arguments, given) if wanted else {}

    def _make_encoder(self, modality: str, part: Part | None = None) -> nn.Module:
        one = self._need_schema().modalities[modality]
        part = part or self._encoder_part(one)
        make = self._encoder_class(part)
        kinds = getattr(make, "kinds", None)
        if kinds and one.kind not in kinds:
            raise InputError(
                f"encoder {part.name!r} of {modality!r} reads {', '.join(sorted(kinds))} and the column's kind is {one.kind}"
            )
        built = names.build(make, part.arguments, facts(one.kind, self._inputs[modality].shape), f"encoders.{modality}")
        if not isinstance(built, nn.Module):
            raise InputError(f"encoder {part.name!r} of {modality!r} is a {type(built).__name__}, not a torch module")
        return built

    def _finish(self, result: Result, parts: Parts, setup: Setup, run: RunFolder | None, began: float) -> None:
        self.model_ = result.model
        trained = time.perf_counter()
        found: dict[str, Any] = {}
        single: dict[str, dict[str, dict[str, float]]] = {}
        source: str | None = "models" if result.unimodal else unimodal_source(result.model, masking=True)
        source = None if isinstance(setup.task, Retrieval) else source
        for part in ("valid", "test"):
            if part not in parts.samples:
                continue
            loader = self._loader(parts.samples[part], self.config.train.batch_size)
            setup.valid = loader
            evaluation = setup.evaluate(result.model, masking=not result.unimodal)
            if result.unimodal:
                alone = {m: setup.evaluate(model) for m, model in result.unimodal.items()}
                evaluation = evaluation._replace(
                    unimodal={m: one.probabilities for m, one in alone.items()},
                    unimodal_metrics={m: one.metrics for m, one in alone.items()},
                )
            found[part], single[part] = evaluation.metrics, evaluation.unimodal_metrics
            if run is not None and rank() == 0:
                self._write_predictions(run, part, evaluation)
        best = max(result.best_epoch.values())
        self.metrics = {**found, "unimodal": {**single, "from": source}, "best_epoch": best}
        if len(result.best_epoch) > 1:
            self.metrics["best_epochs"] = result.best_epoch
        if result.chosen is not None:
            self.metrics["chosen"] = result.chosen
        self._fusion, self._adapter, self._leaderboard = result.fusion, result.adapter, setup.leaderboard
        if self.config.train.modality_dropout and not setup.dropping:
            logger.warning(
                "train.modality_dropout took no part: recipe %r trains no model of several modalities",
                self.config.recipe.name,
            )
        if run is None or rank():
            wait()
            return
        save_weights(run.path / "model.safetensors", result.model.state_dict())
        run.write_json("model.json", self._description())
        history = [r for stage in result.best_epoch for r in _history(run, stage)]
        run.write_history(history)
        run.write_json(
            "timing.json",
            {
                "seconds": {
                    **setup.seconds,
                    "evaluation": time.perf_counter() - trained,
                    "all": time.perf_counter() - began,
                },
                "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "processes": world_size(),
            },
        )
        run.write_json("metrics.json", self.metrics)
        wait()

    def leaderboard(self) -> pd.DataFrame:
        """What a recipe that compares candidates (`auto`) tried: one row a trial; empty for other recipes."""
        return pd.DataFrame(self._leaderboard)

    def _write_predictions(self, run: RunFolder, part: str, found: Evaluation) -> None:
        """predictions/<part>.csv: id, target, prediction, prob_<class>..., and each modality's own prediction."""
        if isinstance(self._task, Retrieval):
            with write_atomically(run.path / "predictions" / f"{part}.csv") as temporary:
                _found_items(found).to_csv(temporary, index=False)
            return
        frame = self._frame(found.ids, found.probabilities)
        target: list[Any] = list(found.target)
        classes = self._need_schema().classes
        if found.target.ndim == 2:
            target = ["|".join(n for n, on in zip(classes, row, strict=True) if on > 0.5) for row in found.target]
        elif classes:
            target = [classes[int(i)] for i in found.target]
        frame.insert(1, "target", target)
        for m, rows in found.unimodal.items():
            there = np.asarray(~np.isnan(rows).any(-1))
            alone = self._frame(found.ids, np.nan_to_num(rows))["prediction"].astype(object)
            frame[f"prediction_{m}"] = alone.where(there)  # an empty cell where the sample lacks the modality
        with write_atomically(run.path / "predictions" / f"{part}.csv") as temporary:
            frame.to_csv(temporary, index=False)

    # The finished model -----------------------------------------------------------------------------------------------

    def predict(self, table: Source) -> list[Any]:
        """The decision for each row: class name, list of labels, or number. The table needs no label column.

        For retrieval it is the id of the row whose item suits the row's query best, of all rows of this table.
        """
        found = self._predict(table)
        if isinstance(self._task, Retrieval):
            return list(_found_items(found)["prediction"])
        return self._decide(found.probabilities)

    def predict_proba(self, table: Source) -> pd.DataFrame:
        """Probability of each class (columns) for each row, indexed by id; for retrieval the similarity of each item."""
        found = self._predict(table)
        if isinstance(self._task, Retrieval):
            return pd.DataFrame(found.probabilities, index=pd.Index(found.ids, name="id"), columns=_item_names(found))
        classes = self._need_schema().classes or ("value",)
        return pd.DataFrame(found.probabilities, index=pd.Index(found.ids, name="id"), columns=list(classes))

    def prediction_table(self, table: Source) -> pd.DataFrame:
        """Columns `id`, `prediction` and `prob_<class>`, a row a sample of the table.

        For retrieval `id`, `item` (its own), `prediction` (the one found), `similarity` of both, and the `rank` of its own.
        """
        found = self._predict(table)
        if isinstance(self._task, Retrieval):
            return _found_items(found)
        return self._frame(found.ids, found.probabilities)

    def _frame(self, ids: list[str], probabilities: NDArray[Any]) -> pd.DataFrame:
        decided = ["|".join(one) if isinstance(one, list) else one for one in self._decide(probabilities)]
        columns: dict[str, Any] = {"id": ids, "prediction": decided}
        columns |= {f"prob_{name}": probabilities[:, i] for i, name in enumerate(self._need_schema().classes)}
        return pd.DataFrame(columns)

    def features(self, table: Source) -> dict[str, NDArray[np.float64]]:
        """Pooled features (N, D_m) of each modality."""
        from polymodal.types import move

        model = self._need_model()
        model.eval()
        device = next(model.parameters()).device
        found: dict[str, list[NDArray[np.float64]]] = {m: [] for m in model.modalities}
        with torch.no_grad():
            for batch in self._loader(self._samples(table), self.config.train.batch_size):
                batch = move(batch, device)
                inputs = {m: batch.inputs[m] for m in model.modalities}
                for m, one in model.encode(inputs, batch.present).items():
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
        kept = self._left(drop)
        samples = self._labelled(table, split)
        loader = self._own(self._loader(samples, self.config.train.batch_size))
        if not drop:
            found = evaluate(self._need_model(), loader, self._need_task(), masking=True)
            return found.metrics | {"unimodal": found.unimodal_metrics, "samples": len(samples)}
        there = np.asarray(torch.stack([samples.columns[m].present for m in kept]).any(0))
        if not there.any():
            raise InputError(f"{samples.table.source}: without {', '.join(drop)} no row has any modality")
        lacking = (without(batch, drop) for batch in loader)
        found = evaluate(self._need_model(), lacking, self._need_task(), masking=True)
        metrics = self._need_task().metrics(found.probabilities[there], found.target[there])
        single = {m: one for m, one in found.unimodal_metrics.items() if m in kept}
        return metrics | {"unimodal": single, "samples": int(there.sum()), "dropped": list(drop)}

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
        samples = self._labelled(table, split)
        loader = self._own(self._loader(samples, self.config.train.batch_size))
        found = evaluate_subsets(model, loader, self._need_task())
        rows = [{"modalities": "+".join(one.modalities), "samples": one.samples, **one.metrics} for one in found]
        return pd.DataFrame(rows)

    def _labelled(self, table: Source | None, split: str | None) -> Samples:
        """The samples that `evaluate` is asked for."""
        if table is None:
            if self.config.table is None:
                raise InputError("the run was trained on a frame; give the table to evaluate on")
            table, split = self.config.table, split or "test"
        return self._samples(table, labelled=True, split=split)

    def _left(self, drop: Sequence[str]) -> list[str]:
        """The model's modalities without those."""
        own = self._need_model().modalities
        for m in drop:
            if m not in own:
                known = m in self._need_schema().modalities
                why = "the model does not use it" if known else f"no such modality{names.nearest(m, own)}"
                raise InputError(f"drop {m!r}: {why} (it has {', '.join(own)})")
        kept = [m for m in own if m not in drop]
        if not kept:
            what = f"its only modality, {own[0]}," if len(own) == 1 else f"all of {', '.join(own)}"
            raise InputError(f"drop: without {what} the model has nothing to predict from; leave one in")
        return kept

    def _predict(self, table: Source) -> Evaluation:
        loader = self._loader(self._samples(table), self.config.train.batch_size)
        return predict(self._need_model(), self._own(loader), self._need_task())

    def _own(self, loader: Loader) -> Any:
        from polymodal.recipes.base import Only

        return Only(loader, self._need_model().modalities)

    def _samples(self, source: Source, *, labelled: bool = False, split: str | None = None) -> Samples:
        schema = self._need_schema()
        table = _open(source)
        rows = np.arange(len(table), dtype=np.int64)
        if split is not None:
            table, rows = self._part_of(table, split)
        cache = Cache(self.config.data.cache_bytes, self.config.data.decoded)
        samples = Samples(table, rows, schema, self._inputs, cache=cache, labelled=labelled)
        samples.decode_all(workers=self.config.data.workers, on_error=self.config.data.on_error)
        return samples

    def _part_of(self, table: Table, split: str) -> tuple[Table, NDArray[np.int64]]:
        """The table that holds a part, and its rows: the second table where validation came from one."""
        known = {"train": "train", "test": "test"} | dict.fromkeys(("val", "valid", "validation", "dev"), "valid")
        if split not in known:
            raise InputError(f"split {split!r} is unknown; there are train, valid and test")
        own = self.config.table is not None and canonical(table.source) == canonical(self.config.table)
        second = open_table(self.config.valid) if own and self.config.valid is not None else None
        found = split_rows(
            table, self._need_schema(), valid=second, seed=self.config.seed, fractions=self.config.data.fractions
        )
        rows = found.rows[known[split]]
        if not len(rows):
            raise InputError(
                f"{table.source}: its split has no {split} rows; name another with --split, or give a table"
            )
        return (second if second is not None and known[split] == "valid" else table), rows

    def _decide(self, probabilities: NDArray[Any]) -> list[Any]:
        decided = self._need_task().predict(probabilities)
        classes = self._need_schema().classes
        if decided.ndim == 2:
            return [[name for name, on in zip(classes, row, strict=True) if on] for row in decided]
        return [classes[int(i)] for i in decided] if classes else [float(value) for value in decided]

    # Saving and loading -----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write what `load` needs into a new folder."""
        run = RunFolder(path)
        save_weights(run.path / "model.safetensors", self._need_model().state_dict())
        run.write_text("config.yaml", _yaml(self.config))
        run.write_json("model.json", self._description())
        inputs = {m: one.state() for m, one in self._inputs.items()}
        run.write_json("data.json", {"schema": self._need_schema().to_dict(), "inputs": inputs})
        self._keep_files(run)
        run.write_json("metrics.json", self.metrics)

    def _keep_files(self, run: RunFolder) -> None:
        """What inputs need besides their settings, such as a tokenizer, so that the run can be moved."""
        for m, one in self._inputs.items():
            one.keep(run.path / "inputs" / m)

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
        values = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
        values.pop("versions", None)
        self = cls(config=load_config(values), trust=trust, show=show)
        self._schema = Schema.from_dict(data["schema"])
        self._inputs = {m: input_from_state(state, run.path / "inputs" / m) for m, state in data["inputs"].items()}
        self._task = _task_from(described["task"])
        self.metrics = run.read_json("metrics.json")
        self._fusion, self._adapter = described["fusion"], described.get("adapter")
        if run.has("leaderboard.csv"):
            self._leaderboard = pd.read_csv(run.path / "leaderboard.csv").to_dict("records")  # type: ignore[assignment]
        self._built = {m: Part.model_validate(one) for m, one in described.get("encoders", {}).items()}
        encoders = {m: self._make_encoder(m, self._built.get(m)) for m in described["modalities"]}
        retrieves = isinstance(self._task, Retrieval)  # its adapter belongs into the fusion
        adapter = None
        if self._adapter is not None and not retrieves:
            adapter = insert(encoders=encoders, trust=trust, **self._adapter)
        dims = {m: width(encoder) for m, encoder in encoders.items()}
        settings = dict(described["fusion"])
        make = names.resolve("fusion", settings.pop("name"), bases=("Fusion",), trust=trust)
        given = {
            "dims": dims if adapter is None else adapter.dims_after(dims),
            "outputs": self._task.outputs,
            "kind": self._task.mixture,
        }
        heads = linear_heads(encoders, self._task.outputs) if described["heads"] else None
        self.model_ = MultimodalModel(encoders, names.build(make, settings, given, "fusion"), heads, adapter)
        if self._adapter is not None and retrieves:
            put_over_experts(self.model_, trust=trust, **self._adapter)
        weights = load_weights(run.path / "model.safetensors")
        try:
            self.model_.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"{run.path}/model.safetensors does not fit the model of model.json: {error}") from error
        return self

    def _description(self) -> dict[str, Any]:
        model, task = self._need_model(), self._need_task()
        return {
            "modalities": list(model.modalities),
            "encoders": {m: self._rebuilt(m, encoder).model_dump() for m, encoder in model.encoders.items()},
            "fusion": self._fusion,
            "adapter": self._adapter,
            "heads": bool(model.heads),
            "task": {"kind": self._need_schema().task, "outputs": task.outputs}
            | ({"mean": task.mean, "std": task.std} if isinstance(task, Regression) else {}),
        }

    def _rebuilt(self, modality: str, encoder: nn.Module) -> Part:
        """Class and settings that build a trained encoder again, without any file of pre-trained weights."""
        part = self._built.get(modality) or self._encoder_part(self._need_schema().modalities[modality])
        return Part(name=part.name, **{**part.arguments, **getattr(encoder, "rebuild", {})})

    def _need_model(self) -> MultimodalModel:
        if self.model_ is None:
            raise InputError("the predictor is not trained yet; call fit first")
        return self.model_

    def _need_schema(self) -> Schema:
        if self._schema is None:
            raise InputError("the predictor is not trained yet; call fit first")
        return self._schema

    def _need_task(self) -> Task:
        if self._task is None:
            raise InputError("the predictor is not trained yet; call fit first")
        return self._task


def _item_names(found: Evaluation) -> list[str]:
    """Names of the columns of similarities: the id of the first row of each item."""
    return [found.ids[row] for row in own_columns(found.target)[1]]


def _found_items(found: Evaluation) -> pd.DataFrame:
    """What each query found: a row a query."""
    column, _ = own_columns(found.target)
    names = np.array(_item_names(found), dtype=object)
    best, rows = found.probabilities.argmax(-1), np.arange(len(found.ids))
    return pd.DataFrame(
        {
            "id": found.ids,
            "item": names[column],
            "prediction": names[best],
            "similarity": found.probabilities[rows, best],
            "similarity_of_item": found.probabilities[rows, column],
            "rank": ranks(found.probabilities, found.target).query,
        }
    )


def _check_retrieval(task: Task, fusion: Any, config: Config) -> None:
    """Raise `InputError` for settings that do not go with retrieval, or that go with it alone."""
    pairing = isinstance(fusion, type) and issubclass(fusion, Pairing)
    if not isinstance(task, Retrieval):
        if pairing:
            raise InputError(
                f"fusion {config.fusion.name!r} is for retrieval: --task retrieval, whose label names the items"
            )
        return
    if not pairing and getattr(fusion, "__module__", "").startswith("polymodal."):
        raise InputError(
            f"fusion {config.fusion.name!r} gives one prediction a row; retrieval needs pairs of embeddings: --fusion moee, or "
            "--fusion mmt for experts with tokens"
        )
    if config.balancer.name != "joint":
        raise InputError(
            f"balancer {config.balancer.name!r} compares the predictions of single modalities, and in retrieval none predicts "
            "alone; use --balancer joint"
        )
    if config.recipe.name not in RETRIEVING:
        raise InputError(
            f"recipe {config.recipe.name!r} trains classifiers of single modalities; of retrieval there are the recipes "
            f"{', '.join(RETRIEVING)}"
        )
    if config.train.modality_dropout:
        raise InputError("train.modality_dropout would take queries away in retrieval; leave it at 0")


def _check_queries(parts: Parts, config: Config) -> None:
    """Raise `InputError` for a row whose query is empty."""
    query = config.fusion.arguments.get("query") or next(iter(parts.schema.modalities))
    for samples in parts.samples.values():
        if query in samples.columns and not bool(samples.columns[query].present.all()):
            row = int(samples.rows[int((~samples.columns[query].present).nonzero()[0])])
            raise InputError(
                f"{samples.table.source}, {samples.table.place(row)}: the query {query!r} is empty; fill it in or leave the "
                "row out"
            )


RETRIEVING = ("joint", "wander", "adapter")
"""Recipes that can train for retrieval."""


def _task(schema: Schema, target: NDArray[np.float64]) -> Task:
    if schema.task == "retrieval":
        return Retrieval()
    if schema.task == "regression":
        return Regression(mean=float(target.mean()), std=float(target.std()))
    return Classification(len(schema.classes)) if schema.task == "classification" else MultiLabel(len(schema.classes))


def _task_from(described: Mapping[str, Any]) -> Task:
    if described["kind"] == "retrieval":
        return Retrieval()
    if described["kind"] == "regression":
        return Regression(mean=described["mean"], std=described["std"])
    make = Classification if described["kind"] == "classification" else MultiLabel
    return make(described["outputs"])


def _probe_metrics(task: Task) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two made-up samples, to learn which metrics a task has."""
    if isinstance(task, Retrieval):
        return np.eye(2), np.arange(2)
    probabilities = np.full((2, task.outputs), 1 / task.outputs)
    target: NDArray[Any] = np.zeros((2, task.outputs)) if isinstance(task, MultiLabel) else np.zeros(2)
    return probabilities, target


def _open(source: Source) -> Table:
    return open_table(source if isinstance(source, pd.DataFrame) else str(source))


def _data(parts: Parts) -> dict[str, Any]:
    """What a run's data.json holds."""
    return {
        "schema": parts.schema.to_dict(),
        "inputs": {m: one.state() for m, one in parts.inputs.items()},
        "samples": {part: [len(one), _checksum(one)] for part, one in parts.samples.items()},
    }


def _checksum(samples: Samples) -> int:
    """Of the names and targets, to tell whether a table is still the same."""
    return zlib.crc32(samples.target.numpy().tobytes(), zlib.crc32("\n".join(samples.ids).encode()))


def _history(run: RunFolder, stage: str) -> list[dict[str, Any]]:
    return [{"stage": stage} | row for row in run.stage(stage).read_json("done.json")["rows"]]


def _yaml(config: Config) -> str:
    packages = ("polymodal", "torch", "timm", "accelerate", "numpy", "av", "soundfile")
    versions = {name: version(name) for name in packages} | {
        "python": platform.python_version(),
        "system": sys.platform,
    }
    return yaml.safe_dump({**config.model_dump(mode="json"), "versions": versions}, sort_keys=False)
