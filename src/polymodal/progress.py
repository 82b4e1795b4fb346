"""A progress bar with time left on a terminal; nothing elsewhere, so that logs and pipes stay clean."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

__all__ = ["Progress"]


class Progress:
    """Counts the steps of one long piece of work.

    Args:
        title: what is being done.
        total: number of steps.
        show: True or False to force it; by default only on a terminal.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, show: bool | None = None) -> None:
        self._bar: Any = None
        if (sys.stderr.isatty() if show is None else show) and total > 0:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, steps: int = 1) -> None:
        """Count steps."""
        if self._bar is not None:
            self._bar.advance(self._task, steps)

    def note(self, text: str) -> None:
        """Show a text beside the bar."""
        if self._bar is not None:
            self._bar.update(self._task, note=text)
