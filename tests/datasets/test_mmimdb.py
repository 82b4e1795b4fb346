"""MM-IMDB: folders, lists with either key, features, and which films and genres count."""

import json
import shutil

import h5py
import numpy as np
import pytest

from polymodal.data.miniature import make
from polymodal.data.schema import infer
from polymodal.datasets import open_table
from polymodal.datasets.mmimdb import GENRES, read
from polymodal.errors import InputError
from tests.datasets.ways import check_fit_evaluate, counts


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make("mmimdb", tmp_path_factory.mktemp("films") / "mmimdb")


def test_folders(root):
    table = read(root)
    split = json.loads((root / "split.json").read_text())
    assert counts(f"mmimdb:{root}") == {"train": 32, "valid": 10, "test": 12}
    assert list(table.frame["id"]) == split["train"] + split["dev"] + split["test"]
    film = json.loads((root / "dataset" / f"{split['train'][1]}.json").read_text())
    row = table.frame.iloc[1]
    assert row["text"] == max(film["plot"], key=len) != film["plot"][0]
    assert row["genres"] == film["genres"]
    assert (root / row["image"]).is_file()


def test_one_folder_further_down(root, tmp_path):
    shutil.copytree(root, tmp_path / "mmimdb")
    found = read(tmp_path).frame
    assert (tmp_path / found["image"][0]).is_file()
    assert list(found["id"]) == list(read(root).frame["id"])


def test_23_genres_in_order_of_their_names(root):
    assert len(GENRES) == 23 == len(set(GENRES))
    schema = infer(read(root), "genres", modalities=["text=text:text"])
    assert schema.task == "multilabel"
    assert schema.classes == GENRES == tuple(sorted(GENRES))


def test_genres_outside_of_the_23(root):
    table = read(root)
    assert not {"News", "Adult"} & {name for genres in table.frame["genres"] for name in genres}
    assert table.notes == ("left out: genres outside of the 23 (Adult 1, News 3)",)


def test_films_that_mmbt_drops(root):
    table = read(root, films="mmbt")
    assert counts(f"mmimdb/mmbt:{root}") == {"train": 31, "valid": 9, "test": 10}
    assert table.notes == (
        "left out: 3 films with the genre News, as MMBT does",
        "left out: 1 films with a genre that the training part lacks",
    )
    assert table.classes["genres"] == ("Action", "Comedy", "Drama", "Horror", "Sci-Fi", "Western")


def test_lists_with_image_or_img(root):
    assert "image" in json.loads((root / "train.jsonl").read_text().splitlines()[0])
    assert "img" in json.loads((root / "test.jsonl").read_text().splitlines()[0])
    table = open_table(f"mmimdb/mmbt_jsonl:{root}")
    assert counts(f"mmimdb/mmbt_jsonl:{root}") == {"train": 31, "valid": 9, "test": 10}
    assert all((root / cell).is_file() for cell in table.frame["image"])


def test_features(root):
    table = open_table(f"mmimdb/gmu:{root}")
    assert counts(f"mmimdb/gmu:{root}") == {"train": 32, "valid": 10, "test": 12}
    with h5py.File(root / "multimodal_imdb.hdf5") as file:
        names = json.loads(file.attrs["target_names"])
        assert np.array_equal(table.frame["image"][40], file["vgg_features"][40])
        assert np.array_equal(table.frame["text"][40], file["features"][40])
        hot = file["genres"][()]
    assert table.classes["genres"] == tuple(names) != tuple(sorted(names))
    assert table.frame["genres"][40] == [names[i] for i in np.flatnonzero(hot[40])]


def test_parts_of_features_without_the_attribute(root, tmp_path):
    path = shutil.copy(root / "multimodal_imdb.hdf5", tmp_path)
    with h5py.File(path, "a") as file:
        del file.attrs["split"]
    with pytest.raises(InputError, match="does not say which of its 54 films are train, dev and test"):
        read(tmp_path, form="hdf5")


@pytest.mark.parametrize("broken", ["genres", "target_names"])
def test_features_that_lack_something(root, tmp_path, broken):
    path = shutil.copy(root / "multimodal_imdb.hdf5", tmp_path)
    with h5py.File(path, "a") as file:
        del (file if broken == "genres" else file.attrs)[broken]
    with pytest.raises(InputError, match=f"lacks .*{broken}"):
        read(tmp_path, form="hdf5")


@pytest.mark.parametrize(
    ("name", "text", "arguments", "expected"),
    [
        ("split.json", "{", {}, "split.json: not JSON"),
        ("split.json", '{"train": []}', {}, "no list 'dev'"),
        ("split.json", '{"train": ["0000001"], "dev": [], "test": []}', {}, "0000001.json: not there; put the owner's record"),
        ("multimodal_imdb.hdf5", "no", {"form": "hdf5"}, "not a readable HDF5 file"),
        ("train.jsonl", '{"id": 1, "text": "x", "label": ["Drama"]}', {"form": "jsonl"}, "no field 'img' or 'image'"),
        ("other", "", {}, "split.json: not there; put the owner's lists"),
        ("other", "", {"form": "hdf"}, "did you mean 'hdf5'"),
    ],
)  # fmt: skip
def test_errors(tmp_path, name, text, arguments, expected):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=expected):
        read(tmp_path, **arguments)


def test_a_misspelt_genre(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    film = json.loads((root / "split.json").read_text())["dev"][2]
    path = tmp_path / "copy" / "dataset" / f"{film}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"genres": ["Drma"]}))
    with pytest.raises(InputError, match=f"film {film}: unknown genre 'Drma'; did you mean 'Drama'"):
        read(tmp_path / "copy")


@pytest.mark.parametrize(
    ("source", "settings"),
    [("mmlora", ["data.inputs.image.height=16", "data.inputs.image.width=16"]), ("gmu", [])],
)
def test_through_the_command_line(root, tmp_path, capsys, source, settings):
    checked, found = check_fit_evaluate(capsys, f"mmimdb/{source}:{root}", tmp_path / "run", *settings)
    assert found["f1_micro"] > 0.5
    assert {one["what"]: one["published"] for one in checked["counts"]} == {
        "train": 15552, "valid": 2608, "test": 7799, "classes": 23,
    }  # fmt: skip
