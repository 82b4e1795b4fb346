"""UPMC Food101: folders with titles or texts, and both kinds of lists."""

import shutil

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from polymodal.data.inputs import make_input
from polymodal.data.miniature import make
from polymodal.data.schema import Modality
from polymodal.datasets import open_table, with_preset
from polymodal.datasets.food101 import read
from polymodal.errors import InputError
from tests.datasets.ways import check_fit_evaluate, counts


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make("food101", tmp_path_factory.mktemp("food") / "food")


def test_folders_with_titles(root):
    table = read(root)
    # Of 40 and 15 pictures one each has an empty title and one has none.
    assert counts(f"food101:{root}") == {"train": 38, "test": 13}
    assert table.notes == ("left out: 4 pictures without a text",)
    assert table.classes["label"] == ("apple_pie", "beignets", "hot_and_sour_soup", "sushi", "waffles")
    row = table.frame.iloc[-1]
    assert row["image"] == f"images/test/{row['label']}/{row['id']}.jpg"
    assert (root / row["image"]).is_file()


def test_titles_hold_commas_and_quotes(root):
    texts = list(read(root, clean=False).frame["text"])
    assert all(text.endswith(', the "best"!') for text in texts)
    cleaned = list(read(root).frame["text"])
    assert [text.lower().replace(",", "").replace('"', "").replace("!", "") for text in texts] == cleaned


def test_titles_without_quotes_and_with_a_header(root, tmp_path):
    shutil.copytree(root / "images", tmp_path / "images")
    (tmp_path / "texts").mkdir()
    for part in ("train", "test"):
        names = sorted(one.name for one in (tmp_path / "images" / part / "sushi").iterdir())
        lines = [f"{name},rolls, with {name},sushi" for name in names]
        (tmp_path / "texts" / f"{part}_titles.csv").write_text("\n".join(["image,title,class", *lines]) + "\n")
    found = read(tmp_path, clean=False).frame
    assert list(found["text"]) == [f"rolls, with {name}.jpg" for name in found["id"]]


def test_texts_of_recipes(root, tmp_path):
    for name in ("images", "texts_txt"):
        shutil.copytree(root / name, tmp_path / name)
    assert counts(f"food101:{tmp_path}") == {"train": 40, "test": 15}
    assert read(tmp_path).frame["text"].str.endswith("the best").all()


def test_a_title_without_its_picture_stays(root, tmp_path):
    shutil.copytree(root, tmp_path / "copy")
    gone = read(root).frame.iloc[0]
    (tmp_path / "copy" / gone["image"]).unlink()
    found = read(tmp_path / "copy").frame
    assert found[found["id"] == gone["id"]].iloc[0]["image"] == gone["image"]


def test_validation_is_alike_in_every_class(root):
    frame = read(root, valid=0.25).frame
    held = frame[frame["split"] == "valid"]["label"].value_counts()
    assert set(held) == {2}
    assert list(frame["split"]) == list(read(root, valid=0.25).frame["split"])
    assert list(frame["split"]) != list(read(root, valid=0.25, seed=1).frame["split"])


def test_lists(root):
    for source in ("mmbt", "wander"):
        assert counts(f"food101/{source}:{root}") == {"train": 30, "valid": 10, "test": 15}
    lines = open_table(f"food101/mmbt:{root}").frame
    pieces = open_table(f"food101/wander:{root}").frame
    assert list(lines["image"]) == list(pieces["image"])
    plain = [text.replace(",", "").replace('"', "").replace("!", "") for text in lines["text"]]
    assert list(pieces["text"]) == plain  # pieces such as "cand", "##le" are joined


def test_pictures_of_the_presets(root):
    made = {}
    for source in ("mmbt", "wander"):
        settings = with_preset({"table": f"food101/{source}:{root}"})
        made[source] = make_input(Modality("image", ("image",), "image"), **settings["data"]["inputs"]["image"])
    table = open_table(f"food101/mmbt:{root}")
    cells, random = (table.cells("image")[0],), np.random.default_rng(0)
    with Image.open(table.root / cells[0]) as picture:
        expected = np.asarray(Compose([Resize(256), CenterCrop(224)])(picture.convert("RGB")))
    for found in (made["mmbt"].decode(cells, table.root), made["mmbt"].material(cells, table.root, random)):
        assert found is not None
        assert np.array_equal(found, expected)  # nothing is drawn
    assert not made["mmbt"].random
    plain = made["wander"].decode(cells, table.root)
    drawn = [made["wander"].vary(plain, cells, random) for _ in range(2)]
    assert [one.shape for one in (plain, *drawn)] == [(224, 224, 3)] * 3
    assert not np.array_equal(*drawn)


@pytest.mark.parametrize(
    ("name", "text", "form", "expected"),
    [
        ("train.jsonl", '{"id": 1}\n', "jsonl", "train.jsonl, line 1: no field 'text'; there are id"),
        ("train.jsonl", "[1]\n", "jsonl", "line 1: a list; expected an object"),
        ("train.jsonl", "{\n", "jsonl", "line 1: not JSON"),
        ("train.json", "{}", "json", "a dict; expected a list"),
        ("train.json", '[{"id": 1, "label": "a", "img_path": "x", "text_tokens": [3, 4]}]', "json", "write the words"),
        ("other", "", "jsonl", "train.jsonl: not there"),
        ("other", "", "jsonn", "did you mean 'json"),
    ],
)
def test_errors(tmp_path, name, text, form, expected):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=expected):
        read(tmp_path, form=form)


def test_folders_without_texts(root, tmp_path):
    shutil.copytree(root / "images", tmp_path / "images")
    with pytest.raises(InputError, match=r"train_titles.csv: not there, nor the folder .*texts_txt"):
        read(tmp_path)


@pytest.mark.parametrize("source", ["mmlora", "wander"])
def test_through_the_command_line(root, tmp_path, capsys, source):
    settings = ["data.inputs.image.height=16", "data.inputs.image.width=16"]
    checked, found = check_fit_evaluate(capsys, f"food101/{source}:{root}", tmp_path / "run", *settings)
    assert found["accuracy"] > 0.6  # by chance 1/5
    assert checked["counts"][-1]["here"] == 5
