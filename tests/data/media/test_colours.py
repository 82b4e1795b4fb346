"""Colours and blur against torchvision's, which the published loaders use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as reference

from polymodal.data.media.colours import Shift, blurred, distorted, draw_shift, shifted

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 24, 30, 3), dtype=np.uint8)
ADJUST = {
    "brightness": reference.adjust_brightness,
    "contrast": reference.adjust_contrast,
    "saturation": reference.adjust_saturation,
    "hue": reference.adjust_hue,
}


@pytest.mark.parametrize(
    "step", [("brightness", 1.3), ("contrast", 0.6), ("saturation", 1.4), ("hue", -0.1), ("hue", 0.08)]
)
def test_each_step_is_torchvisions(step: tuple[str, float]) -> None:
    name, value = step
    expected = ADJUST[name](Image.fromarray(PICTURES[0]), value)
    assert np.array_equal(shifted(PICTURES[0], Shift((step,), False)), np.asarray(expected))


def test_steps_follow_one_another_and_grey_comes_last() -> None:
    steps = (("hue", 0.05), ("brightness", 1.2))
    image = reference.adjust_brightness(reference.adjust_hue(Image.fromarray(PICTURES[0]), 0.05), 1.2)
    found = shifted(PICTURES[0], Shift(steps, True))
    assert np.array_equal(found, np.asarray(reference.to_grayscale(image, 3)))


def test_draws_are_those_of_the_paper() -> None:
    random = np.random.default_rng(0)
    drawn = [draw_shift(0.5, random) for _ in range(2000)]
    shifts = [dict(one.steps) for one in drawn if one.steps]
    assert len(shifts) / 2000 == pytest.approx(0.8, abs=0.03)
    assert np.mean([one.grey for one in drawn]) == pytest.approx(0.2, abs=0.03)
    for name, low, high in (*((one, 0.6, 1.4) for one in ("brightness", "contrast", "saturation")), ("hue", -0.1, 0.1)):
        values = np.array([one[name] for one in shifts])
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
    assert len({tuple(one) for one in shifts}) == 24  # every order of the four


def test_pictures_of_a_clip_change_alike() -> None:
    same = np.repeat(PICTURES[:1], 3, 0)
    found = distorted(same, 1.0, np.random.default_rng(1))
    assert (found == found[:1]).all()
    assert not np.array_equal(found, same)
    assert np.array_equal(found, distorted(same, 1.0, np.random.default_rng(1)))


@pytest.mark.parametrize("sigma", [0.1, 1.0, 2.0])
def test_blur_is_torchvisions(sigma: float) -> None:
    images = torch.from_numpy(PICTURES).movedim(-1, 1)
    expected = reference.gaussian_blur(images, [21, 21], [sigma, sigma]).movedim(1, -1).numpy()
    found = blurred(PICTURES, 21, sigma)
    assert np.abs(found.astype(int) - expected).max() <= 1  # sums in another order, rounded
    assert (found == expected).mean() > 0.99
