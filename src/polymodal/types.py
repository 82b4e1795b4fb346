"""The values that travel through one training step; shapes use B samples, L tokens, D features, C outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

__all__ = ["Batch", "Features", "Model", "Output", "Padded", "Pair", "Step", "Sum", "Task", "Totals"]


class Padded(NamedTuple):
    """A batch of sequences of unequal length: `values` padded with zeros, `mask` (B, L) true where a token is real."""

    values: Tensor
    mask: Tensor


class Batch(NamedTuple):
    """One mini-batch.

    `inputs[m]` is what the encoder of modality m takes: a tensor, a `Padded`, or precomputed `Features`.
    `present[m]` is (B,) bool where a sample may lack modality m; a modality without an entry is there for every sample. Its
    input then holds finite numbers all the same, best zeros: a NaN would reach the gradient through the zero it is masked by.
    """

    inputs: dict[str, Any]
    target: Tensor
    present: dict[str, Tensor] | None = None
    ids: Sequence[str] | None = None


class Features(NamedTuple):
    """What an encoder yields: `pooled` (B, D), `tokens` (B, L, D), `mask` (B, L) bool, `present` (B,) bool.

    `present` is set by the model, so that fusions and heads know which samples lack the modality.
    """

    pooled: Tensor
    tokens: Tensor | None = None
    mask: Tensor | None = None
    present: Tensor | None = None


class Pair(NamedTuple):
    """Retrieval embeddings of E experts: `query` and `gallery` (B, E, D), mixture `weights` (B, E) of each query.

    An expert that a sample's item lacks has zeros in `gallery`; similarities leave it out (`polymodal.tasks.similarity`).
    """

    query: Tensor
    gallery: Tensor
    weights: Tensor


class Output(NamedTuple):
    """What a forward pass yields: fused `logits` (B, C), `unimodal[m]` (B, C) of the heads, `features[m]`, `pair`."""

    logits: Tensor | None
    unimodal: dict[str, Tensor]
    features: dict[str, Features]
    pair: Pair | None = None


class Sum(NamedTuple):
    """A mean before its division: 0-dim `total` and `count`, which add up over micro-batches and processes."""

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # a field hides tuple.count on purpose


class Totals(NamedTuple):
    """Denominators of one optimiser step's means: 0-dim counts over all its micro-batches and processes.

    They are divided by the number of processes, so that the average of the replicas' gradients is the exact gradient.
    """

    fused: Tensor
    unimodal: dict[str, Tensor]


class Model(Protocol):
    """What balancers and tasks may ask of a model (`polymodal.model.MultimodalModel` has it)."""

    encoders: nn.ModuleDict
    heads: nn.ModuleDict
    fusion: nn.Module

    @property
    def modalities(self) -> tuple[str, ...]: ...

    def parameters_of(self, modality: str, scope: Iterable[str] = ...) -> list[nn.Parameter]: ...

    def __call__(self, inputs: dict[str, Any], present: dict[str, Tensor] | None = None) -> Output: ...


class Task(Protocol):
    """What balancers ask of a task (`polymodal.tasks` has them)."""

    @property
    def score_is_error(self) -> bool: ...

    def losses(self, logits: Tensor, target: Tensor) -> Tensor: ...

    def fused_losses(self, output: Output, batch: Batch) -> Tensor: ...

    def weights(self, target: Tensor) -> Tensor: ...

    def score(self, logits: Tensor, target: Tensor) -> Tensor: ...


class Step(NamedTuple):
    """All that one training step knows; `polymodal.forward` makes it."""

    model: Model
    batch: Batch
    output: Output
    task: Task
    totals: Totals

    def fused_loss(self) -> Tensor:
        """Mean loss of the fused prediction over the whole optimiser step (all micro-batches and processes)."""
        return self.task.fused_losses(self.output, self.batch).sum() / self.totals.fused

    def unimodal_loss(self, modality: str) -> Tensor:
        """Mean loss of the uni-modal head of `modality` over the samples that have it; 0 if none has it."""
        losses = self.task.losses(self.output.unimodal[modality], self.batch.target)
        present = self.present(modality)
        if present is not None:
            losses = torch.where(present, losses, torch.zeros_like(losses))
        return losses.sum() / self.totals.unimodal[modality]

    def present(self, modality: str) -> Tensor | None:
        """(B,) bool, true where the sample has `modality`; None where every sample has it."""
        return (self.batch.present or {}).get(modality)


def move(value: Any, device: torch.device | str, *, non_blocking: bool = False) -> Any:
    """The same nested value (tuples, named tuples, mappings) with every tensor on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, Mapping):
        return {key: move(item, device, non_blocking=non_blocking) for key, item in value.items()}
    if isinstance(value, tuple):
        items = [move(item, device, non_blocking=non_blocking) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
