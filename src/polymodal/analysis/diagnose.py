"""Which modality of a trained model is under-trained, by how much, told on the validation split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.analysis.agreement import agreement
from polymodal.analysis.bootstrap import Interval, bootstrap_mean
from polymodal.analysis.contribution import conditional_use, sample_values, shapley
from polymodal.analysis.diagnosis import Diagnosis, Finding
from polymodal.analysis.linear_probe import encoder_features
from polymodal.balancers.passes import MOST
from polymodal.errors import InputError
from polymodal.evaluate import evaluate, unimodal_source
from polymodal.model import MultimodalModel
from polymodal.predictor import Predictor
from polymodal.recipes.base import Only, Setup
from polymodal.run import RunFolder, logger
from polymodal.tasks import Classification, MultiLabel, Regression, Retrieval, Task
from polymodal.types import Batch

__all__ = ["diagnose", "examine", "probe_predictions"]

Array = NDArray[Any]


def diagnose(
    run: str | Path, *, trust: Sequence[str] = (), seed: int = 0, epochs: int | None = None, show: bool | None = None
) -> Diagnosis:
    """Examine a finished run on its validation split and write RUN/diagnose.json.

    Uni-modal models that the run's recipe has not trained are trained with its settings into RUN/diagnose, once, and can
    be gone on with.

    Args:
        run: folder that `fit` wrote, of a table that is still as it was.
        trust: modules outside polymodal that the run may import.
        seed: of the bootstrap.
        epochs: of the uni-modal models; those of the run by default, which alone is a fair comparison.
        show: force progress bars on or off.

    Raises:
        InputError: no finished run, one that was trained on a frame, or a table that has changed.
    """
    folder = RunFolder(run, resume=True)
    predictor = Predictor.load(folder.path, trust=trust, show=show)
    model = predictor.model_
    assert model is not None
    setup = predictor.training_setup(folder)
    if isinstance(setup.task, Retrieval):
        raise InputError(
            "in retrieval no modality predicts alone, so that none can be diagnosed; see the ranks of the run"
        )
    if epochs is not None:
        train = setup.config.train.model_copy(update={"epochs": epochs})
        setup = replace(
            setup, config=setup.config.model_copy(update={"train": train}), suffix=f"{setup.suffix}-{epochs}epochs"
        )
    alone = {m: _own_model(setup, folder, m) for m in model.modalities}
    setup.train.set_epoch(0)  # type: ignore[attr-defined]  # the same order, whether or not models have just been trained
    assert setup.valid is not None
    found = examine(model, alone, setup.train, setup.valid, setup.task, seed=seed)
    found = replace(
        found,
        name=str(run),
        recipe=setup.config.recipe.name,
        balancer=setup.config.balancer.name,
        warnings=_collapsed(folder.path / "log.txt"),
    )
    folder.write_json("diagnose.json", json.loads(json.dumps(found.to_dict())))
    return found


def examine(
    model: MultimodalModel,
    alone: Mapping[str, MultimodalModel],
    train: Iterable[Batch],
    valid: Iterable[Batch],
    task: Task,
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    name: str = "the model",
) -> Diagnosis:
    """Compare a fused model with models of each modality alone.

    Whether a modality is under-trained is told by linear probes of its encoder, here and in its own model: both are
    fitted on features of the training split and compared sample by sample on the validation split. Training rows
    are never scored, because the encoders have seen their targets; fitting probes on parts of the validation split too
    would not score more rows, so it could not tighten the interval. The intervals of the M modalities each
    have level 1 - (1 - level) / M, so that they hold together.

    Args:
        model: the fused model.
        alone: for each of its modalities a model of that modality, trained with the same settings.
        train, valid: loaders of all modalities.
        task: what they were trained for.
        seed, resamples, level: of the bootstrap over validation samples.
        name: of the model, for people.

    Raises:
        InputError: modalities without a model, or a validation split without a sample of a modality.
    """
    names = model.modalities
    if set(alone) != set(names):
        raise InputError(f"uni-modal models of {sorted(alone)} for a model of {sorted(names)}; give one each")
    source = unimodal_source(model, masking=True)
    fused = evaluate(model, Only(valid, names), task, masking=True)  # type: ignore[arg-type]
    own = {m: evaluate(one, Only(valid, [m]), task) for m, one in alone.items()}  # type: ignore[arg-type]
    each = {"seed": seed, "resamples": resamples, "level": 1 - (1 - level) / len(names)}
    features, features_alone = _features(model, train, valid), {m: _features(alone[m], train, valid) for m in names}
    shares = shapley(model, valid, task, **each).shares if len(names) <= MOST else {}  # type: ignore[arg-type]
    uses = conditional_use(model, valid, task, **each)  # type: ignore[arg-type]
    findings = {}
    for m in names:
        there = features[m].valid_has
        if not there.any():
            raise InputError(f"no validation sample has modality {m!r}, so that nothing can be told about it")
        inside = sample_values(task, fused.unimodal[m][there], fused.target[there])
        trained_alone = sample_values(task, own[m].probabilities[there], own[m].target[there])
        probes = [_probed(task, one) for one in (features[m], features_alone[m][m])]
        findings[m] = Finding(
            inside=float(inside.mean()),
            alone=float(trained_alone.mean()),
            probe_inside=float(probes[0].mean()),
            probe_alone=float(probes[1].mean()),
            gap=bootstrap_mean(probes[1] - probes[0], **each),  # type: ignore[arg-type]
            distance=bootstrap_mean(trained_alone - inside, **each),  # type: ignore[arg-type]
            shapley=shares.get(m, Interval(*[float("nan")] * 3)),
            removed=uses[m].removed,
            shuffled=uses[m].shuffled,
        )
    values = {Classification: "accuracy", MultiLabel: "share of right labels"}
    return Diagnosis(
        name=name,
        value=next((text for kind, text in values.items() if isinstance(task, kind)), "minus absolute error"),
        samples=len(fused.ids),
        level=level,
        source=str(source),
        fused=fused.metrics,
        late=bootstrap_mean(
            sample_values(
                task,
                _averaged([features[m].valid_has for m in names], [own[m].probabilities for m in names]),
                fused.target,
            )
            - sample_values(task, fused.probabilities, fused.target),
            seed=seed,
            resamples=resamples,
            level=level,
        ),
        modalities=findings,
        agreement=None if isinstance(task, Regression) else agreement(own, fused, task).to_dict(),
    )


def probe_predictions(task: Task, x_train: Array, y_train: Array, x_valid: Array) -> Array:
    """Predictions (N', C) of a linear probe on standardised features: as `linear_probe`, for every task.

    Logistic regression with C = .1 for classes and for each label, ridge regression with penalty 10 for numbers.

    Args:
        task: tells the form of targets and predictions.
        x_train, y_train: features (N, D) and targets of the training samples.
        x_valid: features (N', D).
    """
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(x_train)
    x_train, x_valid = scaler.transform(x_train), scaler.transform(x_valid)
    if isinstance(task, Regression):
        return np.asarray(Ridge(alpha=10.0).fit(x_train, y_train).predict(x_valid), np.float64).reshape(-1, 1)

    def logistic(target: Array) -> tuple[Array, Array]:
        if len(np.unique(target)) < 2:
            return np.unique(target), np.ones((len(x_valid), 1))
        probe = LogisticRegression(C=0.1, max_iter=5000).fit(x_train, target)
        return probe.classes_, probe.predict_proba(x_valid)

    found = np.zeros((len(x_valid), task.outputs))
    if isinstance(task, MultiLabel):
        for label in range(task.outputs):
            classes, rows = logistic(y_train[:, label])
            found[:, label] = rows @ classes
        return found
    classes, rows = logistic(y_train)
    found[:, classes.astype(np.int64)] = rows
    return found


class _Split:
    """Features of one encoder on both splits, of the samples that have the modality."""

    def __init__(self, train: tuple[Array, Array], valid: tuple[Array, Array], valid_has: NDArray[np.bool_]) -> None:
        self.train, self.valid, self.valid_has = train, valid, valid_has


def _features(model: MultimodalModel, train: Iterable[Batch], valid: Iterable[Batch]) -> dict[str, _Split]:
    x, y, has = encoder_features(model, train)
    x_valid, y_valid, valid_has = encoder_features(model, valid)
    return {
        m: _Split((x[m][has[m]], y[has[m]]), (x_valid[m][valid_has[m]], y_valid[valid_has[m]]), valid_has[m])
        for m in model.modalities
    }


def _probed(task: Task, one: _Split) -> Array:
    rows = probe_predictions(task, *one.train, one.valid[0])
    return sample_values(task, rows, one.valid[1])


def _averaged(there: Sequence[NDArray[np.bool_]], predictions: Sequence[Array]) -> Array:
    """Mean prediction (N, C) of the models whose modality a sample has, of all where it has none."""
    weights = np.stack(there).astype(np.float64)
    weights[:, weights.sum(0) == 0] = 1
    mean: Array = np.einsum("mn,mnc->nc", weights / weights.sum(0), np.stack(predictions))
    return mean


def _own_model(setup: Setup, run: RunFolder, m: str) -> MultimodalModel:
    """The run's own model of one modality alone, or one trained now."""
    stage, folder = f"unimodal_{m}", run
    if not run.stage(setup.stage_name(stage)).has("done.json"):
        folder = RunFolder(run.path / "diagnose", resume=True)
        if not folder.stage(setup.stage_name(stage)).has("done.json"):
            logger.info("modality %s: its own uni-modal model is trained in %s", m, folder.path)
    model, _ = replace(setup, run=folder, finished={}).fit(stage, lambda: setup.unimodal_model(m))
    return model


def _collapsed(log: Path) -> list[str]:
    """What training warned of: modalities at chance whose coefficient is at its bound (`balancers.collapse`)."""
    if not log.is_file():
        return []
    found = [
        line.split(" WARNING ", 1)[-1] for line in log.read_text(encoding="utf-8").splitlines() if " WARNING " in line
    ]
    return list(dict.fromkeys(one for one in found if "is at chance while its coefficient" in one))
