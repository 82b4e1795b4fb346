"""Uni-modal training: one model a modality, of which the best on validation is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from polymodal.encoders.weights import load_strictly, read_weights
from polymodal.errors import InputError
from polymodal.model import MultimodalModel
from polymodal.recipes.base import Result, Setup
from polymodal.run import logger

__all__ = ["Checkpoints", "best_alone", "check_checkpoints", "train_each", "unimodal"]

Checkpoints = Mapping[str, str | Path] | None
"""Weights of uni-modal models by modality."""


def check_checkpoints(recipe: str, fine_tune: bool, checkpoints: Checkpoints) -> None:
    """Raise `InputError` for checkpoints of a uni-modal phase that is left out."""
    if checkpoints and not fine_tune:
        raise InputError(
            f"{recipe}: fine_tune=False leaves out the phase that checkpoints are of; leave one of them out"
        )


def train_each(setup: Setup, checkpoints: Checkpoints = None) -> tuple[dict[str, MultimodalModel], dict[str, int]]:
    """Train each modality alone, L_m = CE(z_m, y), or read it from a checkpoint: the models and their best epochs.

    Raises:
        InputError: a checkpoint of an unknown modality, of another architecture, or that is no whole file.
    """
    given = dict(checkpoints or {})
    foreign = sorted(set(given) - set(setup.modalities))
    if foreign:
        raise InputError(f"checkpoints of {foreign}: the modalities are {', '.join(setup.modalities)}")
    models, epochs = {}, {}
    for m, path in given.items():  # first: a wrong file must not cost the training
        setup.seed(setup.stage_name(f"unimodal_{m}"))
        models[m] = setup.unimodal_model(m)
        file = _weights_of(Path(path), m)
        load_strictly(models[m], read_weights(file), file)
        logger.info("modality %s: weights from %s", m, file)
    for m in setup.modalities:
        if m not in given:
            stage = f"unimodal_{m}"
            models[m], history = setup.fit(stage, lambda m=m: setup.unimodal_model(m))  # type: ignore[misc]
            epochs[setup.stage_name(stage)] = history.best_epoch
    return {m: models[m] for m in setup.modalities}, epochs


def _weights_of(path: Path, modality: str) -> Path:
    """The file of a checkpoint that may be named by its run's folder."""
    if not path.is_dir():
        return path
    stage = path / "stages" / f"unimodal_{modality}" / "model.safetensors"
    return stage if stage.is_file() else path / "model.safetensors"


def unimodal(setup: Setup) -> Result:
    """Train each modality alone and keep the one that is best on validation.

    Raises:
        InputError: there is no validation split to choose by.
    """
    if setup.valid is None:
        raise InputError("recipe 'unimodal' chooses the best modality on a validation split; give one")
    return best_alone(setup, *train_each(setup))


def best_alone(setup: Setup, models: dict[str, MultimodalModel], epochs: dict[str, int]) -> Result:
    """The result whose model is the uni-modal one that is best on validation, by the metric and then the loss."""
    best = setup.best({m: setup.evaluate(model).metrics for m, model in models.items()})
    return Result(models[best], {"name": "mixture"}, epochs, models, chosen=best)
