"""Decoded samples in a folder: the same numbers, decoded once, never half of one."""

import os

import numpy as np
import pytest
import soundfile

from polymodal.data.cache import Cache, Column
from polymodal.data.inputs import make_input
from polymodal.data.miniature.media import picture, write_clip
from polymodal.data.schema import Modality
from polymodal.data.stored import Stored
from polymodal.errors import InputError
from tests.cli.run import FILES, polymodal
from tests.cli.tables import media as media_table


@pytest.fixture
def clip(tmp_path):
    random = np.random.default_rng(0)
    write_clip(tmp_path / "clip.mp4", np.stack([picture(1, random) for _ in range(6)]), 10)
    return make_input(Modality("video", ("video",), "video"), frames=3, height=16, width=16, channels=3)


def column(clip, root, stored, limit=0):
    return Column(clip, [("clip.mp4",), (None,)], root, Cache(limit, stored))


def test_decoded_once(clip, tmp_path, monkeypatch):
    folder = tmp_path / "decoded"
    first = column(clip, tmp_path, folder).decode(0)
    assert np.array_equal(first, clip.decode(("clip.mp4",), tmp_path))
    assert len(list(folder.rglob("*.npy"))) == 1
    clip.mean, clip.std = [0.1] * 3, [0.2] * 3  # learnt from what was decoded, and no part of it
    monkeypatch.setattr(type(clip), "decode", lambda *_: pytest.fail("decoded again"))
    again = column(clip, tmp_path, folder)
    assert np.array_equal(again.decode(0), first)
    assert again.decode(1) is None


@pytest.mark.parametrize("change", ["options", "file", "damage"])
def test_decoded_again_where_something_changed(clip, tmp_path, change):
    folder = tmp_path / "decoded"
    stored = Stored(folder)
    stored.decode(clip, ("clip.mp4",), tmp_path)
    if change == "options":
        clip.frames = 2
    elif change == "file":
        os.utime(tmp_path / "clip.mp4", ns=(0, 0))
    else:
        one = next(folder.rglob("*.npy"))
        one.write_bytes(one.read_bytes()[:200])
    kept, made = stored.decode(clip, ("clip.mp4",), tmp_path), clip.decode(("clip.mp4",), tmp_path)
    assert np.array_equal(np.asarray(kept), np.asarray(made))
    assert len(list(folder.rglob("*.npy"))) == (1 if change == "damage" else 2)
    assert not list(folder.rglob("*.tmp"))


def test_broken_files_are_not_kept(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    audio = make_input(Modality("audio", ("audio",), "audio"), sample_rate=8000, max_seconds=1.0)
    audio.probe([("x.wav",)], tmp_path)
    with pytest.raises(InputError, match=r"x\.wav"):
        Stored(tmp_path / "decoded").decode(audio, ("x.wav",), tmp_path)
    soundfile.write(tmp_path / "x.wav", np.zeros(800), 8000)
    kept = np.asarray(Stored(tmp_path / "decoded").decode(audio, ("x.wav",), tmp_path))
    assert kept.shape == (40, 11)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made a folder"):
        Cache(0, tmp_path / "file")


def test_runs_that_share_it_are_equal(tmp_path):
    table = media_table(tmp_path)
    common = [
        "--label",
        "label",
        "--modality",
        "sound=sound:audio",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--workers",
        "0",
    ]
    ways = {"without": (), "filled": (f"data.decoded={tmp_path / 'd'}",), "read": (f"data.decoded={tmp_path / 'd'}",)}
    for name, settings in ways.items():
        polymodal("fit", table, *common, *settings, "data.cache_bytes=0", "--out", tmp_path / name)
    assert list((tmp_path / "d").rglob("*.npy"))
    for name in ("filled", "read"):
        assert all((tmp_path / name / one).read_bytes() == (tmp_path / "without" / one).read_bytes() for one in FILES)
