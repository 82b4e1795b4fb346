from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from polymodal.data.table import read_table
from polymodal.errors import InputError


def write(tmp_path: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_cells_stay_text_and_only_empty_ones_are_missing(tmp_path):
    table = read_table(write(tmp_path, 'id,note,x\n0012,NA,1\n0013,"a, b",\n0014,None,nan\n'))
    assert table.cells("id").tolist() == ["0012", "0013", "0014"]
    assert table.cells("note").tolist() == ["NA", "a, b", "None"]
    assert table.cells("x").tolist() == ["1", None, "nan"]
    assert table.missing("x").tolist() == [False, True, False]
    assert table.root == tmp_path


def test_lines_count_cells_of_several_lines_and_blank_lines(tmp_path):
    table = read_table(write(tmp_path, 'a,b\n"x\ny",1\n\nz,2\n'))
    assert table.place(0) == "row 1 (line 2)"
    assert table.place(1) == "row 2 (line 5)"


@pytest.mark.parametrize(
    ("name", "text"),
    [("t.tsv", "a\tb\n1\tx,y\n"), ("t.csv", "a;b\n1;x,y\n"), ("t.csv", '\ufeffa,b\r\n1,"x,y"\r\n')],
)
def test_delimiters_and_byte_order_mark(tmp_path, name, text):
    table = read_table(write(tmp_path, text, name))
    assert table.columns == ["a", "b"]
    assert table.cells("b").tolist() == ["x,y"]


def test_json_lines_and_parquet_keep_lists_and_numbers(tmp_path):
    table = read_table(write(tmp_path, '{"v": [1, 2], "t": "NA"}\n\n{"v": null, "y": 3}\n', "t.jsonl"))
    assert table.cells("v").tolist() == [[1, 2], None]
    assert table.cells("t").tolist() == ["NA", None]
    assert table.place(1) == "row 2 (line 3)"
    frame = pd.DataFrame({"v": [np.arange(3.0), None], "n": [1.5, np.nan], "s": ["None", None]}, index=[7, 9])
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(str(tmp_path / "t.parquet"))
    assert table.cells("v")[0].tolist() == [0, 1, 2]
    assert table.missing("v").tolist() == table.missing("n").tolist() == table.missing("s").tolist() == [False, True]
    assert table.cells("s")[0] == "None"


def test_frames_are_not_changed_and_start_paths_where_told(tmp_path):
    frame = pd.DataFrame({0: ["a", "b"]}, index=[5, 6])
    table = read_table(frame, root=tmp_path)
    assert table.columns == ["0"]
    assert 0 in frame.columns
    assert table.root == tmp_path
    assert read_table(frame).root == Path.cwd()


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("", "t.csv", "the file is empty"),
        ("a,b\n", "t.csv", "no rows"),
        ("a,b,a\n1,2,3\n", "t.csv", "duplicate column name 'a'"),
        ("a,,b\n1,2,3\n", "t.csv", "column 2 has no name"),
        ("a,b\n1,2\n1,2,3\n", "t.csv", r"row 2 \(line 3\): 3 cells.*2 columns"),
        ("a,b\n1\n", "t.csv", r"row 1 \(line 2\): 1 cells"),
        ('a,b\n1,"x\n', "t.csv", "unexpected end of data"),
        ("a,b\n1,\xfc\n".encode("latin-1"), "t.csv", "not UTF-8"),
        ("a\n1\n", "t.txt", "unknown kind of table '.txt'"),
        ("{}\n[1]\n", "t.jsonl", "line 2: a list"),
        ('{"a": 1\n', "t.jsonl", "line 1: not JSON"),
        ("no parquet", "t.parquet", "not a readable Parquet file"),
    ],
)
def test_bad_tables(tmp_path, text, name, message):
    with pytest.raises(InputError, match=message) as caught:
        read_table(write(tmp_path, text, name))
    assert name in str(caught.value)


def test_missing_table_and_column(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(InputError, match="no column 'lable'; did you mean 'label'"):
        read_table(write(tmp_path, "label\n1\n")).cells("lable")
    with pytest.raises(InputError, match="duplicate column name"):
        read_table(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(InputError, match="no rows"):
        read_table(pd.DataFrame({"a": []}))
