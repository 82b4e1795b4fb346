"""What a training would be, told without training."""

from __future__ import annotations

from typing import Any

from polymodal import names
from polymodal.config import Config
from polymodal.data.parts import Parts
from polymodal.model import MultimodalModel

__all__ = ["describe_plan"]


def describe_plan(config: Config, parts: Parts, model: MultimodalModel, recipe: str) -> dict[str, Any]:
    """Kinds, class counts, splits and parameters, as plain values; `model` is the one that the run would begin with."""
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
        "recipe": names.typed_name(recipe),
        "balancer": config.balancer.model_dump(),
        "fusion": config.fusion.model_dump(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "notes": parts.notes,
    }
