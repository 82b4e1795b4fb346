"""Class prototypes: a classifier of each modality without parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sized
from typing import cast

import torch
from torch import Tensor, nn

from polymodal.blocks import evaluating
from polymodal.distributed import all_sum, unwrap
from polymodal.errors import InputError
from polymodal.types import Batch, Model, Task, move

__all__ = ["PrototypeBank", "average_prototypes", "prototype_similarities"]


def prototype_similarities(features: Tensor, prototypes: Tensor, known: Tensor | None = None) -> Tensor:
    """sim[n, c] = -sqrt(||h_n - c_c||^2 + 1e-12): (B, D) and (C, D) -> (B, C), at least single precision.

    A class that was never seen (`known` (C,) false) gets a similarity so low that its probability is 0.

    Source: Fan et al. 2023, eq. 6. Differs from the authors' code: the small number keeps the gradient finite at
    distance 0.

    Example:
        >>> prototype_similarities(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0], [3.0, 3.0]]))
        tensor([[-5., -1.]])
    """
    wide = features if features.dtype == torch.float64 else features.float()
    squared = (wide[:, None] - prototypes.to(wide)[None]).square().sum(-1)
    similarities = -(squared + 1e-12).sqrt()
    return similarities if known is None else similarities.masked_fill(~known, -1e30)


def average_prototypes(old: Tensor, new: Tensor, momentum: float) -> Tensor:
    """New prototypes c <- (1 - mu) c_new + mu c_old: the momentum multiplies the old prototype.

    Source: Fan et al. 2023, section 3.2 and code.

    Example:
        >>> average_prototypes(torch.tensor([1.0]), torch.tensor([2.0]), momentum=0.2)
        tensor([1.8000])
    """
    return (1 - momentum) * new + momentum * old


class PrototypeBank(nn.Module):
    """Mean feature of each class and modality, recomputed before each epoch on the first batches of the training data.

    c_{m,k} is the mean of h_m over the samples of class k that have the modality, taken in eval mode (former modes are
    restored), summed over processes. From the third computation on it is averaged with the old one; a class that the
    batches lack keeps its prototype. State is in buffers, whose size `check` sets.

    Args:
        fraction: share of the training batches, above 0, at most 1.
        momentum: mu of `average_prototypes`, from 0 to below 1.
    """

    prototypes: Tensor
    """(C, sum_m D_m): those of the modalities side by side, in the model's order."""
    known: Tensor
    """(M, C) bool, true where the class was seen."""
    updates: Tensor

    def __init__(self, fraction: float = 0.1, momentum: float = 0.2) -> None:
        super().__init__()
        if not 0 < fraction <= 1:
            raise InputError(f"prototypes: fraction={fraction} of the training batches; give one above 0, at most 1")
        if not 0 <= momentum < 1:
            raise InputError(f"prototypes: momentum={momentum} of the old prototypes; give 0 (none) to below 1")
        self.fraction, self.momentum = fraction, momentum
        self.register_buffer("updates", torch.tensor(0))
        self.register_buffer("prototypes", None)
        self.register_buffer("known", None)
        self._dims: dict[str, int] = {}

    def check(self, model: Model, task: Task, who: str) -> None:
        """Set the sizes; raise `InputError` where the targets are not classes."""
        if getattr(task, "mixture", None) != "categorical":
            raise InputError(
                f"{who}: prototypes are means over the samples of one class, and {type(task).__name__} puts no sample "
                "into exactly one; use it with Classification, or another balancer or score ('heads', 'shapley')"
            )
        classes = int(task.outputs)  # type: ignore[attr-defined]
        self._dims = {m: int(encoder.dim) for m, encoder in model.encoders.items()}  # type: ignore[arg-type]
        like = next((p for p in cast(nn.Module, model).parameters() if p.is_floating_point()), torch.zeros(()))
        shape = (classes, sum(self._dims.values()))
        if self.prototypes is None:
            self.register_buffer("prototypes", torch.zeros(shape, dtype=torch.promote_types(like.dtype, torch.float32)))
            self.register_buffer("known", torch.zeros(len(self._dims), classes, dtype=torch.bool))
        elif self.prototypes.shape != shape:
            raise InputError(
                f"{who}: the loaded prototypes are {tuple(self.prototypes.shape)} and this model needs {shape} "
                "(classes, sum of the encoders' widths); load the state of the same model"
            )
        self.to(like.device)

    def similarities(self, features: dict[str, Tensor], who: str) -> dict[str, Tensor]:
        """Similarities (B, C) of pooled features (B, D_m) with the prototypes of their modality."""
        if self.prototypes is None or not bool(self.updates):
            raise InputError(
                f"{who} has no prototypes yet: call balancer.check(model, task) once and balancer.start_epoch(model, "
                "loader) before each epoch's first step (polymodal.fit does)"
            )
        return {m: prototype_similarities(features[m], *self._of(i, m)) for i, m in enumerate(self._dims)}

    def known_class(self, modality: str, target: Tensor) -> Tensor:
        """(B,) bool, true where the sample's class has a prototype."""
        return self.known[list(self._dims).index(modality)][target]

    def _of(self, index: int, modality: str) -> tuple[Tensor, Tensor]:
        start = sum(list(self._dims.values())[:index])
        return self.prototypes[:, start : start + self._dims[modality]], self.known[index]

    @torch.no_grad()
    def update(self, model: Model, loader: Iterable[Batch], who: str) -> None:
        """Recompute the prototypes on the first batches of `loader`."""
        if self.prototypes is None:
            raise InputError(f"{who}: call balancer.check(model, task) before start_epoch, which must know the classes")
        try:
            count = math.ceil(self.fraction * len(cast(Sized, loader)))
        except TypeError as error:
            raise InputError(
                f"{who} reads the first {self.fraction:.0%} of the training batches; give a loader with len()"
            ) from error
        inner = unwrap(cast(nn.Module, model))
        sums = torch.zeros_like(self.prototypes)
        counts = torch.zeros(self.known.shape, dtype=sums.dtype, device=sums.device)
        with evaluating(inner):
            for _, batch in zip(range(count), loader, strict=False):
                moved = move(batch, sums.device)
                features = inner(moved.inputs, moved.present).features
                start = 0
                for i, (m, dim) in enumerate(self._dims.items()):
                    there = (moved.present or {}).get(m)
                    pooled, target = features[m].pooled.to(sums.dtype), moved.target
                    if there is not None:
                        pooled, target = pooled[there], target[there]
                    sums[:, start : start + dim].index_add_(0, target, pooled)
                    counts[i].index_add_(0, target, torch.ones_like(target, dtype=sums.dtype))
                    start += dim
        (sums,), (counts,) = all_sum([sums]), all_sum([counts])
        start = 0
        for i, dim in enumerate(self._dims.values()):
            old, seen = self.prototypes[:, start : start + dim], counts[i] > 0
            new = sums[:, start : start + dim] / counts[i].clamp_min(1)[:, None]
            # The first two have nothing to be averaged with: before training, and after the first epoch.
            mixed = average_prototypes(old, new, self.momentum if int(self.updates) > 1 else 0.0)
            new = torch.where(self.known[i][:, None], mixed, new)
            old.copy_(torch.where(seen[:, None], new, old))
            self.known[i] |= seen
            start += dim
        self.updates += 1

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        size_from_state(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def size_from_state(module: nn.Module, state: dict[str, Tensor], prefix: str) -> None:
    """Give buffers that await their size (registered as None) that of the state about to be loaded."""
    for name, buffer in list(module._buffers.items()):
        if buffer is None and prefix + name in state:
            module.register_buffer(name, torch.zeros_like(state[prefix + name]))
