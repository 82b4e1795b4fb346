from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from polymodal.data.labels import check_labels, encode_labels, infer_label
from polymodal.data.schema import Schema
from polymodal.data.table import Table, read_table
from polymodal.errors import InputError


def labels(*cells: Any) -> Table:
    return read_table(pd.DataFrame({"y": pd.Series(list(cells), dtype=object)}))


def schema(table: Table, **options: Any) -> Schema:
    found = infer_label(table, "y", **options)
    return Schema({}, "y", found.task, found.classes, found.separator)


@pytest.mark.parametrize(
    ("cells", "task", "classes"),
    [
        (["dog", "cat", "dog"], "classification", ("cat", "dog")),
        (["10", "2", "9", "2", "10", "9"], "classification", ("2", "9", "10")),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "classification", tuple("0123456789")),
        ([1.0, 2.0, 1.0], "classification", ("1", "2")),
        ([True, False], "classification", ("False", "True")),
        (["NA", "None", "x"], "classification", ("NA", "None", "x")),
        ([0.5, 1.0, 2.0], "regression", ()),
        (["-3.5", "1e3"], "regression", ()),
        (list(range(100, 200)), "regression", ()),
        ([100, 2000, 30000], "regression", ()),
        ([["a", "b"], [], ["c"]], "multilabel", ("a", "b", "c")),
        ([np.array([0, 1, 1]), np.array([1, 0, 0])], "multilabel", ("0", "1", "2")),
        ([[3, 5], [5], [7, 3]], "multilabel", ("3", "5", "7")),
    ],
)
def test_task_is_told_from_the_cells(cells, task, classes):
    found = infer_label(labels(*cells), "y")
    assert (found.task, found.classes) == (task, classes)


def test_task_can_be_chosen():
    assert infer_label(labels(1, 2, 1, 2), "y", task="regression").task == "regression"
    assert infer_label(labels(*range(50)), "y", task="classification").classes[:3] == ("0", "1", "2")
    assert infer_label(labels("a|b", "b", "|"), "y", task="multilabel").classes == ("a", "b")
    assert infer_label(labels("a; b", "c"), "y", separator=";").classes == ("a", "b", "c")
    assert infer_label(labels("a,b", "c"), "y").classes == ("a,b", "c")


def test_targets():
    rows = np.array([2, 0, 1])
    one = labels("b", "a", "c")
    assert encode_labels(one, rows, schema(one)).tolist() == [2, 1, 0]
    many = labels("x|y", "z", "|")
    target = encode_labels(many, rows, schema(many, task="multilabel"))
    assert target.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 1]]
    hot = labels([0, 1], [1, 1], [0, 0])
    assert encode_labels(hot, rows, schema(hot)).tolist() == [[0, 0], [0, 1], [1, 1]]
    number = labels("1.5", "2", "-1e2")
    target = encode_labels(number, rows, schema(number))
    assert target.tolist() == [-100, 1.5, 2]
    assert target.dtype == torch.float32


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (["a", "a"], {}, "only one class, 'a'"),
        (["a", None, "b"], {}, r"missing label in column 'y': row 2; fill"),
        (["a", " ", "b"], {}, "row 2"),
        ([1.0, float("nan"), 2.0], {}, "missing label in column 'y': row 2"),
        (["1", "nan", "0"], {}, "missing label in column 'y': row 2"),
        (["1.5", "x", "0"], {"task": "regression"}, "finite numbers.*row 2.*'x'"),
        ([1.5, float("inf")], {"task": "regression"}, "finite numbers.*row 2"),
        (["a", "b"], {"task": "classify"}, "unknown task"),
        ([["a"], ["b"]], {"task": "classification"}, "need --task multilabel"),
        (["|", "|"], {"task": "multilabel"}, "no label at all"),
    ],
)
def test_bad_labels(cells, options, message):
    with pytest.raises(InputError, match=message):
        infer_label(labels(*cells), "y", **options)


def test_a_class_that_only_another_part_has():
    table = labels("a", "b", "a", "c")
    found = schema(table)
    check_labels(found, {"train": (table, np.arange(4)), "test": (table, np.array([0, 3]))})
    with pytest.raises(InputError, match=r"class 'c' of 'y' occurs in the test part \(row 4\) but not in the training"):
        check_labels(found, {"train": (table, np.arange(3)), "test": (table, np.array([3]))})
    with pytest.raises(InputError, match="one class only"):
        check_labels(found, {"train": (table, np.array([0, 2])), "valid": (table, np.array([1]))})


def test_a_class_that_only_a_second_table_has():
    first, second = labels("a", "b"), labels("a", "d")
    found = schema(first)
    with pytest.raises(InputError, match=r"class 'd'.*valid part \(row 2\)"):
        check_labels(found, {"train": (first, np.arange(2)), "valid": (second, np.arange(2))})
    with pytest.raises(InputError, match="row 2: unknown class 'd'"):
        encode_labels(second, np.arange(2), found)
