"""What the readers of data sets share: how a data set describes itself, and reading its owner's lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.table import Table, nearest
from polymodal.datasets.plan import Plan, Wanted
from polymodal.errors import InputError

__all__ = [
    "AUGMENTED",
    "FRAMES",
    "IMAGEBIND_AUDIO",
    "IMAGENET",
    "MMBT",
    "ONE_A_SECOND",
    "OPENCLIP",
    "RANDOM_FRAMES",
    "Dataset",
    "Preset",
    "hold_out",
    "make_table",
    "need",
    "one_of",
    "read_lines",
]

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
OPENCLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
FRAMES = {"height": 224, "width": 224, "channels": 3}
AUGMENTED = {"augment": "crop_flip"}
MMBT = FRAMES | {
    "shorter_side": 256,
    "mean": [0.46777044, 0.44531429, 0.40661017],
    "std": [0.12221994, 0.12145835, 0.14380469],
}
"""Pictures as MMBT's code reads them, in training and evaluation alike."""
ONE_A_SECOND = {"fps": 1, "sampling": "first"}
"""Of the frames that OGM-GE's preparation keeps the first, in order."""
RANDOM_FRAMES = {"sampling": "random"}
"""Any in training, fixed ones in evaluation, as MMLoRA takes them."""
IMAGEBIND_AUDIO = {
    "representation": "kaldi_clips",
    "sample_rate": 16000,
    "n_mels": 128,
    "mean": [-4.268],
    "std": [9.138],
}


@dataclass(frozen=True)
class Preset:
    """What `<dataset>/<source>` stands for.

    Attributes:
        about: whose split and preprocessing it is, in a sentence.
        arguments: of the data set's `read`.
        settings: a tree of plain settings of a run, over which the user's own are laid.
        published: counts from the paper or its code: rows of "train", "valid" and "test", "classes", or distinct values of
            a column.
    """

    about: str
    settings: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """One published data set.

    Attributes:
        read: `read(root, **arguments) -> Table` from the owner's files.
        presets: by source; the first is meant where none is named.
        help: where the owner distributes it, which files to put where, its terms.
        group: column of what should not cross splits: an actor, a film.
        plan: `plan(root, table, wanted)`, what `prepare` makes of the owner's files; None where these are read as they are.
    """

    read: Callable[..., Table]
    presets: Mapping[str, Preset]
    help: str
    group: str | None = None
    plan: Callable[[Path, Table, Wanted], Plan] | None = None


def need(root: Path, name: str, what: str, dataset: str) -> Path:
    """The file or folder `name` below `root`.

    Raises:
        InputError: it is not there; the message says which file to put where.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that holds {dataset} as its owner distributes it")
    path = root / name
    if not path.exists():
        raise InputError(f"{path}: not there; put {what} there, as `polymodal data fetch-help {dataset}` tells in full")
    return path


def one_of(value: str, known: Iterable[str], what: str) -> str:
    """The same value, if it is known.

    Raises:
        InputError: it is not; the message names the nearest.
    """
    names = list(known)
    if value not in names:
        raise InputError(f"{what} {value!r} is unknown{nearest(value, names)}")
    return value


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Number (from 1) and text of each line that holds any; marks of byte order and carriage returns are left out.

    Raises:
        InputError: the file is not UTF-8 text, or empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); fetch the file again") from None
    found = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not found:
        raise InputError(f"{path}: the file is empty; fetch it again")
    return found


def make_table(
    rows: Sequence[Mapping[str, Any]],
    root: Path,
    source: str,
    classes: Mapping[str, Sequence[str]],
    notes: Sequence[str] = (),
) -> Table:
    """A table of these rows, which all have the same columns.

    Raises:
        InputError: there are no rows.
    """
    import pandas as pd

    if not rows:
        raise InputError(f"{source}: no sample was found in {root}")
    columns = {name: pd.Series([row[name] for row in rows], dtype=object) for name in rows[0]}
    return Table(
        pd.DataFrame(columns), root, source, classes={k: tuple(v) for k, v in classes.items()}, notes=tuple(notes)
    )


def hold_out(labels: Sequence[str], share: float, seed: int, groups: Sequence[str] | None = None) -> set[int]:
    """Places of about `share` of the samples, alike in every class; whole groups where these are given.

    Args:
        labels: (N,) class of each sample.
        share: of the samples, or of the groups, of each class; at least one and never all of them.
        seed: of the choice.
        groups: (N,) names; groups of the same name in different classes are different groups.
    """
    random = np.random.default_rng(seed)
    units: dict[str, dict[Any, list[int]]] = {}
    for place, label in enumerate(labels):
        unit = place if groups is None else groups[place]
        units.setdefault(label, {}).setdefault(unit, []).append(place)
    chosen: set[int] = set()
    for label in sorted(units):
        names = list(units[label])
        count = min(max(1, round(share * len(names))), len(names) - 1)
        for one in random.permutation(len(names))[:count]:
            chosen.update(units[label][names[one]])
    return chosen
