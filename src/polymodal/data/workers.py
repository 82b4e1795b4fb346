"""How many processes decode beside training, so that neither they nor the batches they have ready take too much memory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

__all__ = ["Workers", "processors", "workers_for"]

SHARED = Path("/dev/shm")
BUDGET = 2**30
MOST = 8
AHEAD = 2


class Workers(NamedTuple):
    """A number of processes, and of batches that each has ready; no process where there is no room for what they make."""

    processes: int
    ahead: int


def processors() -> int:
    """Those that this process may use; a container may own fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_for(asked: int | None, batch: int, world: int = 1, room: int | None = None) -> Workers:
    """Processes that decode for one of `world` processes that train.

    Batches lie in shared memory until they are used. All that are ready take at most a gigabyte, or half of the shared memory
    that is free: first fewer are made ahead, then fewer processes make them.

    Args:
        asked: how many; None for one a processor, at most 8, and none where there is one processor.
        batch: bytes of one batch.
        world: training processes on this machine.
        room: bytes of shared memory that are free, for tests.

    Example:
        >>> workers_for(4, batch=2**20), workers_for(4, batch=2**28), workers_for(4, batch=2**31)
        (Workers(processes=4, ahead=2), Workers(processes=4, ahead=1), Workers(processes=0, ahead=0))
    """
    if asked is None:
        own = min(MOST, processors() // world)
        asked = own if own > 1 else 0
    if room is None:
        room = shutil.disk_usage(SHARED).free if SHARED.is_dir() else 2 * BUDGET
    fits = min(BUDGET, room // 2) // max(1, batch)
    count = min(asked, fits)
    return Workers(count, min(AHEAD, fits // count)) if count else Workers(0, 0)
