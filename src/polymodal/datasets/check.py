"""Holding a copy of a data set against what its paper says of it, and looking into every file of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from polymodal.data.check import Check, check_table
from polymodal.data.table import Table
from polymodal.datasets import Source, find, open_table
from polymodal.datasets.base import Preset

__all__ = ["Count", "DatasetCheck", "check_dataset"]


@dataclass(frozen=True)
class Count:
    """What is counted, how many there are in this copy, and how many were published."""

    what: str
    here: int
    published: int


@dataclass(frozen=True)
class DatasetCheck:
    """What `check_table` found, and the copy's counts beside the published ones."""

    check: Check
    about: str
    counts: list[Count]

    @property
    def broken(self) -> bool:
        """Whether something will stop training."""
        return bool(self.check.broken or self.check.problems)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return self.check.to_dict() | {"about": self.about, "counts": [vars(one) for one in self.counts]}

    def text(self) -> str:
        """One page of plain text: the counts above, the files below."""
        rows = [f"{one.what:16} {one.here:>8} {one.published:>10}{_remark(one)}" for one in self.counts]
        return "\n".join([self.about, "", f"{'':16} {'here':>8} {'published':>10}", *rows, "", self.check.text()])


def check_dataset(
    source: Source,
    *,
    label: str | None = None,
    modalities: Sequence[str] = (),
    group: str | None = None,
    workers: int | None = None,
    show: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetCheck:
    """Read a data set's lists and every file that they name.

    Args:
        source: data set, preset and folder.
        label, modalities, group: instead of the preset's.
        workers, show, progress: see `check_table`.

    Raises:
        InputError: a list is missing or damaged. Broken or missing media are reported instead.
    """
    dataset = find(source.name)
    preset = dataset.presets[source.preset]
    data = preset.settings["data"]
    table = open_table(str(source))
    label = label or preset.settings["label"]
    found = check_table(
        table,
        label=label,
        modalities=modalities or data["modalities"],
        task=data.get("task", "auto"),
        separator=data.get("separator"),
        group=group or dataset.group,
        workers=workers,
        show=show,
        progress=progress,
    )
    return DatasetCheck(found, f"{source.name}/{source.preset}: {preset.about}", _counts(preset, found, table))


def _counts(preset: Preset, found: Check, table: Table) -> list[Count]:
    here = dict(found.parts) | {"all": len(table), "train + valid": len(table) - found.parts.get("test", 0)}
    here["classes"] = len({name for part in found.classes.values() for name, count in part.items() if count})
    for what in preset.published:
        if what in table.columns:
            here[what] = len(set(table.cells(what)) - {None})
    return [Count(what, here.get(what, 0), count) for what, count in preset.published.items()]


def _remark(one: Count) -> str:
    return "" if one.here == one.published else f"  {one.here - one.published:+d}"
