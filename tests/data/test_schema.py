from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from polymodal.data.schema import Schema, infer
from polymodal.data.table import Table, read_table
from polymodal.errors import InputError


def table(**columns: Any) -> Table:
    return read_table(pd.DataFrame({name: pd.Series(list(cells), dtype=object) for name, cells in columns.items()}))


def mixed() -> Table:
    n = 20
    return table(
        id=[f"{i:04d}" for i in range(n)],
        clip=[f"clips/{i}.mkv" for i in range(n)],
        sound=[f"{i}.WAV" for i in range(n)],
        picture=[f"{i}.jpg" for i in range(n - 1)] + [None],
        review=[f"quite a long text {i // 2} about it" for i in range(n)],
        colour=["red", "green"] * 10,
        age=[str(i) for i in range(n - 1)] + ["NA"],
        height=[0.5 * i for i in range(n)],
        vector=[np.ones(3)] * n,
        constant=["same"] * n,
        comment=[f"c{i}" for i in range(n)],
        features=[f"feat/{i}.npy" for i in range(n)],
        nothing=[None] * n,
        split=["train"] * 10 + ["DEV"] * 5 + ["test"] * 5,
        label=["b", "a"] * 10,
    )


def test_kinds_of_all_columns():
    schema = infer(mixed(), "label")
    kinds = {name: (one.columns, one.kind) for name, one in schema.modalities.items()}
    assert kinds == {
        "clip": (("clip",), "video"),
        "sound": (("sound",), "audio"),
        "picture": (("picture",), "image"),
        "review": (("review",), "text"),
        "vector": (("vector",), "vector"),
        "numeric": (("age", "height"), "numeric"),
        "categorical": (("colour",), "categorical"),
    }
    assert (schema.id, schema.split, schema.task, schema.classes) == ("id", "split", "classification", ("a", "b"))
    notes = "\n".join(schema.notes)
    for column, reason in [
        ("constant", "every cell is 'same'"), ("comment", "every value is different"), ("features", "like paths"),
        ("nothing", "every cell is empty"),
    ]:  # fmt: skip
        assert any(column in note and reason in note for note in schema.notes), notes


def test_plain_json_round_trip():
    schema = infer(mixed(), "label")
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_explicit_modalities_alone_are_used():
    schema = infer(mixed(), "label", modalities=["video=clip:video", "audio=clip:audio", "x=age,height:numeric"])
    assert list(schema.modalities) == ["video", "audio", "x"]
    assert schema.modalities["audio"].kind == "audio"
    assert schema.modalities["x"].columns == ("age", "height")


def test_columns_with_signs_in_their_names():
    cells = table(**{"a=b:c": ["x y", "x z"] * 4, "a,b": [1, 2] * 4, "label": ["p", "q"] * 4})
    schema = infer(cells, "label", modalities=["m=a=b:c:text", "n=a,b:numeric"])
    assert schema.modalities["m"].columns == ("a=b:c",)
    assert schema.modalities["n"].columns == ("a,b",)


def test_names_that_torch_refuses_are_changed_when_inferred_only():
    cells = table(type=["a.png", "b.png"] * 2, **{"a.b": ["c.wav", "d.wav"] * 2}, label=["p", "q"] * 2)
    assert set(infer(cells, "label").modalities) == {"type_column", "a_b"}
    for spec, message in [
        ("type=type:image", "taken by torch"),
        ("a.b=a.b:audio", "has a dot"),
        ("=type:image", "name"),
    ]:
        with pytest.raises(InputError, match=message):
            infer(cells, "label", modalities=[spec])


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["x=clip"], "expected NAME=COLUMN:KIND, for example x=clip:image"),
        (["clip:video"], "expected NAME=COLUMN:KIND"),
        (["x=clip:vidio"], "unknown kind 'vidio'; did you mean 'video'"),
        (["x=clips:video"], "no column 'clips'; did you mean 'clip'"),
        (["x=clip:video", "x=sound:audio"], "given twice"),
        (["x=label:text"], "cannot be an input"),
        (["x=colour:numeric"], r"must be a finite number.*row 1, row 2.*'red'"),
        (["x=height:image"], "path of a file"),
        (["x=colour:vector"], "list of numbers"),
        (["x=nothing:text"], "every cell of column 'nothing' is empty"),
    ],
)
def test_bad_modalities(specs, message):
    with pytest.raises(InputError, match=message):
        infer(mixed(), "label", modalities=specs)


def test_no_usable_column():
    with pytest.raises(InputError, match="no column can be used as a modality"):
        infer(table(id=["1", "2"], label=["a", "b"]), "label")


def test_missing_label_column():
    with pytest.raises(InputError, match="no column 'lable'; did you mean 'label'"):
        infer(mixed(), "lable")


def test_split_column_is_one_only_if_it_says_so():
    cells = table(split=["banana", "sundae"] * 4, x=range(8), label=["a", "b"] * 4)
    assert infer(cells, "label").modalities["categorical"].columns == ("split",)
    cells = table(split=["train", "trian"] * 4, x=range(8), label=["a", "b"] * 4)
    assert infer(cells, "label").split == "split"


def test_group_and_named_columns_are_no_features():
    cells = table(who=list("aabbccdd"), name=list("ijklmnop"), x=range(8), label=["a", "b"] * 4)
    schema = infer(cells, "label", group="who", id="name")
    assert list(schema.modalities) == ["numeric"]
    assert (schema.group, schema.id) == ("who", "name")
