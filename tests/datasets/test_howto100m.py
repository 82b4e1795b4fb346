"""HowTo100M: captions, the features of their seconds, what is left out, and training to retrieve."""

import json

import numpy as np
import pytest

from polymodal.data.miniature import make
from polymodal.datasets import open_table
from polymodal.errors import InputError
from tests.datasets.ways import check_fit_evaluate

SMALL = [
    *(f"encoders.{m}.dim=16" for m in ("rgb", "motion")), "fusion.depth=1", "fusion.heads=2", "fusion.hidden=32",
    "optimizer.lr=0.005",
]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make("howto100m", tmp_path_factory.mktemp("howto100m") / "howto100m")


@pytest.fixture(scope="module")
def table(root):
    return open_table(f"howto100m:{root}")


def test_a_row_a_caption_with_the_features_of_its_seconds(root, table):
    captions = json.loads((root / "caption.json").read_text())
    arrays = {(f, p.stem): np.load(p) for f in ("2d", "3d") for p in (root / f).iterdir()}
    assert len(table) == 13 * 6 - 2
    for row in table.frame.itertuples():
        number = int(row.id.rpartition("_")[2])
        start = captions[row.video]["start"][number]
        assert row.text == captions[row.video]["text"][number].capitalize() + "."
        assert row.clip == row.id
        flat = arrays["2d", row.video][int(start) : int(start) + 4]
        np.testing.assert_array_equal(row.rgb[:, 1:], flat)
        np.testing.assert_allclose(row.rgb[:, 0], [0.5, 1.5, 2.5, 3.5])
        if row.video != "vid00-_x":
            deep = arrays["3d", row.video][int(1.5 * start) : int(1.5 * start) + 6]
            np.testing.assert_array_equal(row.motion[:, 1:], deep)
            np.testing.assert_allclose(row.motion[:, 0], (np.arange(6) + 0.5) / 1.5, rtol=1e-5)


def test_what_is_missing_or_left_out(table):
    frame = table.frame
    assert set(frame["video"]) == {f"vid{i:02d}-_x" for i in range(13)}  # the last has no features
    assert all((row.motion is None) == (row.video == "vid00-_x") for row in frame.itertuples())
    assert "vid01-_x_2" not in set(frame["id"])  # an empty caption
    assert "vid02-_x_5" not in set(frame["id"])  # behind the end
    assert table.notes == (
        "left out: 1 videos without any features", "left out: 1 captions without a word",
        "left out: 1 captions behind the end of the features",
    )  # fmt: skip


def test_some_videos_and_wider_clips(root):
    few = open_table(f"howto100m,only=few.txt:{root}").frame
    assert set(few["video"]) == {"vid01-_x", "vid02-_x"}
    wide = open_table(f"howto100m,only=few.txt,least=8:{root}").frame
    assert [len(one) for one in wide["rgb"][:3]] == [6, 8, 8]  # the first clip cannot begin before the video
    assert (wide["rgb"][0][:, 0] >= 0).all()


def test_errors(tmp_path):
    with pytest.raises(InputError, match=r"caption.json: not there; put the captions there"):
        open_table(f"howto100m:{tmp_path}")
    root = make("howto100m", tmp_path / "own")
    (root / "few.txt").write_text("vid01-_x\nnone\n")
    with pytest.raises(InputError, match=r"'none' has no captions in caption.json"):
        open_table(f"howto100m,only=few.txt:{root}")
    np.save(root / "2d" / "vid03-_x.npy", np.zeros(4))
    with pytest.raises(InputError, match=r"an array of shape \(4,\); expected \(time, width\)"):
        open_table(f"howto100m:{root}")
    (root / "2d" / "vid03-_x.npy").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="not a readable array"):
        open_table(f"howto100m:{root}")
    for wrong, expected in (({"start": [0], "end": [1, 2], "text": ["a"]}, "equal length"), ([], "equal length")):
        (root / "caption.json").write_text(json.dumps({"vid01-_x": wrong}))
        with pytest.raises(InputError, match=expected):
            open_table(f"howto100m:{root}")
    (root / "caption.json").write_text(json.dumps({"vid01-_x": {"start": ["x"], "end": [1], "text": ["a"]}}))
    with pytest.raises(InputError, match="numbers of seconds"):
        open_table(f"howto100m:{root}")


def test_through_the_command_line(root, tmp_path, capsys):
    checked, found = check_fit_evaluate(capsys, f"howto100m:{root}", tmp_path / "run", *SMALL)
    assert {one["what"]: one["here"] for one in checked["counts"]} == {"video": 13, "all": 76}
    assert checked["groups"] == []
    assert 0 < found["rsum"] <= 600
