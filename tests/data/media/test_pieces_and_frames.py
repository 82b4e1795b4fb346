"""Pieces of files, folders of pictures as clips, and flow."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polymodal.data.facts import facts_of
from polymodal.data.inputs import make_input
from polymodal.data.media.files import Piece, contents, kind_of, piece_of, places
from polymodal.data.media.frames import flip
from polymodal.data.media.sound import probe_sound, read_wave
from polymodal.data.media.video import probe_video, read_frames
from polymodal.data.schema import Modality
from polymodal.data.table import read_table
from polymodal.errors import InputError
from tests.data.collated import collated
from tests.data.files import numbered_frames, write_clip, write_image, write_sound


def folder(path: Path, values: list[int]) -> Path:
    """Pictures of one grey each, 1.png, 2.png, ... without zeros in front."""
    path.mkdir(parents=True)
    for i, value in enumerate(values, 1):
        write_image(path / f"frame{i}.png", np.full((4, 6), value, np.uint8))
    return path


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("a.mp4", ("a.mp4", 0, None)),
        ("a.mp4#t=2,7.5", ("a.mp4", 2, 7.5)),
        ("a.mp4#t=2", ("a.mp4", 2, None)),
        ("a.mp4#t=,7", ("a.mp4", 0, 7)),
        ("a.mp4#t=", ("a.mp4#t=", 0, None)),
        ("a#t=1.mp4", ("a#t=1.mp4", 0, None)),
    ],
)
def test_names_of_pieces(text, piece):
    assert piece_of(Path(text)) == Piece(Path(piece[0]), *piece[1:])
    assert kind_of("a.mp4#t=2,7.5") == "video"


def test_a_file_of_that_name_is_a_file(tmp_path):
    (tmp_path / "a.mp4#t=1,2").touch()
    assert piece_of(tmp_path / "a.mp4#t=1,2") == Piece(tmp_path / "a.mp4#t=1,2")


def test_a_piece_must_not_end_before_it_starts():
    with pytest.raises(InputError, match="not after its start"):
        piece_of(Path("a.mp4#t=3,3"))


def test_frames_of_a_piece(tmp_path):
    clip = write_clip(tmp_path / "a.mkv", numbered_frames(20))  # 25 a second, of brightness 10, 20, ...
    found = read_frames(Path(f"{clip}#t=0.2,0.4"), 6, channels=1)
    assert list(found[:, 0, 0, 0]) == [10 * (n + 1) for n in range(5, 11)]  # frames 5 to 10, both bounds included
    assert probe_video(Path(f"{clip}#t=0.2,0.4")).frames == 6
    assert probe_video(clip).rate == 25
    with pytest.raises(InputError, match=r"no frame after 3 s; the clip is 0.80 s long"):
        read_frames(Path(f"{clip}#t=3,4"), 2)


def test_sound_of_a_piece(tmp_path):
    sound = write_sound(tmp_path / "a.wav", seconds=1.0, rate=8000)
    whole = read_wave(sound, 8000)
    assert np.array_equal(read_wave(Path(f"{sound}#t=0.25,0.5"), 8000), whole[2000:4000])
    assert np.array_equal(read_wave(Path(f"{sound}#t=0.25"), 8000), whole[2000:])
    assert probe_sound(Path(f"{sound}#t=0.25,9")) == (8000, 0.75)
    with pytest.raises(InputError, match=r"no sound after 2 s; it is 1.00 s long"):
        read_wave(Path(f"{sound}#t=2,3"), 8000)


def test_contents_differ_by_piece(tmp_path):
    sound = write_sound(tmp_path / "a.wav")
    assert contents(sound) == sound.read_bytes()
    assert len({contents(Path(f"{sound}{end}")) for end in ("", "#t=0,1", "#t=1,2")}) == 3


def test_pictures_come_in_order_of_their_numbers(tmp_path):
    values = list(range(10, 130, 10))  # 12: as text frame10 comes before frame2
    clip = folder(tmp_path / "clip", values)
    (clip / "Thumbs.db").touch()
    assert list(read_frames(clip, 12, channels=1)[:, 0, 0, 0]) == values
    assert list(read_frames(clip, 3, channels=1)[:, 0, 0, 0]) == [30, 70, 110]
    assert read_frames(clip, 2, (8, 8), 3).shape == (2, 8, 8, 3)
    assert probe_video(clip) == (12, 4, 6, True, None)


def test_flow_is_a_pair_of_folders(tmp_path):
    for axis, values in (("u", [100, 110]), ("v", [200, 210])):
        folder(tmp_path / "flow" / axis / "clip", values)
    path = tmp_path / "flow" / "{u,v}" / "clip"
    assert places(path) == [tmp_path / "flow/u/clip", tmp_path / "flow/v/clip"]
    pairs = read_frames(path, 2, channels=2)
    assert pairs.shape == (2, 4, 6, 2)
    assert pairs[:, 0, 0].tolist() == [[100, 200], [110, 210]]
    assert read_frames(path, 2, channels=3)[:, 0, 0].tolist() == [[100, 200, 128], [110, 210, 128]]
    options = {"channels": 2, "frames": 2, "height": 4, "width": 6, "standardize": False}
    batch = make_input(Modality("flow", ("flow",), "video"), **options)
    value: Any = collated(batch, [batch.decode(("flow/{u,v}/clip",), tmp_path), None])
    assert value.shape == (2, 2, 2, 4, 6)
    assert value[0, 0, :, 0, 0].tolist() == pytest.approx([100 / 255, 200 / 255])


def test_flow_that_is_incomplete(tmp_path):
    folder(tmp_path / "u" / "clip", [1, 2])
    with pytest.raises(InputError, match="v/clip: no such folder of flow pictures"):
        read_frames(tmp_path / "{u,v}" / "clip", 2, channels=2)
    folder(tmp_path / "v" / "clip", [1])
    with pytest.raises(InputError, match="u has 2 pictures and v 1"):
        read_frames(tmp_path / "{u,v}" / "clip", 2, channels=2)


def test_channels_that_a_clip_does_not_have(tmp_path):
    with pytest.raises(InputError, match="pictures have 1 or 3 channels, and 2"):
        read_frames(folder(tmp_path / "clip", [1]), 1, channels=2)
    with pytest.raises(InputError, match="2 channels are those of flow"):
        read_frames(write_clip(tmp_path / "a.mkv", numbered_frames(3)), 1, channels=2)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="the folder has no pictures"):
        read_frames(tmp_path / "none", 1)


def test_flipping_flow_inverts_u_alone():
    """A mirror turns motion to the right into motion to the left; up stays up."""
    pairs = np.zeros((1, 1, 3, 2), np.uint8)
    pairs[0, 0, :, 0], pairs[0, 0, :, 1] = [200, 128, 128], [10, 20, 30]
    flipped = flip(pairs, flow=True)
    assert flipped[0, 0, :, 0].tolist() == [127, 127, 55]
    assert flipped[0, 0, :, 1].tolist() == [30, 20, 10]
    assert np.array_equal(flip(flipped, flow=True), pairs)
    assert flip(pairs)[0, 0, :, 0].tolist() == [128, 128, 200]


def test_facts_of_pieces_and_folders(tmp_path):
    clip = write_clip(tmp_path / "a.mkv", numbered_frames(20), sound=False)
    pictures = folder(tmp_path / "clip", [1, 2, 3])
    (tmp_path / "t.csv").write_text(f'id,clip\n1,"{clip.name}#t=0,0.2"\n2,{clip.name}\n3,{pictures.name}\n4,gone\n')
    modality = Modality("clip", ("clip",), "video")
    found = facts_of(read_table(tmp_path / "t.csv"), {"clip": modality}, workers=0, show=False)["clip"]
    assert [one.get("frames") for one in found.measures] == [6, 20, 3, None]
    assert found.measures[0]["seconds"] == pytest.approx(0.24)
    assert len(set(found.contents)) == 4
    assert "no such file" in found.errors[3]
