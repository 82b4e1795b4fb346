"""Sums and gathers over the processes of a run; each is the identity when there is one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["all_sum", "average", "gather_objects", "gather_rows", "rank", "unwrap", "world_size"]


def world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def all_sum(values: Sequence[Tensor]) -> list[Tensor]:
    """Each 0-dim tensor summed over processes, in one message."""
    if world_size() == 1 or not values:
        return list(values)
    message = torch.stack([value.detach() for value in values])
    dist.all_reduce(message)
    return list(message.unbind())


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over processes, in place: what DDP does to gradients, for gradients it never saw."""
    if world_size() == 1:
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor.div_(world_size())


def gather_rows(local: Tensor) -> Tensor:
    """Rows of all processes, in rank order, with gradient: (B_r, ...) on each -> (sum of B_r, ...) on all."""
    if world_size() == 1:
        return local
    from torch.distributed.nn.functional import all_gather

    size = torch.tensor([len(local)], device=local.device)
    sizes = [torch.zeros_like(size) for _ in range(world_size())]
    dist.all_gather(sizes, size)
    counts = [int(one) for one in sizes]
    padding = local.new_zeros(max(counts) - len(local), *local.shape[1:])
    parts = cast(Sequence[Tensor], all_gather(torch.cat([local, padding])))  # type: ignore[no-untyped-call]
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def gather_objects(local: Any) -> list[Any]:
    """One Python object a process, in rank order."""
    if world_size() == 1:
        return [local]
    objects: list[Any] = [None] * world_size()
    dist.all_gather_object(objects, local)
    return objects


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DDP's and `torch.compile`'s wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", None) or (
            model.module if isinstance(model, nn.parallel.DistributedDataParallel) else None
        )
        if not isinstance(inner, nn.Module):
            return model
        model = inner
