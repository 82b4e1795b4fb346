"""Frames that are decoded without those that they do not need are the frames that decoding everything gives."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from polymodal.data.media import video
from polymodal.data.media.packets import Packets, _runs, decode_only, read_packets

FRAMES = 60
FORMS: dict[str, tuple[str, str, dict[str, str]]] = {  # file, codec, options
    "h264, B-frames": ("clip.mp4", "libx264", {"g": "15", "bf": "3", "x264-params": "b-pyramid=normal:scenecut=0"}),
    "h264, long groups": ("clip.mkv", "libx264", {"g": "250", "bf": "2"}),
    "h264, open groups": ("clip.mp4", "libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}),
    "h264, no key frames": ("clip.mkv", "libx264", {"g": "20", "x264-params": "intra-refresh=1"}),
    "mpeg4 in avi": ("clip.avi", "mpeg4", {"g": "12"}),
    "mpeg4 in avi, B-frames": ("clip.avi", "mpeg4", {"g": "12", "bf": "2"}),
    "mpeg4, B-frames": ("clip.mp4", "mpeg4", {"g": "12", "bf": "2"}),
    "flv": ("clip.flv", "flv", {"g": "12"}),
    "vp9": ("clip.webm", "libvpx-vp9", {"g": "12"}),
}
NEVER_WHOLE = {"h264, B-frames", "mpeg4 in avi", "mpeg4, B-frames", "flv"}
"""Where nothing may be decoded in vain."""


def written(folder: Path, form: str) -> Path:
    name, codec, options = FORMS[form]
    random = np.random.default_rng(0)
    ground = random.integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(folder / name), "w") as out:
        stream: Any = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(FRAMES):
            pixels = np.roll(ground, (i, 3 * i), (0, 1))
            pixels[:8, : i + 1] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return folder / name


@pytest.mark.parametrize("form", FORMS)
def test_only_what_is_needed(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, form)
    whole = video._decode(path, set(range(FRAMES)), None, 3).kept
    assert len(whole) == FRAMES
    packets = read_packets(path)
    random = np.random.default_rng(1)
    for count in (1, 2, 3, 10, FRAMES):
        wanted = set(random.choice(FRAMES, count, replace=False).tolist())
        found = decode_only(path, packets, wanted, lambda frame: video._to_array(frame, None, 3))
        if found is not None:
            assert found.keys() == wanted
            assert all(np.array_equal(found[place], whole[place]) for place in wanted)
        assert found is not None or form not in NEVER_WHOLE
    if form in NEVER_WHOLE:
        monkeypatch.setattr(video, "_decode", None)  # not asked
    assert np.array_equal(video.read_frames(path, 2)[1], whole[45])


@pytest.mark.parametrize("form", sorted(NEVER_WHOLE))
def test_groups_without_a_wanted_frame_are_left_out(form: str, tmp_path: Path) -> None:
    packets = read_packets(written(tmp_path, form))
    assert packets.shown is not None
    runs = _runs(packets, packets.shown, {0, FRAMES - 1})
    assert runs is not None
    assert len(runs) == 2
    assert sum(stop - start for start, stop in runs) < FRAMES / 2


def test_a_frame_shown_before_its_key_frame_needs_the_group_before() -> None:
    #        decoded: I0 P3 B1 B2 I6 B4 B5 P8 B7
    shown = [0, 3, 1, 2, 6, 4, 5, 8, 7]
    packets = Packets(25.0, 9, shown, shown, [0, 4])
    assert _runs(packets, shown, {6}) == [(4, 5)]
    assert _runs(packets, shown, {7}) == [(4, 9)]
    assert _runs(packets, shown, {5}) == [(0, 7)]
    assert _runs(packets, shown, {1, 8}) == [(0, 3), (4, 8)]
    assert _runs(packets, shown, {3, 4}) == [(0, 6)]


def test_a_piece_that_begins_within_a_group(tmp_path: Path) -> None:
    path = written(tmp_path, "h264, B-frames")
    whole = video._decode(path, set(range(FRAMES)), None, 3).kept
    found = video.read_frames(Path(f"{path}#t=0.8,1.2"), 3)  # frames 20 to 30
    assert np.array_equal(found, np.stack([whole[i] for i in (21, 25, 29)]))


def test_a_cut_without_encoding_anew_shows_fewer_frames_than_it_has_packets(tmp_path: Path) -> None:
    path = written(tmp_path, "h264, B-frames")
    cut = tmp_path / "cut.mp4"
    with av.open(str(path)) as source, av.open(str(cut), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[5:-1]:  # the first group has lost its key frame
            packet.stream = stream
            out.mux(packet)
    shown = video._decode(cut, set(range(FRAMES)), None, 3)
    assert 0 < shown.total < read_packets(cut).total
    found = video.read_frames(cut, 3)
    assert np.array_equal(found, np.stack([shown.kept[(2 * i + 1) * shown.total // 6] for i in range(3)]))
