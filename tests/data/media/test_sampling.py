"""Which frames of a clip are taken, as numbers and as pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polymodal.data.media.sampling import SAMPLINGS, at_rate, pick_frames, sample_frames, segment_frames
from polymodal.data.media.video import read_frames
from polymodal.errors import InputError
from tests.data.files import numbered_frames, write_clip, write_image


@given(st.integers(1, 60), st.integers(1, 12), st.sampled_from(SAMPLINGS), st.booleans())
def test_frames_are_of_the_clip_in_order_and_different(total: int, wanted: int, sampling: str, training: bool) -> None:
    found = pick_frames(total, wanted, sampling, np.random.default_rng(0) if training else None)
    assert found.shape == (wanted,)
    steps = np.diff(found)
    assert (found >= 0).all()
    assert (found < total).all()
    if total >= wanted:
        assert (steps > 0).all()
    else:
        assert found.tolist() == [*range(total), *[total - 1] * (wanted - total)]


def test_segments() -> None:
    """Numbers of METHODS 5.3, from 0."""
    assert segment_frames(6, 3).tolist() == [0, 2, 4]
    assert segment_frames(10, 3).tolist() == [0, 3, 6]
    random = np.random.default_rng(0)
    drawn = np.stack([segment_frames(10, 3, random) for _ in range(3000)])
    assert drawn.min(0).tolist() == [0, 3, 6]
    assert drawn.max(0).tolist() == [2, 5, 8]
    counts = np.bincount(drawn[:, 1] - 3)
    assert np.abs(counts / 3000 - 1 / 3).max() < 0.03
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.05  # each segment by itself


def test_random_frames_take_every_frame_alike() -> None:
    random = np.random.default_rng(0)
    drawn = np.concatenate([pick_frames(8, 3, "random", random) for _ in range(4000)])
    assert np.abs(np.bincount(drawn, minlength=8) / 4000 - 3 / 8).max() < 0.03
    assert pick_frames(8, 3, "random").tolist() == sample_frames(8, 3).tolist()


def test_first_and_even() -> None:
    assert pick_frames(9, 3, "first").tolist() == [0, 1, 2]
    assert pick_frames(9, 3, "even", np.random.default_rng(0)).tolist() == [1, 4, 7]


@pytest.mark.parametrize(
    ("inside", "rate", "fps", "kept"),
    [
        (range(85), 30, 1, [0, 30, 60]),
        (range(85), 29.97, 1, [0, 29, 58]),  # int(29.97), as the authors' scripts round
        (range(10, 85), 25, 1, [25, 50, 75]),
        (range(20), 25, 5, [0, 5, 10, 15]),
        (range(4), 2, 9, [0, 1, 2, 3]),
    ],
)
def test_frames_at_a_rate(inside: range, rate: float, fps: float, kept: list[int]) -> None:
    assert list(at_rate(inside, rate, fps)) == kept


def test_pictures_of_a_clip_at_a_rate(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mkv", numbered_frames(20))  # 25 a second, of brightness 10, 20, ...
    first = partial(pick_frames, sampling="first")

    def numbers(path: Path, frames: int, fps: float | None) -> list[int]:
        return [int(one) // 10 - 1 for one in read_frames(path, frames, channels=1, pick=first, fps=fps)[:, 0, 0, 0]]

    assert numbers(clip, 3, 5) == [0, 5, 10]
    assert numbers(Path(f"{clip}#t=0.24,0.8"), 2, 5) == [10, 15]
    assert numbers(clip, 6, 5) == [0, 5, 10, 15, 15, 15]
    assert numbers(clip, 3, None) == [0, 1, 2]
    with pytest.raises(InputError, match=r"too short to hold a frame at 1 a second"):
        numbers(Path(f"{clip}#t=0.24,0.8"), 2, 1)


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    for i in range(6):
        write_image(tmp_path / f"{i}.png", np.full((4, 4 + i, 1), 40 * i, np.uint8)[..., 0])
    found = read_frames(tmp_path, 3, None, 1, pick=segment_frames, fps=1)
    assert found.shape == (3, 4, 4, 1)  # of the first one's size
    assert found[:, 0, 0, 0].tolist() == [0, 80, 160]
