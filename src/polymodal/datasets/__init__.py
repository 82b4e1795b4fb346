"""The data sets of the papers, read from the files that their owners distribute.

A source names a data set where a table's path could stand: `cremad:ROOT`, `cremad/mlb:ROOT` for one of its presets,
`cremad/mlb,fold=2:ROOT` with arguments of its reader.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from polymodal.config import laid
from polymodal.data.table import Table, read_table
from polymodal.datasets.base import Dataset, Preset
from polymodal.errors import InputError
from polymodal.names import bind, nearest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NAMES", "Dataset", "Preset", "Source", "canonical", "find", "open_table", "parse", "with_preset"]

NAMES = (
    "cremad", "ave", "kinetics_sounds", "ucf101", "food101", "mmimdb", "mosi", "mosei", "iemocap", "msrvtt", "howto100m",
)  # fmt: skip
FORM = re.compile(r"(?P<name>\w{2,})(?:/(?P<preset>\w+))?(?P<arguments>(?:,\w+=[^,:]*)*):(?P<root>.+)", re.DOTALL)


class Source(NamedTuple):
    """A data set, one of its presets, arguments that the user typed, and the folder that holds it."""

    name: str
    preset: str
    arguments: dict[str, Any]
    root: Path

    def __str__(self) -> str:
        typed = "".join(f",{key}={value}" for key, value in self.arguments.items())
        return f"{self.name}/{self.preset}{typed}:{self.root}"


def find(name: str) -> Dataset:
    """The data set of that name.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    if name not in NAMES:
        raise InputError(f"data set {name!r} is unknown{nearest(name, NAMES)}; there are {', '.join(NAMES)}")
    found: Dataset = import_module(f"polymodal.datasets.{name}").DATASET
    return found


def parse(text: str) -> Source | None:
    """The source that a text names; None for anything else, such as the path of a table.

    Raises:
        InputError: the preset or the data set is unknown, or there is no folder behind it.

    Example:
        >>> str(parse("cremad/mlb,fold=2:data/CREMA-D"))
        'cremad/mlb,fold=2:data/CREMA-D'
        >>> parse("train.csv") is None
        True
    """
    name, _, preset = text.partition("/")
    if name in NAMES and (not preset or preset in find(name).presets) and not Path(text).exists():
        raise InputError(f"{text}: name the folder that holds the data set as well: {text}:ROOT")
    found = FORM.fullmatch(text)
    if found is None or Path(text).exists() or (found["name"] not in NAMES and not nearest(found["name"], NAMES)):
        return None
    presets = find(found["name"]).presets
    preset = found["preset"] or next(iter(presets))
    if preset not in presets:
        known = ", ".join(f"{found['name']}/{one}" for one in presets)
        raise InputError(f"{text}: unknown preset {preset!r}{nearest(preset, presets)}; there are {known}")
    pairs = [one.partition("=") for one in found["arguments"].split(",")[1:]]
    return Source(found["name"], preset, {key: yaml.safe_load(value) for key, _, value in pairs}, Path(found["root"]))


def open_table(source: str | Path | pd.DataFrame | Table) -> Table:
    """The table of a data set's source, of a file, or of a frame.

    Raises:
        InputError: see `parse`, `read_table` and the data set's `read`.
    """
    named = parse(source) if isinstance(source, str) else None
    if named is None:
        return read_table(source)
    dataset = find(named.name)
    arguments = dict(dataset.presets[named.preset].arguments) | named.arguments
    bound = bind(dataset.read, arguments, {}, f"{named.name}/{named.preset}")
    table = dataset.read(named.root, **bound)
    table.source = str(named)
    return table


def canonical(source: str) -> str:
    """The same source, or path of a table, from wherever it is read."""
    named = parse(source)
    return str(Path(source).resolve()) if named is None else str(named._replace(root=named.root.resolve()))


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings with those of its table's preset laid below; as it is where `table` names no data set.

    Preprocessing and encoders of modalities that the settings do not use are left out.

    Example:
        >>> with_preset({"table": "cremad/ogm:data", "seed": 1})["label"]
        'emotion'
    """
    named = parse(str(values["table"])) if values.get("table") else None
    if named is None:
        return dict(values)
    merged = laid(find(named.name).presets[named.preset].settings, values)
    if values.get("data", {}).get("modalities"):
        own = {str(one).partition("=")[0] for one in values["data"]["modalities"]}
        merged["data"]["inputs"] = {m: one for m, one in merged["data"].get("inputs", {}).items() if m in own}
        if "encoders" in merged:
            merged["encoders"] = {m: one for m, one in merged["encoders"].items() if m in own}
    return merged
