"""Crops and mirrors against torchvision's, and masks of spectrograms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as reference

from polymodal.data.media.augment import Box, crop_box, crop_flip, mask_spectrogram, resized_crop

SCALE = (0.08, 1.0)


def pictures(count: int = 2, height: int = 20, width: int = 30, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (64, 64), (30, 200)])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    ours = np.array([crop_box(height, width, SCALE, random) for _ in range(3000)], float)
    image = torch.zeros(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(SCALE), [3 / 4, 4 / 3]) for _ in range(3000)], float)
    for column in range(4):
        a, b = np.sort(ours[:, column]), np.sort(theirs[:, column])
        distance = np.abs(np.searchsorted(a, np.r_[a, b], "right") - np.searchsorted(b, np.r_[a, b], "right")).max()
        assert distance / 3000 < 0.05  # Kolmogorov and Smirnov: .05 is p = .001
    assert (ours[:, :2] + ours[:, 2:] <= [height, width]).all()


def test_boxes_that_never_fit_fall_back_to_the_middle() -> None:
    random = np.random.default_rng(0)
    assert crop_box(10, 100, (1.0, 1.0), random) == Box(0, 43, 10, 13)
    assert crop_box(100, 10, (1.0, 1.0), random) == Box(43, 0, 13, 10)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_are_resized_as_torchvision_resizes_pictures(channels: int) -> None:
    given = pictures(channels=channels)
    box = Box(3, 5, 11, 17)
    found = resized_crop(given, box, (8, 9))
    for picture, ours in zip(given, found, strict=True):
        image = Image.fromarray(picture if channels == 3 else picture[..., 0])
        expected = np.asarray(reference.resized_crop(image, *box, [8, 9], InterpolationMode.BILINEAR))
        assert np.array_equal(ours.squeeze(), expected)


def test_planes_of_a_flow_do_not_mix() -> None:
    given = pictures(channels=2)
    both = resized_crop(given, Box(1, 2, 15, 20), (8, 8))
    for plane in (0, 1):
        alone = resized_crop(given[..., [plane]], Box(1, 2, 15, 20), (8, 8))
        assert np.array_equal(both[..., [plane]], alone)


def test_a_clip_is_mirrored_as_a_whole_in_half_of_the_cases() -> None:
    given = pictures(3, 4, 6, 2)
    random = np.random.default_rng(0)
    mirrored = 0
    for _ in range(400):
        found = crop_flip(given, (4, 6), None, random, flow=True)
        if not np.array_equal(found, given):
            mirrored += 1
            assert np.array_equal(found[..., 1], given[..., ::-1, 1])
            assert np.array_equal(found[..., 0], 255 - given[..., ::-1, 0])
    assert abs(mirrored - 200) < 40


def test_the_frames_of_a_clip_are_cut_alike() -> None:
    given = np.repeat(pictures(1), 4, 0)
    random = np.random.default_rng(1)
    for _ in range(20):
        found = crop_flip(given, (8, 8), SCALE, random)
        assert found.shape == (4, 8, 8, 3)
        assert (found == found[:1]).all()


def test_masks_hold_the_fill_and_are_uniform() -> None:
    values = np.arange(1.0, 8 * 20 + 1, dtype=np.float32).reshape(8, 20)
    fill = -np.arange(8, dtype=np.float32)[:, None]
    random = np.random.default_rng(0)
    bins, frames = [], []
    for _ in range(2000):
        found = mask_spectrogram(values, 3, 5, fill, random)
        gone = found != values
        assert np.array_equal(found[gone], np.broadcast_to(fill, (8, 20))[gone])
        rows, columns = gone.all(1), gone.all(0)
        assert (gone == (rows[:, None] | columns)).all()
        assert np.abs(np.diff(np.flatnonzero(rows))).max(initial=1) == 1  # neighbours
        bins.append(int(rows.sum()))
        frames.append(int(columns.sum()))
    assert np.abs(np.bincount(bins) / 2000 - 1 / 4).max() < 0.04
    assert np.abs(np.bincount(frames) / 2000 - 1 / 6).max() < 0.04
    assert values[0, 0] == 1  # what was given is as it was


def test_masks_of_short_sounds_fit() -> None:
    values = np.ones((2, 1), np.float32)
    for seed in range(20):
        found = mask_spectrogram(values, 50, 50, np.zeros(1, np.float32), np.random.default_rng(seed))
        assert found.shape == (2, 1)
    assert mask_spectrogram(values[:, :0], 1, 1, np.zeros(1, np.float32), np.random.default_rng(0)).shape == (2, 0)
