from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polymodal.data.inputs import Input, input_from_state, make_input
from polymodal.data.inputs.moments import Moments
from polymodal.data.inputs.padding import blank, pad_sequences, trim
from polymodal.data.media.filter_bank import kaldi_fbank
from polymodal.data.media.sound import read_wave
from polymodal.data.schema import Modality
from polymodal.errors import InputError
from polymodal.types import Padded
from tests.data.collated import collated
from tests.data.files import numbered_frames, write_clip, write_image, write_sound

RNG = np.random.default_rng(0)
HERE = Path()


def fitted(kind: str, rows: list[tuple[Any, ...]], root: Path = HERE, columns: int = 1, **options: Any) -> Input:
    one = make_input(Modality("m", tuple(f"c{i}" for i in range(columns)), kind), **options)
    one.probe(rows, root)
    one.fit([one.decode(row, root) for row in rows if row[0] is not None])
    return one


def batch(one: Input, rows: list[tuple[Any, ...]], root: Path = HERE) -> Any:
    return collated(one, [one.decode(row, root) for row in rows])


def assert_restores(one: Input, rows: list[tuple[Any, ...]], root: Path = HERE) -> None:
    other = input_from_state(json.loads(json.dumps(one.state())))
    assert other.shape == one.shape
    ours, theirs = batch(one, rows, root), batch(other, rows, root)
    for a, b in zip(*((x if isinstance(x, Padded) else (x,)) for x in (ours, theirs)), strict=True):
        assert torch.equal(a, b)


def test_images(tmp_path):
    for i, size in enumerate([(30, 40), (30, 40), (60, 80)]):
        write_image(tmp_path / f"{i}.png", RNG.integers(0, 256, (*size, 3), dtype=np.uint8))
    rows: list[tuple[Any, ...]] = [("0.png",), (" 1.png",), ("2.png",), (None,)]
    one = fitted("image", rows, tmp_path)
    assert one.shape == (3, 30, 40)
    values = batch(one, rows, tmp_path)
    assert values.shape == (4, 3, 30, 40)
    torch.testing.assert_close(values[:3].mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(values[:3].std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert values[3].abs().max() == 0
    assert_restores(one, rows, tmp_path)
    small = fitted("image", rows, tmp_path, image_size=20, channels=1, standardize=False)
    assert small.shape == (1, 15, 20)
    assert 0 <= float(batch(small, rows, tmp_path).min()) <= float(batch(small, rows, tmp_path).max()) <= 1
    given = fitted("image", rows, tmp_path, height=10, width=10, mean=[0.5] * 3, std=[0.5] * 3)
    assert -1 <= float(batch(given, rows, tmp_path).min()) < -0.2


def test_grey_images_have_one_channel(tmp_path):
    write_image(tmp_path / "a.png", RNG.integers(0, 256, (8, 8), dtype=np.uint8))
    assert fitted("image", [("a.png",)], tmp_path).shape == (1, 8, 8)


def test_clips(tmp_path):
    write_clip(tmp_path / "a.mkv", numbered_frames(6))
    write_clip(tmp_path / "b.mkv", numbered_frames(3))
    write_clip(tmp_path / "c.mkv", numbered_frames(8))
    rows: list[tuple[Any, ...]] = [("a.mkv",), ("b.mkv",), ("c.mkv",)]
    one = fitted("video", rows, tmp_path)
    assert one.shape == (6, 1, 32, 48)
    values = batch(one, rows, tmp_path)
    assert values.shape == (3, 6, 1, 32, 48)
    torch.testing.assert_close(values[1, 2:], values[1, 2:3].expand(4, 1, 32, 48))
    assert values.mean().abs() < 1e-5
    assert fitted("video", rows, tmp_path, frames=2).shape == (2, 1, 32, 48)
    assert_restores(one, rows, tmp_path)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (1, 40, 31)),
        ({"representation": "log_magnitude"}, (1, 257, 7)),
        ({"representation": "waveform"}, (1, 2400)),
    ],
)
def test_sounds(tmp_path, options, shape):
    for i, seconds in enumerate([0.3, 0.1, 0.3]):
        write_sound(tmp_path / f"{i}.wav", seconds, pitch=400 + 100 * i)
    rows: list[tuple[Any, ...]] = [("0.wav",), ("1.wav",), ("2.wav",), (None,)]
    one = fitted("audio", rows, tmp_path, **options)
    assert one.shape == shape
    values, mask = batch(one, rows, tmp_path)
    assert values.shape == (4, *shape)
    assert mask.shape == (4, shape[-1])
    lengths = mask.sum(1).tolist()
    assert lengths[0] == lengths[2] == shape[-1] > lengths[1] > lengths[3] == 1
    assert values[1, ..., lengths[1] :].abs().max() == 0
    assert values[3].abs().max() == 0
    real = torch.cat([values[i, 0, ..., : lengths[i]].reshape(-1, lengths[i]) for i in range(3)], dim=1)
    torch.testing.assert_close(real.mean(1), torch.zeros(len(real)), atol=1e-3, rtol=0)
    assert_restores(one, rows, tmp_path)


def test_long_sounds_are_cut_and_rates_capped(tmp_path):
    write_sound(tmp_path / "a.wav", 0.5, rate=44100)
    one = fitted("audio", [("a.wav",)], tmp_path, max_seconds=0.25)
    assert one.state()["sample_rate"] == 16000
    assert one.shape == (1, 64, 26)
    assert batch(one, [("a.wav",)], tmp_path).mask.all()


def test_clips_of_sounds(tmp_path):
    for i, seconds in enumerate([0.5, 0.1, 0.3]):
        write_sound(tmp_path / f"{i}.wav", seconds, pitch=400 + 100 * i)
    rows: list[tuple[Any, ...]] = [("0.wav",), ("1.wav",), ("2.wav",), (None,)]
    options: dict[str, Any] = {"representation": "kaldi_clips", "clips": 2, "clip_seconds": 0.2, "clip_frames": 20}
    one = fitted("audio", rows, tmp_path, sample_rate=16000, mean=[-4.268], std=[9.138], **options)
    assert one.shape == (2, 1, 128, 20)
    values = batch(one, rows, tmp_path)
    assert values.shape == (4, 2, 1, 128, 20)
    wave = torch.from_numpy(read_wave(tmp_path / "0.wav", 16000))
    last = wave[-3200:]
    expected = (kaldi_fbank(last - last.mean()) + 4.268) / 9.138
    torch.testing.assert_close(values[0, 1, 0, :, :18], expected, atol=1e-4, rtol=0)
    # Zeros stand behind the frames before they are standardised, ...
    torch.testing.assert_close(values[0, ..., 18:], torch.full((2, 1, 128, 2), 4.268 / 9.138))
    # ... and a sample without sound is zero.
    assert values[3].abs().max() == 0
    assert_restores(one, rows, tmp_path)
    learned = fitted("audio", rows, tmp_path, **options, n_mels=16)
    values = batch(learned, rows[:3], tmp_path)
    torch.testing.assert_close(values.mean((0, 1, 2, 4)), torch.zeros(16), atol=1e-3, rtol=0)
    torch.testing.assert_close(values.std((0, 1, 2, 4), correction=0), torch.ones(16), atol=1e-3, rtol=0)


def test_texts():
    rows: list[tuple[Any, ...]] = [("one two",), ("",), (None,), ("a",)]
    one = fitted("text", rows, buckets=100, ngrams=[3])
    values, mask = batch(one, rows)
    assert one.shape == (100,)
    assert values.dtype == torch.int64
    assert mask.sum(1).tolist() == [8, 1, 1, 1]
    assert values.shape == (4, 8)
    assert (values[~mask] == 0).all()
    assert batch(one, rows[1:]).values.shape == (3, 1)
    assert batch(fitted("text", rows, max_tokens=3), rows).values.shape == (4, 3)
    assert_restores(one, rows)


def test_numbers():
    rows: list[tuple[Any, ...]] = [("1", 2000.0), ("2", 2001.0), ("NA", 2002.0), ("9", 2003.0)]
    one = fitted("numeric", rows, columns=2)
    assert one.shape == (3,)
    values = batch(one, rows)
    column = np.array([1, 2, 2, 9])
    np.testing.assert_allclose(values[:, 0], (column - column.mean()) / column.std(), rtol=1e-6)
    np.testing.assert_allclose(values[:, 1], (np.arange(4) - 1.5) / np.arange(4).std(), rtol=1e-6)
    assert values[:, 2].tolist() == [0, 0, 1, 0]
    assert torch.equal(batch(one, [(None, None)]), batch(one, [(None, 2001.5)]))
    with pytest.raises(InputError, match="column 'c1': 'x' is no finite number"):
        one.decode((1, "x"), HERE)
    assert_restores(one, rows)


def test_categories():
    rows: list[tuple[Any, ...]] = [("b", "x"), ("a", None), ("b", "y")]
    one = fitted("categorical", rows, columns=2)
    assert one.shape == (6,)
    assert batch(one, [("a", "y"), ("new", None)]).tolist() == [[0, 1, 0, 0, 0, 1], [1, 0, 0, 1, 0, 0]]
    assert_restores(one, rows)


def test_vectors():
    rows: list[tuple[Any, ...]] = [([1, 2],), (np.array([3.0, 4.0]),), (None,)]
    one = fitted("vector", rows)
    assert one.shape == (2,)
    assert batch(one, rows).tolist() == [[-1, -1], [1, 1], [0, 0]]
    for cell, message in [
        ([1], "shape"),
        ([1, float("nan")], "NaN or infinite at place 1"),
        (["a", "b"], "other things"),
    ]:
        with pytest.raises(InputError, match=message):
            one.decode((cell,), HERE)
    assert_restores(one, rows)


def test_sequences_of_vectors():
    rows: list[tuple[Any, ...]] = [([[1, 1, 1], [3, 3, 3]],), (np.array([np.full(3, 5.0)], dtype=object),), ([],)]
    one = fitted("vector", rows[:2])
    assert one.shape == (2, 3)
    values, mask = batch(one, rows[:2])
    assert values.shape == (2, 2, 3)
    assert mask.tolist() == [[True, True], [True, False]]
    assert values[1, 1].abs().max() == 0
    assert batch(one, [([[1, 1, 1]] * 5,)]).values.shape == (1, 2, 3)
    with pytest.raises(InputError, match="expected lists of 3 numbers"):
        one.decode(([1, 2, 3],), HERE)
    assert_restores(one, rows[:2])


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("image", {"image_siz": 3}, "unknown option 'image_siz'; did you mean 'image_size'"),
        ("image", {"image_size": 0}, "image_size is 0, expected a positive whole number"),
        ("image", {"height": 3}, "height and width together"),
        ("image", {"channels": 2}, "1 or 3"),
        ("video", {"frames": "8"}, "frames is '8'"),
        ("audio", {"representation": "mfcc"}, "one of log_mel"),
        ("audio", {"max_seconds": -1}, "a positive number"),
        ("audio", {"mel_scale": "bark"}, "slaney or htk"),
        ("audio", {"clips": 0}, "clips is 0, expected a positive whole number"),
        ("text", {"buckets": 1}, "at least 2"),
        ("vector", {"length": -1}, "0 or a positive"),
    ],
)
def test_bad_options(kind, options, message):
    with pytest.raises(InputError, match=message):
        make_input(Modality("m", ("c",), kind), **options)


def test_no_readable_training_file_tells_what_is_wrong(tmp_path):
    (tmp_path / "a.x").write_text("no media")
    for kind in ("image", "video", "audio"):
        one = make_input(Modality("m", ("c",), kind))
        one.probe([("a.x",), ("b.x",)], tmp_path)
        with pytest.raises(InputError, match=f"a.x: not a readable {kind}"):
            one.decode(("a.x",), tmp_path)
        with pytest.raises(InputError, match="no training sample has a readable cell"):
            _ = one.shape


def test_moments_merge():
    values = RNG.normal(1e6, 1, (1000, 3))
    moments = Moments()
    for part in np.split(values, [1, 10, 10, 700]):
        moments.update(part)
    mean, std = moments.result()
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(0), rtol=1e-9)
    constant = Moments()
    constant.update(np.full((5, 1), 0.1, np.float32))
    assert constant.result()[1] == [1.0]


def test_padding():
    padded = pad_sequences([np.ones((3, 2), np.float32), np.zeros((0, 2), np.float32)], 5)
    assert padded.values.shape == (2, 5, 2)
    assert padded.mask.sum(1).tolist() == [3, 1]
    assert trim(padded).values.shape == (2, 3, 2)
    blanked = blank(trim(padded), torch.tensor([False, True]))
    assert blanked[0].abs().max() == 0
    assert blanked[1].sum(1).tolist() == [1, 1]
