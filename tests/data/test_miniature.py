"""Miniatures: repeatable, and in new folders only."""

import pytest

from polymodal.data.miniature import NAMES, make
from polymodal.datasets import NAMES as READERS
from polymodal.errors import InputError


def tree(root):
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_every_reader_has_one():
    assert NAMES == READERS


@pytest.mark.parametrize("name", ["cremad"])
def test_same_seed_same_bytes(tmp_path, name):
    one, two, three = (tree(make(name, tmp_path / str(i), seed)) for i, seed in enumerate((1, 1, 2)))
    assert one == two
    assert one.keys() == three.keys()
    assert one != three


def test_folder_in_use(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="not an empty folder"):
        make("cremad", tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["mine.txt"]


def test_unknown_data_set(tmp_path):
    with pytest.raises(InputError, match=r"'cremd' has no miniature; did you mean 'cremad'\?"):
        make("cremd", tmp_path / "new")
    assert not (tmp_path / "new").exists()
