"""Sums and gathers over the processes of a run; each is the identity when there is one process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "all_sum", "average", "gather_objects", "gather_rows", "rank", "spread", "start", "unwrap", "wait", "world_size",
]  # fmt: skip


def world_size() -> int:
    """Number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def start(device: str | None = None) -> None:
    """Join the processes that `accelerate launch` or `torchrun` started; nothing where there is only this one.

    Args:
        device: "cpu" keeps off accelerators.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and world_size() == 1:
        from accelerate import PartialState

        PartialState(cpu=device == "cpu" or not torch.cuda.is_available())


def wait() -> None:
    """Until every process is here."""
    if world_size() > 1:
        dist.barrier()


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


def spread(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by that of process 0, in place."""
    if world_size() == 1:
        return
    for tensor in tensors:
        dist.broadcast(tensor, 0)


def gather_rows(local: Tensor) -> Tensor:
    """Rows of all processes, in rank order, with gradient: (B_r, ...) on each -> (sum of B_r, ...) on all."""
    if world_size() == 1:
        return local
    size = torch.tensor([len(local)], device=local.device)
    sizes = [torch.zeros_like(size) for _ in range(world_size())]
    dist.all_gather(sizes, size)
    counts = [int(one) for one in sizes]
    padding = local.new_zeros(max(counts) - len(local), *local.shape[1:])
    parts = cast(Tensor, _Gather.apply(torch.cat([local, padding])))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


class _Gather(torch.autograd.Function):
    """(...) on each process -> (processes, ...) on all; torch's own gather with gradient is deprecated."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(world_size())]
        dist.all_gather(parts, local)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        # Every process's loss may depend on every row.
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad[rank()]


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
