"""UCF101: three splits, pictures with flow, sound of 51 classes, and the names of one class."""

import numpy as np
import pytest

from polymodal.data.media.video import read_frames
from polymodal.data.miniature import make
from polymodal.data.miniature.ucf101 import CLASSES
from polymodal.datasets.ucf101 import WITH_SOUND, read
from polymodal.errors import InputError
from tests.datasets.ways import SMALL_FRAMES, check_fit_evaluate, counts


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make("ucf101", tmp_path_factory.mktemp("ucf") / "ucf")


def test_classes_in_the_owners_order(root):
    assert read(root).classes["label"] == tuple(CLASSES)
    assert len(CLASSES) == 101
    assert read(root, modalities="sound").classes["label"] == tuple(one for one in CLASSES if one in WITH_SOUND)
    assert len(read(root, modalities="sound").classes["label"]) == 51


@pytest.mark.parametrize(("split", "group"), [(1, "g01"), (2, "g08"), (3, "g15")])
def test_three_splits_by_group(root, split, group):
    frame = read(root, split=split).frame
    assert counts(f"ucf101,split={split}:{root}") == {"train": 40, "test": 10}
    assert {one.rpartition("_")[2] for one in frame.query("split == 'test'")["group"]} == {group}


def test_handstand_trap(root):
    """The class is the folder of the list; files, and folders of pictures and flow, spell it either way."""
    frame = read(root).frame
    found = frame[frame["label"] == "HandstandPushups"].iloc[0]
    assert found["id"].startswith("v_HandStandPushups_")
    assert (root / found["rgb"]).is_dir()
    assert (root / found["flow"].replace("{u,v}", "u")).is_dir()
    assert found["flow"].rpartition("/")[2].startswith("v_HandstandPushups_")
    sound = read(root, modalities="sound").frame
    assert all((root / cell).is_file() for cell in sound["video"])
    assert "HandstandPushups" in set(sound["label"])


def test_clips_without_sound_or_too_short_are_left_out(root):
    table = read(root, modalities="sound")
    assert not {"Basketball", "YoYo"} & set(table.frame["label"])
    assert not {"v_Archery_g22_c01", "v_Surfing_g22_c01"} & set(table.frame["id"])
    assert len(table) == 28
    assert table.notes == (
        "left out: 1 clips without sound",
        "left out: 1 clips with fewer than 4 frames at one a second",
    )


def test_validation_takes_whole_groups_of_each_class(root):
    frame = read(root, modalities="sound", valid=0.1).frame
    parts = {part: set(frame[frame["split"] == part]["group"]) for part in ("train", "valid", "test")}
    assert len(parts["valid"]) == 3  # one a class
    assert not (parts["valid"] & parts["train"] | parts["valid"] & parts["test"])


def test_flow_has_two_channels(root):
    row = read(root).frame.iloc[0]
    pairs = read_frames(root / row["flow"], 3, (32, 32), 2)
    assert pairs.shape == (3, 32, 32, 2)
    u = read_frames(root / row["flow"].replace("{u,v}", "u"), 3, (32, 32), 1)
    assert np.array_equal(pairs[..., :1], u)


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("trainlist01.txt", "Archery/v_Archery_g01_c01.avi 1\n", "class Archery has number 1 and 3 in classInd.txt"),
        ("trainlist01.txt", "Archer/v_Archery_g01_c01.avi 3\n", "'Archer' is unknown; did you mean 'Archery'"),
        ("trainlist01.txt", "v_Archery_g01_c01.avi 3\n", "expected CLASS/v_CLASS_g01_c01.avi"),
        ("classInd.txt", "1 Archery\n3 Surfing\n", "line 2: '3 Surfing': expected 2 CLASS"),
    ],
)
def test_errors(root, tmp_path, file, text, expected):
    folder = tmp_path / "ucfTrainTestlist"
    folder.mkdir()
    for one in (root / "ucfTrainTestlist").iterdir():
        (folder / one.name).write_bytes(one.read_bytes())
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=expected):
        read(tmp_path)


def test_wrong_arguments(root, tmp_path):
    with pytest.raises(InputError, match="split 4 is unknown; there are 1, 2 and 3"):
        read(root, split=4)
    with pytest.raises(InputError, match="did you mean 'flow'"):
        read(root, modalities="flaw")
    with pytest.raises(InputError, match=r"classInd.txt: not there; put the owner's list of classes"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        (
            "mmlora",
            [f"data.inputs.{m}.{one}" for m in ("rgb", "flow") for one in ("height=16", "width=16", "augment=none")],
        ),
        ("mlb", [*SMALL_FRAMES, "data.inputs.audio.max_seconds=1.0"]),
    ],
)
def test_through_the_command_line(root, tmp_path, capsys, source, settings):
    checked, found = check_fit_evaluate(capsys, f"ucf101/{source}:{root}", tmp_path / "run", *settings)
    assert found["accuracy"] > 0.6
    assert checked["groups"] == []
