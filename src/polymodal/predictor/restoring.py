"""A trained model as plain values, and built again from them: what model.json is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from polymodal import names
from polymodal.adapters import insert
from polymodal.config import Part
from polymodal.encoders.base import linear_heads, width
from polymodal.errors import InputError
from polymodal.model import MultimodalModel
from polymodal.predictor.task import describe_task
from polymodal.recipes.over_experts import put_over_experts
from polymodal.run import load_weights
from polymodal.tasks import Retrieval, Task

__all__ = ["describe_model", "restore_model"]


def describe_model(
    model: MultimodalModel,
    encoders: Mapping[str, Part],
    fusion: Mapping[str, Any],
    adapter: Mapping[str, Any] | None,
    kind: str,
    task: Task,
) -> dict[str, Any]:
    """What `restore_model` needs beside the weights.

    Args:
        model: the trained model.
        encoders: class and settings of each encoder.
        fusion: name and settings of the fusion.
        adapter: arguments of `polymodal.adapters.insert`, or None.
        kind: of the task, as the schema says it.
        task: what it was trained for.
    """
    return {
        "modalities": list(model.modalities),
        "encoders": {m: part.model_dump() for m, part in encoders.items()},
        "fusion": fusion,
        "adapter": adapter,
        "heads": bool(model.heads),
        "task": describe_task(kind, task),
    }


def restore_model(
    described: Mapping[str, Any], encoders: Mapping[str, nn.Module], task: Task, weights: Path, *, trust: Sequence[str]
) -> MultimodalModel:
    """The model that `describe_model` described, with the weights of a file.

    Args:
        described: the whole model.json.
        encoders: fresh ones, into which the adapter is put.
        task: what it was trained for.
        weights: safetensors file.
        trust: modules outside polymodal that may be imported.

    Raises:
        InputError: the weights do not fit, or a class comes from a module that is not trusted.
    """
    own, retrieves = described.get("adapter"), isinstance(task, Retrieval)  # in retrieval it belongs into the fusion
    encoders = dict(encoders)
    adapter = None if own is None or retrieves else insert(encoders=encoders, trust=trust, **own)
    dims = {m: width(encoder) for m, encoder in encoders.items()}
    settings = dict(described["fusion"])
    make = names.resolve("fusion", settings.pop("name"), bases=("Fusion",), trust=trust)
    given = {
        "dims": dims if adapter is None else adapter.dims_after(dims),
        "outputs": task.outputs,
        "kind": task.mixture,
    }
    heads = linear_heads(encoders, task.outputs) if described["heads"] else None
    model = MultimodalModel(encoders, names.build(make, settings, given, "fusion"), heads, adapter)
    if own is not None and retrieves:
        put_over_experts(model, trust=trust, **own)
    loaded = load_weights(weights)
    try:
        model.load_state_dict(loaded)
    except RuntimeError as error:
        raise InputError(f"{weights} does not fit the model of model.json: {error}") from error
    return model
