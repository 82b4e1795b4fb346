"""Further processes that work on the same folder."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

__all__ = ["beside"]


@contextlib.contextmanager
def beside(command: Sequence[str], count: int) -> Iterator[None]:
    """Run the same command of polymodal in so many more processes while the block runs, and wait for them.

    What they have to say they say here, as the first process ends with the same results and the same errors; where the block
    is left by an interrupt they are stopped.
    """
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "polymodal", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(count)
    ]
    try:
        yield
    except KeyboardInterrupt:
        for process in started:
            process.terminate()
        raise
    finally:
        for process in started:
            process.wait()
