from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from polymodal.data.inputs import Input, input_from_state, make_input
from polymodal.data.inputs.tokens import TokenInput
from polymodal.data.schema import Modality
from polymodal.errors import InputError
from tests.data.collated import collated
from tests.encoders.tokenizer import write_tokenizer

HERE = Path()
ROWS: list[tuple[Any, ...]] = [("red cat",), (None,), ("a red dog runs far away",), ("",)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), "red cat dog a runs")


def make(folder: Path | str, **options: Any) -> Input:
    return make_input(Modality("words", ("c",), "text"), tokenizer=str(folder), **options)


def batch(one: Input) -> Any:
    return collated(one, [one.decode(row, HERE) for row in ROWS])


def test_texts_become_the_tokenizers_numbers(tokenizer: Path) -> None:
    one = make(tokenizer)
    assert isinstance(one, TokenInput)
    assert one.shape == (9,)  # [PAD] [UNK] [CLS] [SEP], then the words in order
    found = batch(one)
    assert found.values.dtype == torch.int64
    assert found.values.tolist() == [
        [2, 4, 5, 3, 0, 0, 0, 0],
        [0] * 8,
        [2, 7, 4, 6, 8, 1, 1, 3],
        [2, 3, 0, 0, 0, 0, 0, 0],
    ]
    # The first token of an absent text stays visible, so that no encoder averages over nothing.
    assert found.mask.sum(1).tolist() == [4, 1, 8, 2]


def test_long_texts_are_cut_and_keep_their_end(tokenizer: Path) -> None:
    assert batch(make(tokenizer, max_length=4)).values[2].tolist() == [2, 7, 4, 3]


def test_it_is_restored_from_its_folder_or_from_the_runs_copy(tokenizer: Path, tmp_path: Path) -> None:
    one = make(tokenizer, max_length=5)
    state = json.loads(json.dumps(one.state()))
    expected = batch(one)
    assert torch.equal(batch(input_from_state(state)).values, expected.values)
    one.keep(tmp_path / "kept")
    gone = state | {"tokenizer": str(tmp_path / "gone")}
    again = input_from_state(gone, tmp_path / "kept")
    assert torch.equal(batch(again).values, expected.values)
    shutil.move(tmp_path / "kept", tmp_path / "moved")
    with pytest.raises(InputError, match="no such folder"):
        input_from_state(gone, tmp_path / "kept")
    assert torch.equal(batch(input_from_state(gone, tmp_path / "moved")).values, expected.values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": "nowhere"}, r"tokenizer .*nowhere: no such folder; name the one that holds tokenizer\.json"),
        ({"tokenizer": ""}, "expected a local folder"),
        ({"max_length": 0}, "max_length"),
        ({"max_length": 2}, "more than 2"),
        ({"buckets": 7}, "unknown option 'buckets'"),
    ],
)
def test_options_that_cannot_be(tokenizer: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_input(Modality("words", ("c",), "text"), **{"tokenizer": str(tokenizer)} | options)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be read .*put tokenizer\.json there"):
        make(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        make(tmp_path)
