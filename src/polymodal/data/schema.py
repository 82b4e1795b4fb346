"""What each column of a table is: modalities with their kinds, the label, id, split and group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from polymodal.data.columns import check_cells, infer_kind
from polymodal.data.labels import LabelKind, infer_label
from polymodal.data.table import Table, nearest
from polymodal.errors import InputError
from polymodal.names import modality_problem

__all__ = ["KINDS", "Modality", "Schema", "find_modalities", "infer"]

KINDS = ("image", "audio", "video", "text", "numeric", "categorical", "vector")
SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("val", "valid", "validation", "dev"), "valid")


@dataclass(frozen=True)
class Modality:
    """One input of the model: its name, the columns it is read from, and their kind (one of `KINDS`)."""

    name: str
    columns: tuple[str, ...]
    kind: str


@dataclass(frozen=True)
class Schema:
    """The meaning of a table's columns.

    Attributes:
        modalities: by name, in the order of the table or of the user's arguments.
        label: label column.
        task: "classification", "multilabel", "regression" or "retrieval".
        classes: names of the classes in the order of the outputs; empty for regression and retrieval.
        separator: what stands between several labels in one cell of text; "multi-hot" where the cells are lists of
            0 and 1, None where they are lists of labels.
        id, split, group: columns, where there are any.
        notes: what was inferred and what was left out and why, for people.
    """

    modalities: dict[str, Modality]
    label: str
    task: str
    classes: tuple[str, ...] = ()
    separator: str | None = None
    id: str | None = None
    split: str | None = None
    group: str | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain JSON values."""
        data = asdict(self)
        data["modalities"] = {name: {"columns": list(m.columns), "kind": m.kind} for name, m in self.modalities.items()}
        return data | {"classes": list(self.classes), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """The schema that `to_dict` wrote."""
        modalities = {name: Modality(name, tuple(m["columns"]), m["kind"]) for name, m in data["modalities"].items()}
        lists = {"classes": tuple(data["classes"]), "notes": tuple(data["notes"])}
        return cls(**{**data, **lists, "modalities": modalities})


def infer(
    table: Table,
    label: str,
    *,
    modalities: Sequence[str] = (),
    task: str = "auto",
    id: str | None = None,
    split: str | None = None,
    group: str | None = None,
    separator: str | None = None,
) -> Schema:
    """Tell from the cells what each column is.

    Args:
        table: the samples.
        label: label column.
        modalities: "NAME=COLUMN:KIND" each (COLUMN may list several of numbers or categories: "a,b,c"); if any is
            given, no other column is used.
        task: "classification", "multilabel", "regression", "retrieval", or "auto" to tell it from the label's cells.
        id: column that names the samples; default the column "id", if there is one.
        split: column that says train, valid or test; default the column "split", if it says that.
        group: column whose equal cells must not be divided between the parts of a split; for retrieval the label by default.
        separator: what stands between several labels in one cell.

    Raises:
        InputError: an unknown column, kind or task, a label that is missing, cells that are not of the kind asked for,
            a modality's name that a model cannot use, or no usable column at all.
    """
    special = {"label": label, "id": id, "split": split, "group": group}
    for column in filter(None, special.values()):
        table.cells(column)
    if id is None and "id" in table.columns and label != "id":
        id = "id"
    if split is None and "split" in table.columns and label != "split" and _is_split(table):
        split = "split"
    found = infer_label(table, label, task=task, separator=separator)
    if found.task == "retrieval" and group is None:
        group = label  # captions of one video must not lie in two parts
    chosen, notes = find_modalities(table, modalities, label, {column for column in (id, split, group) if column})
    if not chosen:
        reasons = "; ".join(notes) or "every column is the label, an id, a split or a group"
        remedy = "name one with --modality NAME=COLUMN:KIND"
        raise InputError(f"{table.source}: no column can be used as a modality ({reasons}); {remedy}")
    roles = [f"{role} column {column!r}" for role, column in (("id", id), ("split", split), ("group", group)) if column]
    notes = ([", ".join(roles) + ": not used as a feature"] if roles else []) + notes
    return _schema(label, found, chosen, id, split, group, notes)


def find_modalities(
    table: Table, specs: Sequence[str], label: str | None, reserved: set[str]
) -> tuple[dict[str, Modality], list[str]]:
    """Modalities by name and notes: those of `specs` ("NAME=COLUMN:KIND"), or all that the cells suggest.

    Args:
        table: the samples.
        specs: as `modalities` of `infer`.
        label: label column, if there is one.
        reserved: columns with another role, which are not inferred.

    Raises:
        InputError: see `infer`.
    """
    if specs:
        return _explicit(table, specs, label), []
    return _inferred(table, reserved | ({label} if label else set()))


def _schema(
    label: str,
    found: LabelKind,
    chosen: dict[str, Modality],
    id: str | None,
    split: str | None,
    group: str | None,
    notes: list[str],
) -> Schema:
    return Schema(
        chosen, label, found.task, found.classes, found.separator, id, split, group, (found.note, *notes)
    )  # fmt: skip


def _is_split(table: Table) -> bool:
    # One known value is enough: with a misspelt one beside it the column is still a split, and split_rows says so.
    return any(isinstance(cell, str) and cell.strip().lower() in SPLIT_NAMES for cell in table.cells("split"))


def _explicit(table: Table, specs: Sequence[str], label: str | None) -> dict[str, Modality]:
    chosen: dict[str, Modality] = {}
    for spec in specs:
        modality = _parse(table, spec)
        if modality.name in chosen:
            raise InputError(f"--modality {spec}: the name {modality.name!r} is given twice; choose another")
        if label in modality.columns:
            raise InputError(f"--modality {spec}: {label!r} is the label column, and the label cannot be an input")
        problem = modality_problem(modality.name)
        if problem:
            raise InputError(f"--modality {spec}: {problem}; choose another name before the '='")
        for column in modality.columns:
            check_cells(table, column, modality.kind)
        chosen[modality.name] = modality
    return chosen


def _parse(table: Table, spec: str) -> Modality:
    name, equals, rest = spec.partition("=")
    column, colon, kind = rest.rpartition(":")
    if not equals or not colon or not column:
        example = f"{name}={rest or 'COLUMN'}:{KINDS[0]}" if name else "image=photo:image"
        raise InputError(f"--modality {spec}: expected NAME=COLUMN:KIND, for example {example}")
    kind = kind.strip().lower()
    if kind not in KINDS:
        raise InputError(f"--modality {spec}: unknown kind {kind!r}{nearest(kind, KINDS)}")
    columns: tuple[str, ...] = (column,)
    if column not in table.columns and "," in column and kind in ("numeric", "categorical"):
        columns = tuple(part.strip() for part in column.split(","))
    for one in columns:
        if one not in table.columns:
            raise InputError(f"--modality {spec}: {table.source} has no column {one!r}{nearest(one, table.columns)}")
    return Modality(name.strip(), columns, kind)


def _inferred(table: Table, reserved: set[str]) -> tuple[dict[str, Modality], list[str]]:
    chosen: dict[str, Modality] = {}
    notes: list[str] = []
    merged: dict[str, list[str]] = {"numeric": [], "categorical": []}
    for column in table.columns:
        if column in reserved:
            continue
        kind, reason = infer_kind(table, column)
        if kind is None:
            notes.append(f"column {column!r} left out: {reason}")
        elif kind in merged:
            merged[kind].append(column)
        else:
            name = _usable_name(column, {*chosen, *merged})
            chosen[name] = Modality(name, (column,), kind)
            notes.append(f"modality {name!r}: column {column!r} is {kind} ({reason})")
    for kind, columns in merged.items():
        if columns:
            chosen[kind] = Modality(kind, tuple(columns), kind)
            notes.append(f"modality {kind!r}: columns {', '.join(map(repr, columns))}")
    return chosen, notes


def _usable_name(column: str, used: set[str]) -> str:
    name = column.strip().replace(".", "_") or "modality"
    while modality_problem(name) or name in used:
        name += "_column"
    return name
