from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.data.schema import infer
from polymodal.data.split import Split, fold_rows, split_rows
from polymodal.data.table import Table, read_table
from polymodal.errors import InputError


def table(**columns: Any) -> Table:
    return read_table(pd.DataFrame(columns))


def folds(cells: Table, count: int, *, valid: Table | None = None, **options: Any) -> list[Split]:
    schema = infer(cells, "y", **options)
    found = split_rows(cells, schema, valid=valid, seed=0)
    return list(fold_rows(cells, schema, found, count, seed=0, second=valid is not None))


def split(cells: Table, *, valid: Table | None = None, seed: int = 0, **options: Any) -> Split:
    return split_rows(cells, infer(cells, "y", **options), valid=valid, seed=seed)


def test_from_the_column_in_any_spelling():
    cells = table(x=range(6), y=list("ababab"), split=["Train", "train", "val", "VALIDATION", " dev ", "test"])
    rows, notes = split(cells)
    assert {part: found.tolist() for part, found in rows.items()} == {"train": [0, 1], "valid": [2, 3, 4], "test": [5]}
    assert "2 train, 3 valid, 1 test" in notes[0]


def test_a_column_without_validation_gives_a_tenth_of_the_training_rows():
    cells = table(x=range(100), y=list("ab") * 50, split=["train"] * 80 + ["test"] * 20)
    rows, notes = split(cells)
    assert (len(rows["train"]), len(rows["valid"]), len(rows["test"])) == (71, 9, 20)
    assert "seed 0" in notes[1]
    assert not set(rows["train"]) & set(rows["valid"])


def test_second_table():
    first, second = table(x=range(6), y=list("ababab")), table(x=range(4), y=list("abab"))
    rows, _ = split(first, valid=second)
    assert [len(rows[part]) for part in ("train", "valid", "test")] == [6, 4, 0]
    first = table(x=range(6), y=list("ababab"), split=["train"] * 4 + ["test"] * 2)
    rows, _ = split(first, valid=second)
    assert [len(rows[part]) for part in ("train", "valid", "test")] == [4, 4, 2]
    first = table(x=range(6), y=list("ababab"), split=["train"] * 4 + ["valid"] * 2)
    with pytest.raises(InputError, match="given for validation as well"):
        split(first, valid=second)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.integers(0, 5))
def test_at_random_divides_every_class_alike(counts, seed):
    names = [f"c{i}" for i, count in enumerate(counts) for _ in range(count)]
    if len(names) < 12:
        return
    cells = table(x=range(len(names)), y=names)
    rows, _ = split(cells, seed=seed)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(len(names)))
    label = np.array(names)
    for i, count in enumerate(counts):
        held = [int((label[rows[part]] == f"c{i}").sum()) for part in ("valid", "test")]
        assert all(abs(one - 0.1 * count) < 2 for one in held)
        assert sum(held) < count
    again, _ = split(cells, seed=seed)
    assert all(np.array_equal(rows[part], again[part]) for part in rows)


def test_seed_matters_and_numbers_are_spread():
    cells = table(x=range(100), y=np.linspace(0, 1, 100))
    rows, _ = split(cells, seed=0)
    other, _ = split(cells, seed=1)
    assert rows["test"].tolist() != other["test"].tolist()
    assert len({row // 10 for row in rows["test"]}) >= 9


def test_groups_stay_together():
    rng = np.random.default_rng(0)
    who = [f"g{i}" for i in rng.integers(0, 20, 200)]
    cells = table(x=range(200), y=rng.integers(0, 3, 200), who=who)
    rows, _ = split(cells, group="who")
    parts = [{who[row] for row in rows[part]} for part in rows]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert min(map(len, rows.values())) >= 10


def test_several_labels_and_fractions():
    cells = table(x=range(40), y=["a|b", "b", "c", "a"] * 10)
    schema = infer(cells, "y", task="multilabel")
    rows, _ = split_rows(cells, schema, seed=0, fractions=(0.75, 0.25, 0.0))
    assert [len(rows[part]) for part in ("train", "valid", "test")] == [30, 10, 0]
    with pytest.raises(InputError, match="add up to 1"):
        split_rows(cells, schema, seed=0, fractions=(0.5, 0.1, 0.1))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["train", "train", "trian", "test"], "'trian' in row 3; did you mean 'train'"),
        (["train", None, "valid", "test"], "an empty cell in row 2"),
        (["test", "valid", "test", "test"], "no row is marked 'train'"),
    ],
)
def test_bad_columns(column, message):
    with pytest.raises(InputError, match=message):
        split(table(x=range(4), y=list("abab"), split=column))


def test_bad_groups():
    with pytest.raises(InputError, match="too few groups"):
        split(table(x=range(4), y=list("abab"), who=["a"] * 4), group="who")
    cells = table(x=range(4), y=list("abab"), who=list("aabb"), split=["train", "valid", "train", "train"])
    with pytest.raises(InputError, match="group 'a' of column 'who' lies in both the train and the valid part"):
        split(cells, group="who")
    with pytest.raises(InputError, match="'who' is empty in row 2"):
        split(table(x=range(4), y=list("abab"), who=["a", None, "b", "c"]), group="who")


def test_too_few_samples():
    with pytest.raises(InputError, match="valid part of the split is empty"):
        split(table(x=range(2), y=list("ab")))


def test_groups_of_classes_smaller_than_the_share():
    """Five classes of four samples each, in two groups: fewer than the nine folds of a ninth."""
    names = [label for label in "abcde" for _ in range(4)]
    groups = [f"{label}{i // 2 % 2}" for i, label in enumerate(names)]
    cells = table(x=range(22), y=[*names, "a", "b"], g=[*groups, "t0", "t1"], split=["train"] * 20 + ["test"] * 2)
    rows, _ = split(cells, group="g")
    assert 0 < len(rows["valid"]) <= 10
    held, trained = ({groups[i] for i in rows[part]} for part in ("valid", "train"))
    assert not held & trained


def test_folds_hold_every_row_out_once_but_one_of_each_class():
    parts = ["train"] * 80 + ["valid"] * 20 + ["test"] * 20
    cells = table(x=range(120), y=["a"] * 60 + ["b"] * 39 + ["rare"] + ["a"] * 20, split=parts)
    found = folds(cells, 5)
    assert len(found) == 5
    held = np.concatenate([rows["test"] for rows, _ in found])
    assert len(held) == len(set(held)) == 97
    assert max(held) < 100
    for rows, notes in found:
        whole = np.concatenate([rows["train"], rows["valid"], rows["test"]])
        assert sorted(whole) == list(range(100)), "no test row of the table, and each of the others once"
        assert 99 in rows["train"], "the only sample of its class"
        assert abs(np.sum(rows["test"] < 60) - 12) <= 1, "alike in every class"
        assert len(rows["valid"]) == 8
        assert f"{len(rows['train'])} train, 8 valid, {len(rows['test'])} held out" in notes[0]


def test_folds_of_whole_groups():
    groups = [f"g{i // 5}" for i in range(60)]
    cells = table(x=range(60), y=list("ab") * 30, who=groups, split=["train"] * 45 + ["valid"] * 5 + ["test"] * 10)
    found = folds(cells, 4, group="who")
    assert sorted(np.concatenate([rows["test"] for rows, _ in found])) == list(range(50))
    for rows, _ in found:
        parts = [{groups[row] for row in rows[part]} for part in ("train", "valid", "test")]
        assert all(parts)
        assert sum(map(len, parts)) == len(set.union(*parts)) == 10
    with pytest.raises(InputError, match="the groups of training and validation are too few for 10 folds"):
        folds(cells, 10, group="who")


def test_folds_leave_a_second_table_to_choose_epochs():
    first, second = table(x=range(20), y=list("ab") * 10), table(x=range(4), y=list("abab"))
    for rows, _ in folds(first, 3, valid=second):
        assert rows["valid"].tolist() == [0, 1, 2, 3]
        assert sorted(np.concatenate([rows["train"], rows["test"]])) == list(range(20))


@pytest.mark.parametrize(("count", "message"), [(1, "at least two"), (9, "the samples .* are too few for 9 folds")])
def test_folds_of_too_few(count, message):
    cells = table(x=range(10), y=list("ab") * 5, split=["train"] * 8 + ["valid"] * 2)
    with pytest.raises(InputError, match=message):
        folds(cells, count)


@pytest.mark.parametrize("number", [1, 3])
def test_one_of_the_folds(number):
    cells = table(x=range(30), y=list("ab") * 15, split=["train"] * 20 + ["valid"] * 5 + ["test"] * 5)
    found = split_rows(cells, infer(cells, "y"), seed=0, fold=(number, 3))
    rows, notes = folds(cells, 3)[number - 1]
    assert all(np.array_equal(found.rows[part], rows[part]) for part in rows)
    assert found.notes == notes
