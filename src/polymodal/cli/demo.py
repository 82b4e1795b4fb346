"""`polymodal demo`: the first minute."""

from __future__ import annotations

from pathlib import Path

__all__ = ["demo"]


def demo(out: Path = Path("polymodal-demo"), *, seed: int = 0) -> None:
    """Write a small set of pictures and sounds, train on it in five ways, and show what joint training does to an encoder.

    Parameters
    ----------
    out:
        New folder for the files, the runs and the report.
    seed:
        Of the data and of every random choice.
    """
    from polymodal.demo import demo as run_demo

    run_demo(out, seed)
