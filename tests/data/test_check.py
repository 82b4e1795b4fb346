"""What `check_table` says of tables with known faults."""

import json

import numpy as np
import pandas as pd
import pytest

from polymodal.data.check import check_table
from polymodal.errors import InputError
from tests.data.files import cut, numbered_frames, write_clip, write_csv, write_image, write_sound

PARTS = ("train", "train", "valid", "test")


@pytest.fixture
def media(tmp_path):
    rows = []
    for i, part in enumerate(PARTS):
        pixels = np.full((10 + i, 20), 20 * i, np.uint8)
        rows.append(
            {
                "photo": write_image(tmp_path / f"{i}.png", pixels).name,
                "sound": write_sound(tmp_path / f"{i}.wav", seconds=0.1 * (i + 1), rate=8000 if i else 16000).name,
                "clip": write_clip(tmp_path / f"{i}.mkv", numbered_frames(3 + i), sound=False).name,
                "who": "xxyz"[i],
                "label": ("dog", "cat")[i % 2],
                "split": part,
            }
        )
    return rows


def check(folder, rows, **options):
    return check_table(write_csv(folder / "t.csv", rows), show=False, **options)


def test_a_sound_table(tmp_path, media):
    found = check(tmp_path, media, label="label", group="who")
    assert found.parts == {"train": 2, "valid": 1, "test": 1}
    photo, sound, clip = found.columns
    assert (photo.kind, photo.cells, photo.distinct) == ("image", 4, 4)
    assert photo.ranges == {"pixels high": (10, 11.5, 13), "wide": (20, 20, 20), "channels": (1, 1, 1)}
    assert sound.ranges["seconds"] == pytest.approx((0.1, 0.25, 0.4))
    assert sound.rates == {8000: 3, 16000: 1}
    assert clip.ranges["frames"] == (3, 4.5, 6)
    assert clip.ranges["seconds"] == pytest.approx((0.12, 0.18, 0.24))
    assert clip.rates == {25: 4}
    assert found.classes == {"train": {"cat": 1, "dog": 1}, "valid": {"cat": 0, "dog": 1}, "test": {"cat": 1, "dog": 0}}
    assert [found.broken, found.duplicates, found.groups, found.problems] == [[], [], [], []]
    assert "Nothing is broken" in found.text()
    assert json.loads(json.dumps(found.to_dict()))["columns"][0]["name"] == "photo"


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_by_row(tmp_path, media, workers):
    cut(tmp_path / "1.wav", 0.5)
    cut(tmp_path / "2.mkv", 0.5)
    (tmp_path / "3.png").write_text("no picture")
    seen: list[tuple[int, int]] = []
    found = check(tmp_path, media, workers=workers, progress=lambda done, total: seen.append((done, total)))
    assert [(one.row, one.modality) for one in found.broken] == [(1, "sound"), (2, "clip"), (3, "photo")]
    assert found.broken[0].place == "row 2 (line 3)"
    assert found.to_dict()["broken"][0]["row"] == 2
    assert "3 broken samples" in found.text()
    assert seen == [(i, 12) for i in range(1, 13)]


def test_contents_and_groups_that_cross_the_split(tmp_path, media):
    (tmp_path / "2.wav").write_bytes((tmp_path / "0.wav").read_bytes())  # train and valid, under another name
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes())  # both train
    media[3]["who"] = "x"
    found = check(tmp_path, media, label="label", group="who")
    (one,) = found.duplicates
    assert (one.what, one.count, one.samples, one.parts) == ("sound", 1, 2, ("train", "valid"))
    assert one.places == "row 1 (line 2), row 3 (line 4)"
    assert found.repeated == {"photo": 1, "sound": 1, "clip": 0}
    (group,) = found.groups
    assert (group.what, group.samples, group.parts) == ("who", 3, ("train", "test"))
    assert "duplicates cross train and valid" in found.text()
    assert "Nothing is broken" not in found.text()


def test_texts_vectors_numbers_and_missing_cells():
    frame = pd.DataFrame(
        {
            "text": ["good film", " good film ", "a bad film indeed", None],
            "vector": [[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [1.0, np.nan]],
            "number": [1.0, 2.0, None, 4.0],
            "split": PARTS,
        }
    )
    specs = ["text=text:text", "vector=vector:vector", "number=number:numeric"]
    found = check_table(frame, modalities=specs, show=False)
    text, vector, number = found.columns
    assert (text.cells, text.distinct, text.ranges) == (3, 2, {"words": (2, 2, 4)})
    assert vector.ranges == {"width": (2, 2, 2)}
    assert number.cells == 3
    assert [(one.what, one.parts) for one in found.duplicates] == [("vector", ("train", "valid"))]
    assert [(one.row, one.modality) for one in found.broken] == [(3, "vector")]
    assert "lacking in 1" in found.text()


def test_vectors_of_another_width():
    frame = pd.DataFrame({"v": [[1.0, 2.0], [3.0, 4.0], [1.0]]})
    found = check_table(frame, modalities=["v=v:vector"], show=False)
    assert [(one.row, one.reason) for one in found.broken] == [(2, "1 numbers, where most rows have 2")]


def test_labels_are_reported_not_refused():
    frame = pd.DataFrame(
        {"x": [1.0, 2.0, 3.0, 4.0], "y": ["a", "b", None, "c"], "split": ["train", "train", "train", "holdout"]}
    )
    found = check_table(frame, label="y", show=False)
    assert len(found.problems) == 2
    assert "neither train, valid nor test" in found.problems[0]
    assert "missing label" in found.problems[1]
    new = check_table(frame.fillna("b").assign(split=["train", "train", "valid", "test"]), label="y", show=False)
    assert new.problems == ["classes 'c' occur in the test part and not in training"]
    numbers = check_table(frame.assign(y=[0.5, 1.5, 2.5, 3.0], split=list(PARTS)), label="y", show=False)
    assert numbers.values == {"train": (0.5, 1.0, 1.5), "valid": (2.5, 2.5, 2.5), "test": (3, 3, 3)}


def test_unknown_columns_are_errors():
    frame = pd.DataFrame({"x": [1.0, 2.0]})
    with pytest.raises(InputError, match="no column 'speaker'"):
        check_table(frame, group="speaker", show=False)
    with pytest.raises(InputError, match="expected NAME=COLUMN:KIND"):
        check_table(frame, modalities=["x"], show=False)
