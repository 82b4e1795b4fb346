"""Recipes on frozen encoders, whose features are computed once: a classifier of them all, and a linear one of each."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from polymodal.balancers import Balancer
from polymodal.blocks import evaluating
from polymodal.config import StageConfig
from polymodal.encoders.base import linear_heads, width
from polymodal.errors import InputError
from polymodal.model import MultimodalModel
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.unimodal import Checkpoints, best_alone, check_checkpoints, train_each
from polymodal.types import Batch, Features, move

__all__ = ["frozen_features", "linear_eval"]

LINEAR = StageConfig(
    optimizer={"name": "adamw", "lr": 1e-3, "weight_decay": 0.01}, train={"epochs": 100, "schedule": "constant"}
)
"""Settings of the linear classifiers, which the papers do not give (METHODS 4.3)."""


def frozen_features(setup: Setup, fine_tune: bool = True, checkpoints: Checkpoints = None) -> Result:
    """Train each modality alone, freeze the encoders, then train the configured fusion on their features.

    The features are computed once a sample, so an epoch costs next to nothing. The configured balancer plays no part.

    Args:
        fine_tune: false leaves out the uni-modal phase: the features are those of the encoders as they come.
        checkpoints: weights of uni-modal runs by modality, instead of training those alone: a run's folder that recipe
            `unimodal` wrote, or a `model.safetensors` of such a stage.

    Raises:
        InputError: checkpoints of a phase that is left out.

    Source: anonymous 2023 (MMLoRA), the baseline "classifier on frozen features" of its tables.
    """
    check_checkpoints("frozen_features", fine_tune, checkpoints)
    models: dict[str, MultimodalModel] = {}
    epochs: dict[str, int] = {}
    if fine_tune:
        models, epochs = train_each(setup, checkpoints)
    encoders = {m: frozen(models[m].encoders[m] if fine_tune else fresh(setup, m)) for m in setup.modalities}
    part = setup.config.fusion.model_dump()

    def build() -> MultimodalModel:
        fusion = setup.fusion({m: width(encoder) for m, encoder in encoders.items()}, part)
        heads = linear_heads(encoders, setup.task.outputs) if getattr(fusion, "needs_heads", False) else None
        return MultimodalModel(encoders, fusion, heads)

    loaders = setup.cached(encoders, tokens=_tokens_read(setup, encoders, build()))
    model, history = setup.fit("frozen_features", build, Balancer(), loaders)
    return Result(model, part, epochs | {setup.stage_name("frozen_features"): history.best_epoch}, models)


def linear_eval(
    setup: Setup, of: Literal["pretrained", "unimodal"] = "pretrained", checkpoints: Checkpoints = None
) -> Result:
    """A linear classifier on the frozen features of each encoder alone; the modality that is best on validation is kept.

    AdamW 1e-3 with decay 0.01 at a constant rate for 100 epochs; `stages.linear_*` changes that.

    Args:
        of: "pretrained" encoders as they come (from scratch they are random), or those of the "unimodal" phase.
        checkpoints: of the uni-modal phase, see `frozen_features`.

    Raises:
        InputError: another `of`, or no validation split to choose by.

    Source: anonymous 2023 (MMLoRA), tables 3 and 8; the settings are ours, none are given.
    """
    if of not in ("pretrained", "unimodal"):
        raise InputError(f"linear_eval: of={of!r}; it is 'pretrained' or 'unimodal'")
    stages = {"linear_*": LINEAR, **setup.config.stages}
    inner = replace(setup, config=setup.config.model_copy(update={"stages": stages}))
    epochs: dict[str, int] = {}
    encoders: Mapping[str, nn.Module]
    if of == "unimodal":
        models, epochs = train_each(inner, checkpoints)
        encoders = {m: frozen(one.encoders[m]) for m, one in models.items()}
    else:
        encoders = {m: frozen(fresh(inner, m)) for m in setup.modalities}
    found = {}
    for m, encoder in encoders.items():
        stage = f"linear_{m}"

        def build(m: str = m, encoder: nn.Module = encoder) -> MultimodalModel:
            heads = linear_heads({m: encoder}, setup.task.outputs)
            return MultimodalModel({m: encoder}, setup.fusion({m: width(encoder)}, {"name": "mixture"}), heads)

        found[m], history = inner.fit(stage, build, Balancer(), inner.cached({m: encoder}))
        epochs[setup.stage_name(stage)] = history.best_epoch
    return best_alone(setup, found, epochs)


def fresh(setup: Setup, modality: str) -> nn.Module:
    """An encoder as it comes, from the seed that its uni-modal stage would have."""
    setup.seed(setup.stage_name(f"unimodal_{modality}"))
    return setup.make_encoder(modality)


def frozen(encoder: nn.Module) -> nn.Module:
    """A copy of which no parameter trains."""
    return copy.deepcopy(encoder).requires_grad_(False)


def with_tokens(setup: Setup, encoders: Mapping[str, nn.Module]) -> list[str]:
    """Modalities whose encoders yield tokens, told by one batch."""
    if not encoders:
        return []
    batch = next(iter(setup.train))
    return [m for m, encoder in encoders.items() if features_of(encoder, batch, m).tokens is not None]


@torch.no_grad()
def features_of(encoder: nn.Module, batch: Batch, modality: str) -> Features:
    """Features of one batch in eval mode; every part of the encoder keeps its mode."""
    with evaluating(encoder):
        found: Features = encoder(input_of(encoder, batch, modality))
    return found


def input_of(encoder: nn.Module, batch: Batch, modality: str) -> Any:
    """The input of one modality on its encoder's device."""
    return move(batch.inputs[modality], next((p.device for p in encoder.parameters()), torch.device("cpu")))


@torch.no_grad()
def _tokens_read(setup: Setup, encoders: Mapping[str, nn.Module], model: MultimodalModel) -> list[str]:
    """Modalities whose token features the fusion reads, told by what it makes of one batch with and without them."""
    batch = next(iter(setup.train))
    found = {m: features_of(encoder, batch, m) for m, encoder in encoders.items()}
    rich = [m for m, one in found.items() if one.tokens is not None]
    model.eval()
    whole, pooled = model(found), model({m: Features(one.pooled) for m, one in found.items()})
    return rich if rich and not torch.equal(whole.logits, pooled.logits) else []
