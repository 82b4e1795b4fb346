"""AVE: the owner's lists, event segments and repeated ids."""

import numpy as np
import pytest

from polymodal.data.media.sound import read_wave
from polymodal.data.media.video import read_frames
from polymodal.data.miniature import make
from polymodal.data.schema import infer
from polymodal.datasets.ave import read
from polymodal.errors import InputError
from tests.datasets.ways import SMALL_FRAMES, check_fit_evaluate, counts


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make("ave", tmp_path_factory.mktemp("ave") / "AVE_Dataset")


def test_lists_without_header_and_with_commas_in_categories(root):
    table = read(root)
    lines = [line.split("&") for line in (root / "trainSet.txt").read_text().splitlines()]
    train = table.frame[table.frame["split"] == "train"]
    assert list(train["id"]) == [line[1] for line in lines[:24]]
    assert list(train["category"]) == [line[0] for line in lines[:24]]
    assert "Male speech, man speaking" in set(train["category"])
    assert table.frame.iloc[1]["video"] == f"AVE/{lines[1][1]}.mp4#t=1,2"


def test_order_of_classes_is_that_of_the_test_list(root):
    table = read(root)
    first = [line.split("&")[0] for line in (root / "testSet.txt").read_text().splitlines()]
    assert infer(table, "category", modalities=["video=video:video"]).classes == tuple(dict.fromkeys(first))
    assert table.classes["category"] != tuple(sorted(table.classes["category"]))


def test_of_repeated_ids_the_first_line_is_kept(root):
    assert counts(f"ave:{root}") == {"train": 24, "valid": 8, "test": 8}
    table = read(root)
    assert not table.frame["id"].duplicated().any()
    assert table.notes[0] == "trainSet.txt: 26 lines, of which 2 repeat an id and are left out"
    assert counts(f"ave,repeats=all:{root}") == {"train": 26, "valid": 9, "test": 8}


def test_the_segment_holds_the_event_alone(root):
    row = read(root).frame.iloc[1]
    assert (row["start"], row["end"]) == (1, 2)
    inside, whole = root / row["video"], root / row["video"].partition("#")[0]
    frames = read_frames(whole, 16)
    # 8 frames a second, both bounds included: of 16 frames those from number 8 on.
    assert np.array_equal(read_frames(inside, 8), frames[8:])
    assert len(read_wave(inside, 16000)) == pytest.approx(16000, abs=2100)  # a block of AAC is 1024 samples
    assert len(read_wave(whole, 16000)) == pytest.approx(32000, abs=2100)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Church bell,abc,good,0,10", "expected Category&VideoID&Quality&StartTime&EndTime"),
        ("Church bell&abc&good&zero&10", "must be seconds"),
        ("Church bell&abc&good&5&5", "ends at 5 s and starts at 5 s"),
        ("", "empty"),
    ],
)
def test_errors(tmp_path, line, expected):
    (tmp_path / "trainSet.txt").write_text(line)
    with pytest.raises(InputError, match=expected) as error:
        read(tmp_path)
    assert "trainSet.txt" in str(error.value)


def test_missing_list(tmp_path):
    with pytest.raises(InputError, match=r"trainSet.txt: not there; put the owner's list there.*fetch-help ave"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"segment of ave 'events' is unknown; did you mean 'event'\?"):
        read(tmp_path, segment="events")


def test_through_the_command_line(root, tmp_path, capsys):
    settings = [*SMALL_FRAMES, "data.inputs.audio.max_seconds=1.0"]
    checked, found = check_fit_evaluate(capsys, f"ave:{root}", tmp_path / "run", *settings)
    assert found["accuracy"] > 0.6  # by chance 1/4
    assert [(one["what"], one["here"]) for one in checked["counts"]] == [
        ("train", 24), ("valid", 8), ("test", 8), ("classes", 4),
    ]  # fmt: skip
