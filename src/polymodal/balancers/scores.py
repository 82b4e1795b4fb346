"""Scores: how well each modality does on a batch, as sums and counts. Any rule of this package runs with any of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polymodal.errors import InputError
from polymodal.types import Model, Step, Sum

__all__ = ["SCORES", "Score", "heads", "masked_sum", "parts", "resolve_score"]


class Score:
    """A function of a step that yields each modality's score, with a check of the models it can read.

    Args:
        function: step -> sum and count of each modality.
        check: raises `InputError` for a model whose uni-modal scores it cannot tell.
    """

    def __init__(self, function: Callable[[Step], dict[str, Sum]], check: Callable[[Model], None]) -> None:
        self.function, self.check = function, check
        self.__doc__ = function.__doc__

    def __call__(self, step: Step) -> dict[str, Sum]:
        with torch.no_grad():
            return self.function(step)


def masked_sum(values: Tensor, present: Tensor | None) -> Sum:
    """Sum and count of per-sample values (B,) over the samples that have the modality."""
    values = values.detach()
    if present is None:
        return Sum(values.sum(), torch.full((), float(len(values)), dtype=values.dtype, device=values.device))
    kept = torch.where(present, values, torch.zeros_like(values))
    return Sum(kept.sum(), present.sum().to(values.dtype))


def _heads(step: Step) -> dict[str, Sum]:
    """The score of each uni-modal head: sum_n softmax(z_m)[n, y_n]."""
    return {
        m: masked_sum(step.task.score(logits, step.batch.target), step.present(m))
        for m, logits in step.output.unimodal.items()
    }


def _needs_heads(model: Model) -> None:
    if set(model.heads) != set(model.modalities):
        raise InputError(
            f"score 'heads' reads a uni-modal head of each of {list(model.modalities)}, and the model has heads for "
            f"{list(model.heads)}; build them with polymodal.encoders.linear_heads, or use score 'parts'"
        )


def _parts(step: Step) -> dict[str, Sum]:
    """The score of each modality's own share of the fused logits, z = sum_m z_m (OGM's split head)."""
    shares = step.model.fusion.parts(step.output.features)  # type: ignore[operator]
    return {
        m: masked_sum(step.task.score(share, step.batch.target), step.present(m)) for m, share in shares.items()
    }


def _needs_parts(model: Model) -> None:
    if not getattr(model.fusion, "additive", False):
        raise InputError(
            f"score 'parts' splits the fused logits into one share a modality, which {type(model.fusion).__name__} does "
            "not allow; use fusion 'concat' or 'sum', or score 'heads'"
        )


heads = Score(_heads, _needs_heads)
parts = Score(_parts, _needs_parts)
SCORES: dict[str, Score] = {"heads": heads, "parts": parts}


def resolve_score(score: str | Score | Callable[[Step], dict[str, Sum]] | None) -> Score | None:
    """The score of that name, or the given one."""
    if score is None or isinstance(score, Score):
        return score
    if callable(score):
        return Score(score, lambda model: None)
    if score not in SCORES:
        raise InputError(f"score {score!r} is unknown; there are {sorted(SCORES)}")
    return SCORES[score]
