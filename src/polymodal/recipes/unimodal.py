"""Uni-modal training: one model a modality, of which the best on validation is kept."""

from __future__ import annotations

from polymodal.errors import InputError
from polymodal.model import MultimodalModel
from polymodal.recipes.base import Result, Setup

__all__ = ["train_each", "unimodal"]


def train_each(setup: Setup) -> tuple[dict[str, MultimodalModel], dict[str, int]]:
    """Train each modality alone, L_m = CE(z_m, y): the models and their best epochs."""
    models, epochs = {}, {}
    for m in setup.modalities:
        stage = f"unimodal_{m}"
        models[m], history = setup.fit(stage, lambda m=m: setup.unimodal_model(m))  # type: ignore[misc]
        epochs[setup.stage_name(stage)] = history.best_epoch
    return models, epochs


def unimodal(setup: Setup) -> Result:
    """Train each modality alone and keep the one that is best on validation.

    Raises:
        InputError: there is no validation split to choose by.
    """
    if setup.valid is None:
        raise InputError("recipe 'unimodal' chooses the best modality on a validation split; give one")
    models, epochs = train_each(setup)
    name = setup.config.train.metric or setup.task.default_metric
    sign = -1 if name in setup.task.lower_is_better else 1
    found = {m: setup.evaluate(model).metrics for m, model in models.items()}
    best = max(models, key=lambda m: (sign * found[m][name], -found[m]["loss"]))
    return Result(models[best], {"name": "mixture"}, epochs, models, chosen=best)
