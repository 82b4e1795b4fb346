"""Two gloo processes that run one function, for tests of what several processes must agree on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from polymodal.distributed import rank, world_size
from polymodal.types import Batch
from tests.processes import preload

WORLD = 2


def in_two_processes(work: Callable[..., Any], *args: Any) -> list[Any]:
    """What `work(*args)`, a function of a module, returns in each of two processes; tensors and nests of them.

    Let `work` build its model itself: tensors among `args` would lie in memory that both processes share.
    """
    preload()
    with TemporaryDirectory() as folder:
        start_processes(_enter, (work, args, folder), nprocs=WORLD, start_method="forkserver")
        return [torch.load(Path(folder) / f"{r}.pt", weights_only=True) for r in range(WORLD)]


def _enter(rank: int, work: Callable[..., Any], args: tuple[Any, ...], folder: str) -> None:
    # What torchrun tells accelerate.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    dist.init_process_group(
        "gloo", f"file://{folder}/store", timeout=timedelta(seconds=60), world_size=WORLD, rank=rank
    )
    try:
        torch.save(work(*args), Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def replica(model: nn.Module) -> nn.Module:
    """The model in DDP where there are several processes; keep it until after `backward`, its hooks die with it."""
    return DistributedDataParallel(model) if world_size() > 1 else model


def share(batch: Batch) -> Batch:
    """The rows of this process: of one process, all."""

    def rows(value: Any) -> Any:
        if isinstance(value, tuple):  # padded sequences, features
            return type(value)(*map(rows, value))
        if not isinstance(value, Tensor):
            return value
        size = len(value) // world_size()
        return value[rank() * size : (rank() + 1) * size]

    present = None if batch.present is None else {m: rows(one) for m, one in batch.present.items()}
    return Batch({m: rows(x) for m, x in batch.inputs.items()}, rows(batch.target), present)
