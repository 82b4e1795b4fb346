"""Colours shifted and pictures blurred at random: pure functions of arrays and a generator."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

__all__ = ["SIGMAS", "Shift", "blurred", "distorted", "draw_shift", "shifted"]

STEPS = ("brightness", "contrast", "saturation", "hue")
SIGMAS = (0.1, 2.0)
"""Least and largest deviation of a random blur, in pixels."""
ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


class Shift(NamedTuple):
    """What is done to the colours of a picture: `steps` in order, by name, and whether it is made `grey` in the end.

    Values are factors, of the hue a share of the circle in [-0.5, 0.5] that it is turned by.
    """

    steps: tuple[tuple[str, float], ...]
    grey: bool


def draw_shift(strength: float, random: np.random.Generator) -> Shift:
    """Colour distortion of strength s: in 8 of 10 cases a shift, then in 2 of 10 no colour at all.

    Brightness, contrast and saturation are scaled by factors uniform in [1 - 0.8 s, 1 + 0.8 s], never below 0, and the hue is
    turned by a share of the circle uniform in [-0.2 s, 0.2 s], one after the other in random order.

    Source: Chen et al. 2020 (SimCLR), appendix A.
    """
    steps: list[tuple[str, float]] = []
    if random.random() < 0.8:
        for i in random.permutation(len(STEPS)):
            low, high = max(0.0, 1 - 0.8 * strength), 1 + 0.8 * strength
            if STEPS[i] == "hue":
                low, high = -0.2 * strength, 0.2 * strength
            steps.append((STEPS[i], float(random.uniform(low, high))))
    return Shift(tuple(steps), bool(random.random() < 0.2))


def shifted(picture: NDArray[np.uint8], shift: Shift) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with other colours, as torchvision computes them on Pillow's pictures."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    for name, value in shift.steps:
        if name == "hue":
            hue, *others = image.convert("HSV").split()
            turned = np.asarray(hue) + np.uint8(
                int(value * 255) % 256
            )  # the circle has 256 parts, and numbers wrap round
            image = Image.merge("HSV", (Image.fromarray(turned), *others)).convert("RGB")
        else:
            image = ENHANCERS[name](image).enhance(value)
    return np.asarray(image.convert("L").convert("RGB") if shift.grey else image)


def distorted(pictures: NDArray[np.uint8], strength: float, random: np.random.Generator) -> NDArray[np.uint8]:
    """Pictures (T, H, W, 3) of one clip, whose colours are shifted alike."""
    shift = draw_shift(strength, random)
    return np.stack([shifted(one, shift) for one in pictures])


def blurred(pictures: NDArray[np.uint8], size: int, sigma: float) -> NDArray[np.uint8]:
    """Pictures (T, H, W, C) under a Gaussian of deviation `sigma` pixels that is cut to `size` of them, borders mirrored."""
    offsets = np.arange(size) - (size - 1) / 2
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    values = pictures.astype(np.float32)
    for axis in (1, 2):
        length, half = values.shape[axis], size // 2
        edges = [(half, half) if i == axis else (0, 0) for i in range(4)]
        padded = np.moveaxis(np.pad(values, edges, mode="reflect"), axis, 0)
        summed = sum(weight * padded[i : i + length] for i, weight in enumerate(weights))
        values = np.moveaxis(np.asarray(summed, np.float32), 0, axis)
    return values.round().clip(0, 255).astype(np.uint8)
