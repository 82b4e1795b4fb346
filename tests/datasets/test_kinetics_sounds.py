"""Kinetics-Sounds: two kinds of lists, and clips found by id and first second."""

import pytest

from polymodal.data.miniature import make
from polymodal.data.schema import infer
from polymodal.datasets import open_table
from polymodal.datasets.kinetics_sounds import CLASSES_32, read
from polymodal.errors import InputError
from tests.datasets.ways import SMALL_FRAMES, check_fit_evaluate, counts

AUDIO = ("audio=audio:audio",)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make("kinetics_sounds", tmp_path_factory.mktemp("ks") / "ks")


def test_31_classes_by_number(root):
    table = read(root)
    assert counts(f"kinetics_sounds:{root}") == {"train": 32, "test": 12}
    assert list(table.frame["label"][:4]) == ["2", "10", "26", "30"]
    # In the order of numbers, "2" before "10", and those without a clip are outputs too.
    assert infer(table, "label", modalities=AUDIO, task="classification").classes == tuple(map(str, range(31)))


def test_names_of_classes_from_the_label_file(root):
    (root / "classes.txt").write_text("".join(f"class {i}\n" for i in range(31)))
    try:
        table = read(root)
    finally:
        (root / "classes.txt").unlink()
    assert list(table.frame["label"][:2]) == ["class 2", "class 10"]
    assert table.classes["label"][30] == "class 30"


def test_32_classes_of_kinetics(root):
    assert len(CLASSES_32) == len(set(CLASSES_32)) == 32
    table = open_table(f"kinetics_sounds/mmlora:{root}")
    assert counts(f"kinetics_sounds/mmlora:{root}") == {"train": 32, "test": 12}  # and none of the class "yoga"
    assert list(table.frame["label"][:2]) == ["bowling", "playing clarinet"]


@pytest.mark.parametrize("source", ["ogm", "mmlora"])
def test_every_clip_is_found(root, source):
    table = open_table(f"kinetics_sounds/{source}:{root}")
    assert all((root / cell).is_file() for cell in table.frame["video"])
    assert table.frame["video"].is_unique
    assert any(one[10] == "_" for one in table.frame["id"])  # ids of videos may end in "_"


def test_test_names_lack_the_last_second(root):
    test = read(root).frame.query("split == 'test'").iloc[0]
    assert test["id"].count("_") == test["id"][:11].count("_") + 1
    assert test["video"].startswith(f"clips/validate/{test['id']}_")


def test_extracted_sound_and_pictures_come_first(root, tmp_path):
    first = read(root).frame.iloc[0]
    for name in ("my_train.txt", "my_test.txt"):
        (tmp_path / name).write_text((root / name).read_text())
    short = first["id"].rpartition("_")[0]
    (tmp_path / "frames" / short).mkdir(parents=True)
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / f"{short}.wav").touch()
    found = read(tmp_path).frame.iloc[0]
    assert (found["audio"], found["video"]) == (f"audio/{short}.wav", f"frames/{short}")
    assert read(tmp_path).frame.iloc[1]["video"].startswith("clips/")  # stays, to be reported as missing


@pytest.mark.parametrize(
    ("name", "text", "lists", "expected"),
    [
        ("my_train.txt", "abcdefghijk_000001_000011,10,31", "ogm", "line 1: unknown class 31; there are 31, from 0"),
        ("my_train.txt", "abcdefghijk_000001_000011 10 3", "ogm", "expected NAME,SECONDS,CLASS NUMBER"),
        ("my_train.txt", "abc,10,3", "ogm", "expected YOUTUBE_START"),
        ("train.csv", "a,b\n1,2\n", "kinetics", "header must name label"),
        ("train.csv", "label,youtube_id,time_start,time_end\nbowling,abcdefghijk,x,2\n", "kinetics", "whole seconds"),
        ("other", "", "ogm", "my_train.txt: not there"),
        ("other", "", "kinetcs", "did you mean 'kinetics'"),
    ],
)
def test_errors(tmp_path, name, text, lists, expected):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=expected):
        read(tmp_path, lists=lists)


def test_through_the_command_line(root, tmp_path, capsys):
    settings = [*SMALL_FRAMES, "data.inputs.audio.clip_seconds=1.0", "data.inputs.audio.clip_frames=98"]
    checked, found = check_fit_evaluate(capsys, f"kinetics_sounds:{root}", tmp_path / "run", *settings)
    assert found["accuracy"] > 0.6  # by chance 1/4
    assert checked["counts"][-1] == {"what": "classes", "here": 4, "published": 31}
