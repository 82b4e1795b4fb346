"""CREMA-D: its lists and folds, read with their oddities."""

import json

import pytest

from polymodal.data.miniature import make
from polymodal.data.schema import infer
from polymodal.datasets import open_table
from polymodal.datasets.cremad import CLASSES, read
from polymodal.errors import InputError
from tests.cli.run import fails, polymodal
from tests.datasets.ways import SMALL_FRAMES, check_fit_evaluate, counts


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make("cremad", tmp_path_factory.mktemp("cremad") / "CREMA-D")


@pytest.fixture
def lists(tmp_path):
    """An empty copy to write lists into."""
    (tmp_path / "AudioWAV").mkdir()
    return tmp_path


def part(table, name):
    return table.frame[table.frame["split"] == name]


def test_label_order():
    assert CLASSES == ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")


def test_classes_are_the_outputs_in_that_order(root):
    assert infer(read(root), "emotion", modalities=["audio=audio:audio"]).classes == CLASSES


def test_ogm_lists(root):
    table = read(root)
    assert counts(f"cremad:{root}") == {"train": 30, "test": 12}
    listed = [line.split(",") for line in (root / "train.csv").read_bytes().decode().split("\r\n")[:-1]]
    found = part(table, "train")
    assert list(found["id"]) == [clip for clip, _ in listed]  # also the first: there is no header
    assert list(found["emotion"]) == [name for _, name in listed]  # and no carriage return
    one = table.frame.iloc[0]
    assert one["audio"] == f"AudioWAV/{one['id']}.wav"
    assert one["video"] == f"VideoFlash/{one['id']}.flv"
    assert one["actor"] == one["id"][:4]


def test_ogm_actors_overlap_and_it_is_said(root):
    assert "7 of 7 actors lie in more than one part" in read(root).notes[0]


def test_mark_of_byte_order_in_stat(root):
    assert (root / "stat.csv").read_bytes().startswith(b"\xef\xbb\xbf")
    read(root)  # with the mark, NEU would be unknown


def test_mmlora_divides_the_training_list_nine_to_one(lists):
    rows = [f"{1001 + i // 60}_DFA_{CLASSES[i % 6]}_XX,{CLASSES[i % 6]}" for i in range(600)]
    (lists / "train.csv").write_text("\r\n".join(rows))
    (lists / "test.csv").write_text("1001_IEO_ANG_HI,ANG\r\n")
    table = open_table(f"cremad/mmlora:{lists}")
    assert counts(f"cremad/mmlora:{lists}") == {"train": 540, "valid": 60, "test": 1}
    assert set(part(table, "valid")["emotion"].value_counts()) == {10}
    assert list(table.frame["id"]) == list(open_table(f"cremad/mmlora:{lists}").frame["id"])
    assert list(table.frame["split"]) != list(open_table(f"cremad/mmlora,seed=1:{lists}").frame["split"])


@pytest.mark.parametrize("fold", [1, 2, 5])
def test_mlb_folds(root, fold):
    table = read(root, split="mlb", fold=fold)
    folds = json.loads((root / "folds.pkl").read_text())[str(fold)]
    for name, key in (("train", "train"), ("valid", "val"), ("test", "test")):
        assert [f"{clip}.wav" for clip in part(table, name)["id"]] == [one.split("-")[0] for one in folds[key]]
    actors = {name: set(part(table, name)["actor"]) for name in ("train", "valid", "test")}
    assert not (actors["train"] & actors["valid"] | actors["train"] & actors["test"] | actors["valid"] & actors["test"])
    # The number behind the clip is no label: the emotion acted is in the file's name.
    assert list(table.frame["emotion"]) == [clip.split("_")[2] for clip in table.frame["id"]]
    codes = [int(one.split("-")[1]) for one in folds["train"]]
    assert codes != [CLASSES.index(one) for one in part(table, "train")["emotion"]]
    assert table.notes == ()


def test_disjoint_split_of_91_actors(lists):
    for actor in range(1001, 1092):
        (lists / "AudioWAV" / f"{actor}_DFA_ANG_XX.wav").touch()
    table = read(lists, split="disjoint")
    assert counts(f"cremad/disjoint:{lists}") == {"train": 63, "valid": 14, "test": 14}
    assert table.frame["actor"].nunique() == 91
    again = [list(read(lists, split="disjoint", seed=seed).frame["split"]) for seed in (0, 1)]
    assert again[0] == list(table.frame["split"]) != again[1]


@pytest.mark.parametrize(
    ("files", "arguments", "expected"),
    [
        ({}, {}, ["train.csv", "OGM-GE's list", "fetch-help cremad"]),
        ({}, {"split": "mlb"}, ["folds.pkl", "MLB's authors"]),
        ({}, {"split": "ogn"}, ["'ogn'", "did you mean 'ogm'?"]),
        ({"train.csv": "1001_DFA_JOY_XX,JOY\n"}, {}, ["train.csv, line 1", "'JOY'", "NEU"]),
        ({"train.csv": "1001_DFA_ANG_XX,SAD\n"}, {}, ["train.csv, line 1", "listed as SAD"]),
        ({"train.csv": "1001_DFA_ANG_XX\n"}, {}, ["train.csv, line 1", "CLIP,EMOTION"]),
        ({"train.csv": "clip,emotion\n"}, {}, ["train.csv, line 1"]),
        ({"train.csv": "\r\n"}, {}, ["train.csv", "empty"]),
        ({"stat.csv": "JOY\n"}, {}, ["stat.csv, line 1", "'JOY'"]),
        ({"folds.pkl": "{}"}, {"split": "mlb", "fold": 6}, ["no fold 6"]),
        ({"folds.pkl": "\x80pickle"}, {"split": "mlb"}, ["folds.pkl", "not JSON"]),
        ({"folds.pkl": '{"1": {"train": ["x-0"]}}'}, {"split": "mlb"}, ["fold 1, train: x-0", "1001_DFA_ANG_XX"]),
        ({"AudioWAV/1001_DFA_ANG_XX.wav": "x"}, {"split": "disjoint"}, ["1 actors", "at least three"]),
    ],
)  # fmt: skip
def test_errors(lists, files, arguments, expected):
    for name, text in files.items():
        (lists / name).write_text(text)
    with pytest.raises(InputError) as error:
        read(lists, **arguments)
    for text in expected:
        assert text in str(error.value)


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"no such folder; give the folder that holds cremad"):
        read(tmp_path / "none")
    with pytest.raises(InputError, match=r"AudioWAV: not there; put the sounds <clip>\.wav there"):
        read(tmp_path)


def test_through_the_command_line(root, tmp_path, capsys):
    settings = [*SMALL_FRAMES, "data.inputs.audio.sample_rate=4000", "data.inputs.audio.max_seconds=1.0"]
    checked, found = check_fit_evaluate(capsys, f"cremad/mmlora:{root}", tmp_path / "run", *SMALL_FRAMES)
    assert found["accuracy"] > 0.6  # by chance 1/6
    assert {one["what"]: (one["here"], one["published"]) for one in checked["counts"]} == {
        "train + valid": (30, 6698), "test": (12, 744), "classes": (6, 6), "actor": (7, 91),
    }  # fmt: skip
    assert checked["groups"][0]["what"] == "actor"
    checked, found = check_fit_evaluate(capsys, f"cremad/mlb,fold=2:{root}", tmp_path / "mlb", *settings)
    assert found["accuracy"] > 0.6
    assert checked["groups"] == []


def test_missing_files_of_a_listed_clip_are_named(tmp_path, capsys):
    root = make("cremad", tmp_path / "copy")
    gone = root / "VideoFlash" / f"{read(root).frame['id'][0]}.flv"
    gone.unlink()
    with pytest.raises(SystemExit) as stop:
        polymodal("data", "check", "cremad", root)
    assert stop.value.code == 2
    broken = json.loads(capsys.readouterr().out)["broken"]
    assert [(one["row"], one["modality"]) for one in broken] == [(1, "video")]
    assert "no such file" in broken[0]["reason"]
    message = fails(capsys, "fit", f"cremad:{root}", "--out", tmp_path / "run", *SMALL_FRAMES)
    assert "1 of 42 samples cannot be read" in message
