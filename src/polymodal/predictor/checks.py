"""Settings that do not go together, or not with the table, are refused before anything is trained."""

from __future__ import annotations

from typing import Any

from polymodal import names
from polymodal.config import Config
from polymodal.data.parts import Parts
from polymodal.errors import InputError
from polymodal.fusion.retrieval import Pairing
from polymodal.predictor.task import metrics_of
from polymodal.tasks import Retrieval, Task

__all__ = ["check_queries", "check_retrieval", "check_settings"]

RETRIEVING = ("joint", "wander", "adapter")
"""Recipes that can train for retrieval."""


def check_settings(config: Config, parts: Parts, task: Task) -> None:
    """Raise `InputError` for a metric, an encoder or a modality dropout that this table and task cannot have."""
    metric, known = config.train.metric, metrics_of(task)
    if metric is not None and metric not in known:
        raise InputError(
            f"metric {metric!r} is unknown{names.nearest(metric, known)}; this task has {', '.join(known)}"
        )
    modalities = parts.schema.modalities
    for m in config.encoders:
        if m not in modalities:
            raise InputError(
                f"encoder of {m!r}: no such modality{names.nearest(m, modalities)}; there are {', '.join(modalities)}"
            )
    probability = config.train.modality_dropout
    if probability and len(modalities) < 2:
        raise InputError(
            f"train.modality_dropout={probability}: there is one modality, {next(iter(modalities))!r}, "
            "which a sample cannot lose; leave it at 0"
        )


def check_retrieval(task: Task, fusion: Any, config: Config) -> None:
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


def check_queries(parts: Parts, config: Config) -> None:
    """Raise `InputError` for a row whose query is empty."""
    query = config.fusion.arguments.get("query") or next(iter(parts.schema.modalities))
    for samples in parts.samples.values():
        if query in samples.columns and not bool(samples.columns[query].present.all()):
            row = int(samples.rows[int((~samples.columns[query].present).nonzero()[0])])
            raise InputError(
                f"{samples.table.source}, {samples.table.place(row)}: the query {query!r} is empty; fill it in or leave the "
                "row out"
            )
