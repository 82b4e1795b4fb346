"""Figures of a trained model: of all that a recipe ends with, or of chosen samples without some modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from polymodal import names
from polymodal.data.missing import without
from polymodal.data.samples import Samples
from polymodal.errors import InputError
from polymodal.evaluate import Evaluation, evaluate, unimodal_source
from polymodal.fit import Sized
from polymodal.model import MultimodalModel
from polymodal.recipes.base import Result, Setup
from polymodal.tasks import Retrieval, Task

__all__ = ["assess", "left_without", "without_modalities"]


def assess(result: Result, setup: Setup, loaders: Mapping[str, Sized]) -> tuple[dict[str, Any], dict[str, Evaluation]]:
    """A run's metrics.json, and the evaluation of each part that there is of the validation and test split."""
    source: str | None = "models" if result.unimodal else unimodal_source(result.model, masking=True)
    found = {}
    for part, loader in loaders.items():
        setup.valid = loader
        found[part] = setup.evaluate(result.model, masking=not result.unimodal)
        if result.unimodal:
            alone = {m: setup.evaluate(model) for m, model in result.unimodal.items()}
            found[part] = found[part]._replace(
                unimodal={m: one.probabilities for m, one in alone.items()},
                unimodal_metrics={m: one.metrics for m, one in alone.items()},
            )
    metrics: dict[str, Any] = {part: one.metrics for part, one in found.items()}
    single = {part: one.unimodal_metrics for part, one in found.items()}
    metrics["unimodal"] = {**single, "from": None if isinstance(setup.task, Retrieval) else source}
    metrics["best_epoch"] = max(result.best_epoch.values())
    if len(result.best_epoch) > 1:
        metrics["best_epochs"] = result.best_epoch
    if result.chosen is not None:
        metrics["chosen"] = result.chosen
    return metrics, found


def left_without(drop: Sequence[str], model: MultimodalModel, known: Mapping[str, Any]) -> list[str]:
    """The model's modalities without those.

    Raises:
        InputError: one that the model does not have, or all that it has.
    """
    own = model.modalities
    for m in drop:
        if m not in own:
            why = "the model does not use it" if m in known else f"no such modality{names.nearest(m, own)}"
            raise InputError(f"drop {m!r}: {why} (it has {', '.join(own)})")
    kept = [m for m in own if m not in drop]
    if not kept:
        what = f"its only modality, {own[0]}," if len(own) == 1 else f"all of {', '.join(own)}"
        raise InputError(f"drop: without {what} the model has nothing to predict from; leave one in")
    return kept


def without_modalities(
    model: MultimodalModel, loader: Sized, task: Task, samples: Samples, drop: Sequence[str], kept: Sequence[str]
) -> dict[str, Any]:
    """Metrics of a model whose samples lack some modalities; samples that have no other do not count.

    Raises:
        InputError: no sample has any of those kept.
    """
    there = np.asarray(torch.stack([samples.columns[m].present for m in kept]).any(0))
    if not there.any():
        raise InputError(f"{samples.table.source}: without {', '.join(drop)} no row has any modality")
    found = evaluate(model, (without(batch, drop) for batch in loader), task, masking=True)
    metrics = task.metrics(found.probabilities[there], found.target[there])
    single = {m: one for m, one in found.unimodal_metrics.items() if m in kept}
    return metrics | {"unimodal": single, "samples": int(there.sum()), "dropped": list(drop)}
