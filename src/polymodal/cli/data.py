"""`polymodal data`: look into data before training."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from polymodal.cli.options import Many
from polymodal.cli.printing import say
from polymodal.errors import InputError

__all__ = ["check", "fetch_help", "miniature", "unpack"]


def check(
    table: str,
    root: Path | None = None,
    *,
    label: str | None = None,
    modality: Many = [],  # noqa: B006
    group: str | None = None,
    split: str | None = None,
) -> None:
    """Kinds, sizes, durations, class balance, duplicates and groups that cross splits, broken files by row.

    Of a data set of the papers also its counts beside the published ones. The exit code is 2 where files are broken, and with
    a data set where anything else would stop training.

    Parameters
    ----------
    table:
        CSV, TSV, JSON-lines or Parquet file, or a data set (see `polymodal list datasets`) or DATASET/PRESET with its root.
    root:
        Folder that holds the data set as its owner distributes it.
    label:
        Label column, for class balance.
    modality:
        NAME=COLUMN:KIND, once a modality; inferred by default.
    group:
        Column whose groups should not cross splits.
    split:
        Column that says train, valid or test.
    """
    from polymodal.data.check import check_table
    from polymodal.datasets import find, parse
    from polymodal.datasets.check import check_dataset

    if root is not None:
        find(table.partition("/")[0].partition(",")[0])
    named = parse(table if root is None else f"{table}:{root}")
    if named is not None and split is not None:
        raise InputError(f"--split {split}: the reader of {named.name} divides it; choose by DATASET/PRESET instead")
    found: Any = (
        check_table(table, label=label, modalities=modality, group=group, split=split)
        if named is None
        else check_dataset(named, label=label, modalities=modality, group=group)
    )
    print(found.text() if sys.stdout.isatty() else json.dumps(found.to_dict(), indent=2))
    if found.broken:
        raise SystemExit(2)


def fetch_help(dataset: str) -> None:
    """Where a data set's owner distributes it, which files to put where, its terms, and its presets here.

    Parameters
    ----------
    dataset:
        Its name; see `polymodal list datasets`.
    """
    from polymodal.datasets import find

    found = find(dataset)
    print(found.help)
    print("Presets, to be used as a table's path:")
    for name, one in found.presets.items():
        print(f"  {dataset}/{name}:ROOT\n      {one.about}")


def miniature(dataset: str, folder: Path, *, seed: int = 0) -> None:
    """Write a few dozen small made-up samples of a data set in its owner's layout.

    Parameters
    ----------
    dataset:
        Its name; see `polymodal list datasets`.
    folder:
        New or empty folder.
    seed:
        Of the samples.
    """
    from polymodal.data.miniature import make

    say(f"a miniature of {dataset} in {make(dataset, folder, seed)}")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar; members that would lie outside of the folder, links and devices are refused.

    Parameters
    ----------
    archive:
        The file, compressed or not.
    folder:
        Where to.
    """
    from polymodal.datasets.safe_files import unpack as write

    say(f"{write(archive, folder)} files in {folder}")
