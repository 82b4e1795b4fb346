from __future__ import annotations

import numpy as np
import pytest

from polymodal.data.media.sampling import sample_frames
from polymodal.data.media.video import probe_video, read_frames
from polymodal.errors import InputError
from tests.data.files import cut, numbered_frames, write_clip


def test_sampling():
    assert sample_frames(12, 12).tolist() == list(range(12))
    assert sample_frames(10, 2).tolist() == [2, 7]
    assert sample_frames(9, 3).tolist() == [1, 4, 7]
    assert sample_frames(2, 5).tolist() == [0, 1, 1, 1, 1]
    assert sample_frames(1, 1).tolist() == [0]


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4", "a.flv"])
@pytest.mark.parametrize("sound", [True, False])
def test_frames_are_counted(tmp_path, name, sound):
    path = write_clip(tmp_path / name, numbered_frames(20), sound)
    assert probe_video(path) == (20, 32, 48, True, 25)
    for wanted in (20, 4, 1):
        frames = read_frames(path, wanted, None, 1)
        numbers = frames.reshape(wanted, -1).mean(1) / 10 - 1
        np.testing.assert_allclose(numbers, sample_frames(20, wanted), atol=0.45)
    assert read_frames(path, 25, None, 1).shape == (25, 32, 48, 1)


def test_lossless_frames_are_exact(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (6, 24, 36), dtype=np.uint8)
    path = write_clip(tmp_path / "a.mkv", frames)
    np.testing.assert_array_equal(read_frames(path, 6, (24, 36), 1)[..., 0], frames)
    assert read_frames(path, 3, (12, 18), 3).shape == (3, 12, 18, 3)


def test_widths_that_fill_no_line(tmp_path):
    path = write_clip(tmp_path / "a.mkv", numbered_frames(3))
    for width in (7, 33, 50):
        frames = read_frames(path, 3, (5, width), 3)
        np.testing.assert_allclose(frames.mean((1, 2, 3)), [10, 20, 30], atol=1)


def test_a_lying_clip_is_turned_upright(tmp_path):
    import av

    frames = numbered_frames(4)
    frames[:, :, :24] = 0  # left half dark
    plain, turned = write_clip(tmp_path / "a.mp4", frames, sound=False), tmp_path / "b.mp4"
    with av.open(str(plain)) as source, av.open(str(turned), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    # The display matrix in the track header: a rotation by 90 degrees, as phones write it.
    data = bytearray(turned.read_bytes())
    unit = b"\x00\x01\x00\x00" + bytes(12) + b"\x00\x01\x00\x00" + bytes(12) + b"\x40\x00\x00\x00"
    place = data.index(unit, data.index(b"tkhd"))
    quarter = bytes(4) + b"\x00\x01\x00\x00" + bytes(4) + b"\xff\xff\x00\x00" + bytes(16) + b"\x40\x00\x00\x00"
    data[place : place + 36] = quarter
    turned.write_bytes(data)
    assert probe_video(turned)[:3] == (4, 48, 32)
    upright = read_frames(turned, 4, None, 1)
    assert upright.shape == (4, 48, 32, 1)
    assert upright[3, :20].mean() < 10  # turned clockwise, the left side is on top
    assert upright[3, 28:].mean() > 30


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4", "a.flv"])
@pytest.mark.parametrize("share", [0.75, 0.4, 0.01])
def test_truncated(tmp_path, name, share):
    rng = np.random.default_rng(0)
    path = write_clip(tmp_path / name, rng.integers(0, 256, (30, 32, 48), dtype=np.uint8), sound=name != "a.flv")
    cut(path, share)
    with pytest.raises(InputError, match=r"truncated|no video stream") as caught:
        read_frames(path, 4)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.mkv", "a.avi"])
def test_one_byte_too_few(tmp_path, name):
    path = write_clip(tmp_path / name, numbered_frames(4))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="truncated"):
        read_frames(path, 4)


def test_a_stream_of_unknown_length_is_no_truncated_file(tmp_path):
    path = write_clip(tmp_path / "a.mkv", numbered_frames(4))
    data = bytearray(path.read_bytes())
    place = data.index(b"\x18\x53\x80\x67") + 4
    data[place : place + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(data)
    assert read_frames(path, 4).shape == (4, 32, 48, 3)


def test_not_video(tmp_path):
    (tmp_path / "empty.mkv").touch()
    (tmp_path / "text.mkv").write_text("hello " * 100)
    with pytest.raises(InputError, match="is empty"):
        read_frames(tmp_path / "empty.mkv", 4)
    with pytest.raises(InputError, match="not a readable video file"):
        read_frames(tmp_path / "text.mkv", 4)
    with pytest.raises(InputError, match="no such file"):
        probe_video(tmp_path / "none.mkv")
