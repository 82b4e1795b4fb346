"""Scores: how well each modality does on a batch, as sums and counts. Any rule runs with any of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from polymodal.balancers.passes import check_zeroing, shapley_parts, subset_logits
from polymodal.balancers.prototypes import PrototypeBank
from polymodal.errors import InputError
from polymodal.types import Batch, Model, Step, Sum, Task

__all__ = [
    "SCORES",
    "FunctionScore",
    "Heads",
    "Parts",
    "Prototypes",
    "Score",
    "Shapley",
    "heads",
    "masked_sum",
    "parts",
    "prototypes",
    "resolve_score",
    "shapley",
]


class Score(nn.Module):
    """How well each modality does on a step: uni-modal logits, of which the task's per-sample score is summed.

    A kind of score overrides `logits`, and `check` where it cannot read every model. A score that must remember keeps
    it in buffers; `start_epoch` fills them.
    """

    def logits(self, step: Step) -> dict[str, Tensor]:
        """Uni-modal logits (B, C) of each modality."""
        raise NotImplementedError

    def check(self, model: Model, task: Task) -> None:
        """Raise `InputError` for a model or a task whose uni-modal scores it cannot tell."""

    def start_epoch(self, model: Model, loader: Iterable[Batch]) -> None:
        """Called before each epoch's first step."""

    @torch.no_grad()
    def forward(self, step: Step) -> dict[str, Sum]:
        """Sum and count of each modality over the samples that have it."""
        return {
            m: masked_sum(step.task.score(logits, step.batch.target), step.present(m))
            for m, logits in self.logits(step).items()
        }


def masked_sum(values: Tensor, present: Tensor | None) -> Sum:
    """Sum and count of per-sample values (B,) over the samples that have the modality."""
    values = values.detach()
    if present is None:
        return Sum(values.sum(), torch.full((), float(len(values)), dtype=values.dtype, device=values.device))
    kept = torch.where(present, values, torch.zeros_like(values))
    return Sum(kept.sum(), present.sum().to(values.dtype))


class Heads(Score):
    """The score of each uni-modal head: sum_n softmax(z_m)[n, y_n]."""

    def logits(self, step: Step) -> dict[str, Tensor]:
        return step.output.unimodal

    def check(self, model: Model, task: Task) -> None:
        if set(model.heads) != set(model.modalities):
            raise InputError(
                f"score 'heads' reads a uni-modal head of each of {list(model.modalities)}, and the model has heads "
                f"for {list(model.heads)}; build them with polymodal.encoders.linear_heads, or use score 'parts'"
            )


class Parts(Score):
    """The score of each modality's own share of the fused logits, z = sum_m z_m (OGM's split head)."""

    def logits(self, step: Step) -> dict[str, Tensor]:
        shares: dict[str, Tensor] = step.model.fusion.parts(step.output.features)  # type: ignore[operator]
        return shares

    def check(self, model: Model, task: Task) -> None:
        if not getattr(model.fusion, "additive", False):
            raise InputError(
                f"score 'parts' splits the fused logits into one share a modality, which {type(model.fusion).__name__} "
                "does not allow; use fusion 'concat' or 'sum', or score 'heads' or 'shapley'"
            )


class Shapley(Score):
    """The score of each modality's Shapley share of the fused logits, which needs neither heads nor an additive fusion.

    Costs 2^M - 2 passes of the fusion, without gradients, in eval mode.

    Args:
        zero: "features" zeroes features and runs only the fusion again, "input" also the encoders (`passes`).

    Source: the shares are those of Li et al. 2023 (AGM); as a score for other rules ours.
    """

    def __init__(self, zero: str = "features") -> None:
        super().__init__()
        self.zero = zero

    def logits(self, step: Step) -> dict[str, Tensor]:
        return shapley_parts(subset_logits(step, self.zero))

    def check(self, model: Model, task: Task) -> None:
        check_zeroing(model)


class Prototypes(Score):
    """The score of the distances to class prototypes, -||h_m - c_{m,k}||, read as logits; needs `start_epoch`.

    Args:
        fraction, momentum: see `PrototypeBank`.

    Source: Fan et al. 2023 (PMR), eq. 6 and 8; as a score for other rules ours.
    """

    def __init__(self, fraction: float = 0.1, momentum: float = 0.2) -> None:
        super().__init__()
        self.bank = PrototypeBank(fraction, momentum)

    def logits(self, step: Step) -> dict[str, Tensor]:
        return self.bank.similarities({m: f.pooled for m, f in step.output.features.items()}, "score 'prototypes'")

    def check(self, model: Model, task: Task) -> None:
        self.bank.check(model, task, "score 'prototypes'")

    def start_epoch(self, model: Model, loader: Iterable[Batch]) -> None:
        self.bank.update(model, loader, "score 'prototypes'")


class FunctionScore(Score):
    """A user's own function of a step that gives the sum and count of each modality."""

    def __init__(self, function: Callable[[Step], dict[str, Sum]]) -> None:
        super().__init__()
        self.function = function

    def logits(self, step: Step) -> dict[str, Tensor]:
        raise InputError("a score given as a function has no uni-modal logits; derive a class from Score instead")

    @torch.no_grad()
    def forward(self, step: Step) -> dict[str, Sum]:
        return self.function(step)


heads, parts, shapley, prototypes = Heads(), Parts(), Shapley(), Prototypes()
SCORES: dict[str, Score] = {"heads": heads, "parts": parts, "shapley": shapley, "prototypes": prototypes}


def resolve_score(score: str | Score | Callable[[Step], dict[str, Sum]] | None) -> Score | None:
    """A score of that name, or the given one."""
    if score is None or isinstance(score, Score):
        return score
    if callable(score):
        return FunctionScore(score)
    if score not in SCORES:
        raise InputError(f"score {score!r} is unknown; there are {sorted(SCORES)}")
    return copy.deepcopy(SCORES[score])  # a score may remember
