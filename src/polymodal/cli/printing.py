"""What commands print: a table for people on a terminal, JSON elsewhere; all that is not an answer goes to standard error."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["Messages", "print_plan", "print_result", "print_subsets", "say"]


def say(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr)


class Messages(logging.Handler):
    """Warnings, and notes on what was inferred from the table, go to standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record, or nothing where it is neither."""
        if record.levelno >= logging.WARNING:
            say(f"polymodal: warning: {record.getMessage()}")
        elif getattr(record, "note", False):
            say(f"note: {record.getMessage()}")


def print_plan(plan: dict[str, Any]) -> None:
    """What `fit` would do."""
    if not sys.stdout.isatty():
        print(json.dumps(plan, indent=2))
        return
    parts = ", ".join(f"{part} {plan[part]['name']}" for part in ("balancer", "fusion"))
    print(f"task        {plan['task']}, recipe {plan['recipe']}, {parts}")
    for m, one in plan["modalities"].items():
        columns = ", ".join(one["columns"])
        print(
            f"modality    {m}: {one['kind']} from {columns}, {one['shape']}, {one['encoder']} {one['parameters']:,} parameters"
        )
    print(f"parameters  {plan['parameters']:,}")
    for part, size in plan["splits"].items():
        counts = ", ".join(f"{name} {n}" for name, n in plan["classes"].get(part, {}).items())
        print(f"{part:11} {size} samples{': ' + counts if counts else ''}")
    for note in plan["notes"]:
        print(f"note        {note}")


def print_result(metrics: dict[str, Any], out: Path) -> None:
    """Metrics of a run that has just ended; on one line as JSON."""
    if not sys.stdout.isatty():
        print(json.dumps({"run": str(out), **metrics}))
        return
    from rich.console import Console
    from rich.table import Table

    part = "test" if "test" in metrics else "valid"
    names = list(metrics.get(part, {}))
    shown = Table("", *names, title=f"{part} split")
    shown.add_row("fused", *[f"{metrics[part][name]:.4f}" for name in names], style="bold")
    for m, one in metrics["unimodal"].get(part, {}).items():
        shown.add_row(f"{m} alone", *[f"{one[name]:.4f}" for name in names])
    console = Console()
    console.print(shown)
    console.print(f"run folder: {out}", highlight=False)


def print_subsets(rows: Sequence[dict[Any, Any]]) -> None:
    """Metrics of every subset of the modalities."""
    rows = [{name: None if value != value else value for name, value in row.items()} for row in rows]  # NaN: no sample
    if not sys.stdout.isatty():
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(*rows[0], title="every subset of modalities")
    for row in rows:
        shown.add_row(*["" if v is None else f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()])
    Console().print(shown)
