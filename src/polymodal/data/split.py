"""Dividing the rows of a table into a training, a validation and a test part."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymodal.data.columns import to_numbers
from polymodal.data.labels import labels_of
from polymodal.data.schema import SPLIT_NAMES, Schema
from polymodal.data.table import Table, nearest
from polymodal.errors import InputError

__all__ = ["Split", "fold_rows", "split_rows"]

Rows = NDArray[np.int64]


class Split(NamedTuple):
    """Row numbers by part "train", "valid", "test", each ascending; `notes` say where the parts come from."""

    rows: dict[str, Rows]
    notes: tuple[str, ...]


def split_rows(
    table: Table,
    schema: Schema,
    *,
    valid: Table | None = None,
    seed: int,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    fold: tuple[int, int] | None = None,
) -> Split:
    """Divide the rows of `table`: by its split column, by a second table, or at random, alike in every class.

    No group of `schema.group` lies in two parts. A split column without validation rows, like a table without
    one, gives a share of its training rows (a tenth by default) to the validation part.

    Args:
        table: the samples.
        schema: names the label, split and group columns.
        valid: table of validation samples; the part "valid" then holds *its* row numbers.
        seed: of the random division.
        fractions: shares of train, valid and test where there is neither split column nor second table.
        fold: (k, n) gives the k-th of n folds of the training and validation rows instead, from 1; see `fold_rows`.

    Raises:
        InputError: an unknown value in the split column, an empty training part, too few samples or groups to
            divide, or a group in two parts.
    """
    if min(fractions) < 0 or fractions[0] <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"split fractions {fractions}: expected train, valid and test shares that add up to 1")
    if schema.split is not None and (valid is None or schema.split in table.columns):
        rows, notes = _from_column(table, schema, schema.split)
    else:
        rows, notes = {"train": np.arange(len(table))}, []
    if valid is not None:
        if len(rows.get("valid", ())):
            raise InputError(
                f"{table.source}: column {schema.split!r} marks validation rows ({table.places(rows['valid'])}), and "
                f"{valid.source} is given for validation as well; use one of them"
            )
        rows["valid"] = np.arange(len(valid))
        notes.append(f"validation: the {len(valid)} rows of {valid.source}")
    elif schema.split is None:
        rows, notes = _at_random(table, schema, rows["train"], seed, fractions)
    elif not len(rows["valid"]):
        share = fractions[1] / (fractions[0] + fractions[1])
        picked = _pick(table, schema, rows["train"], share, seed)
        rows["train"], rows["valid"] = np.setdiff1d(rows["train"], picked), picked
        notes.append(f"validation: {len(picked)} of the training rows, as the split column has none (seed {seed})")
    rows = {part: rows.get(part, np.zeros(0, np.int64)) for part in ("train", "valid", "test")}
    for part in ("train", "valid"):
        if not len(rows[part]):
            raise InputError(f"{table.source}: the {part} part of the split is empty; add samples or a split column")
    _check_groups(table, schema, rows, valid)
    found = Split(rows, tuple(notes))
    if fold is None:
        return found
    number, count = fold
    folds = fold_rows(table, schema, found, count, seed=seed, second=valid is not None)
    return next(islice(folds, number - 1, None))


def fold_rows(
    table: Table, schema: Schema, split: Split, count: int, *, seed: int, second: bool = False
) -> Iterator[Split]:
    """The training and validation rows of a split divided anew, `count` times, so that each is held out once.

    What is held out is the part "test" of each fold; of the rest a tenth is "valid" and the others are "train". The split's
    own test rows are in none. Folds are alike in every class, and one sample of each class is never held out, so that training
    knows it; or they consist of whole groups of `schema.group`, all of which are held out once.

    Args:
        table, schema: of the split.
        count: of folds, 2 or more.
        seed: of the division.
        second: whether the validation part has a table of its own; it then remains that of every fold.

    Raises:
        InputError: one fold, or fewer samples or groups than folds.
    """
    rows = split.rows["train"] if second else np.sort(np.concatenate([split.rows["train"], split.rows["valid"]]))
    if count < 2:
        raise InputError(f"folds={count}: at least two are needed, so that some samples train what others judge")
    strata = _strata(table, schema, rows)
    unit, found = "samples", len(rows) - len(np.unique(strata))
    if schema.group is not None:
        unit, found = "groups", len(np.unique(group_names(table, schema.group)[rows]))
        found = min(found - (not second), int(np.bincount(strata).max()))  # one group more chooses the epochs
    if found < count:
        raise InputError(
            f"{table.source}: the {unit} of training and validation are too few for {count} folds; ask for fewer"
        )
    parts = _grouped(table, schema.group, rows, strata, count, seed) if schema.group else _dealt(strata, count, seed)
    for number, places in enumerate(parts):
        rest = np.delete(rows, places)
        chosen = split.rows["valid"] if second else _pick(table, schema, rest, 0.1, seed + number)
        train = rest if second else np.setdiff1d(rest, chosen)
        note = f"fold {number + 1} of {count}: {len(train)} train, {len(chosen)} valid, {len(places)} held out (seed {seed})"
        yield Split({"train": train, "valid": chosen, "test": rows[places]}, (note,))


def _dealt(strata: Rows, count: int, seed: int) -> list[Rows]:
    """Places of each fold: the samples of each class by turns, but for the first."""
    order, first = _by_class(strata, np.random.default_rng(seed))
    free = order[~first]
    return [np.sort(free[number::count]) for number in range(count)]


def _by_class(strata: Rows, rng: np.random.Generator) -> tuple[Rows, NDArray[np.bool_]]:
    """(N,) places in random order, class by class; and which of them are the first of their class."""
    order = rng.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    return order, np.concatenate([[True], strata[order][1:] != strata[order][:-1]])


def _grouped(table: Table, column: str, rows: Rows, strata: Rows, count: int, seed: int) -> list[Rows]:
    """Places of each fold of whole groups, as alike in every class as they allow."""
    from sklearn.model_selection import StratifiedGroupKFold

    groups = group_names(table, column)[rows]
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a class smaller than the number of folds is no harm here
        return [held for _, held in folds.split(np.zeros(len(rows)), strata, groups)]


def _from_column(table: Table, schema: Schema, column: str) -> tuple[dict[str, Rows], list[str]]:
    cells = table.cells(column)
    parts = np.array([SPLIT_NAMES.get(str(cell).strip().lower(), "") for cell in cells])
    wrong = np.flatnonzero(parts == "")
    if len(wrong):
        cell = "an empty cell" if cells[wrong[0]] is None else repr(cells[wrong[0]])
        hint = "" if cells[wrong[0]] is None else nearest(str(cells[wrong[0]]), SPLIT_NAMES)
        raise InputError(
            f"{table.source}: column {column!r} must say train, valid or test in every row, but has {cell} in "
            f"{table.places(wrong)}{hint}; correct these cells or remove the rows"
        )
    rows = {part: np.flatnonzero(parts == part) for part in ("train", "valid", "test")}
    if not len(rows["train"]):
        raise InputError(f"{table.source}: no row is marked 'train' in column {column!r}; a model needs training rows")
    sizes = ", ".join(f"{len(found)} {part}" for part, found in rows.items())
    return rows, [f"split from column {column!r}: {sizes}"]


def _at_random(
    table: Table, schema: Schema, rows: Rows, seed: int, fractions: tuple[float, float, float]
) -> tuple[dict[str, Rows], list[str]]:
    test = _pick(table, schema, rows, fractions[2], seed)
    rest = np.setdiff1d(rows, test)
    valid = _pick(table, schema, rest, fractions[1] / (fractions[0] + fractions[1]), seed + 1)
    parts = {"train": np.setdiff1d(rest, valid), "valid": valid, "test": test}
    sizes = ", ".join(f"{len(found)} {part}" for part, found in parts.items())
    kind = "whole groups" if schema.group else "alike in every class" if schema.classes else "alike over the range"
    return parts, [f"split at random, {kind}, with seed {seed}: {sizes}"]


def _pick(table: Table, schema: Schema, rows: Rows, share: float, seed: int) -> Rows:
    """About `share` of `rows`, ascending, spread evenly over the classes; one sample of each class is never taken."""
    if share <= 0 or not len(rows):
        return np.zeros(0, np.int64)
    strata = _strata(table, schema, rows)
    if schema.group is not None:
        return _pick_groups(table, schema.group, rows, strata, share, seed)
    rng = np.random.default_rng(seed)
    order, first = _by_class(strata, rng)
    free = order[~first]
    count = min(max(1, round(share * len(rows))), len(free))
    # Every (1 / share)-th of the samples sorted by class: each class gives its share, exact to one sample.
    start = rng.random()
    places = np.floor((np.arange(count) + start) * len(free) / max(count, 1)).astype(np.int64)
    return np.sort(rows[free[places]])


def _pick_groups(table: Table, column: str, rows: Rows, strata: Rows, share: float, seed: int) -> Rows:
    count = len(np.unique(group_names(table, column)[rows]))
    if count < 2:
        raise InputError(
            f"{table.source}: column {column!r} has too few groups to divide; at least three are needed to split at "
            "random, or give a split column"
        )
    folds = max(2, min(count, round(1 / share), int(np.bincount(strata).max())))
    parts = [held for held in _grouped(table, column, rows, strata, folds, seed) if 0 < len(held) < len(rows)]
    # Groups are of unequal size: of all folds take the one nearest to the share asked for.
    best = min(parts, key=lambda held: abs(len(held) - share * len(rows)))
    return np.sort(rows[best])


def _strata(table: Table, schema: Schema, rows: Rows) -> Rows:
    """(N,) what is to be spread evenly: the class, the rarest label of a sample, or the decile of a number."""
    cells = table.cells(schema.label)[rows]
    if schema.task == "regression":
        ranks = np.argsort(np.argsort(to_numbers(cells)[0], kind="stable"), kind="stable")
        return ranks * 10 // max(len(rows), 1)
    if schema.task == "retrieval":
        return np.zeros(len(rows), dtype=np.int64)
    index = {name: i for i, name in enumerate(schema.classes)}
    found = [[index[name] for name in labels_of(cell, schema.task, schema.separator)] for cell in cells]
    counts = np.bincount([i for one in found for i in one], minlength=len(index))
    return np.array([min(one, key=lambda i: counts[i]) if one else len(index) for one in found], dtype=np.int64)


def group_names(table: Table, column: str) -> NDArray[np.object_]:
    """(N,) names of the groups.

    Raises:
        InputError: a row has none.
    """
    missing = np.flatnonzero(table.missing(column))
    if len(missing):
        place = table.places(missing)
        raise InputError(f"{table.source}: group column {column!r} is empty in {place}; fill it in or remove the rows")
    return np.array([str(cell) for cell in table.cells(column)], dtype=object)


def _check_groups(table: Table, schema: Schema, rows: dict[str, Rows], valid: Table | None) -> None:
    if schema.group is None:
        return
    seen: dict[str, str] = {}
    for part, found in rows.items():
        source = valid if valid is not None and part == "valid" else table
        names = set(group_names(source, schema.group)[found])
        for name in sorted(names & set(seen)):
            raise InputError(
                f"{source.source}: group {name!r} of column {schema.group!r} lies in both the {seen[name]} and the "
                f"{part} part; give each group to one part, or leave out the group or the split column"
            )
        seen |= dict.fromkeys(names, part)
