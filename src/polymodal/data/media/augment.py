"""Pictures and spectrograms changed at random: pure functions of arrays and a generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from polymodal.data.media.frames import flip

__all__ = ["Box", "crop_box", "crop_flip", "mask_spectrogram", "resized_crop"]

RATIOS = (3 / 4, 4 / 3)


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def crop_box(height: int, width: int, scale: Sequence[float], random: np.random.Generator) -> Box:
    """A box of a share of the picture's area uniform in `scale`, of a ratio width : height log-uniform in [3/4, 4/3].

    A box that does not fit is drawn again, at most ten times; then the largest in the middle whose ratio is allowed is taken.

    Source: Szegedy et al. 2015, section 6, as torchvision's RandomResizedCrop draws it.
    """
    for _ in range(10):
        area = height * width * random.uniform(scale[0], scale[1])
        ratio = math.exp(random.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Box(int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w)
    h, w = min(height, round(width / RATIOS[0])), min(width, round(height * RATIOS[1]))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def resized_crop(pictures: NDArray[np.uint8], box: Box, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The part `box` of each of the pictures (T, H, W, C), stretched to `size` = (height, width): (T, height, width, C)."""
    top, left, height, width = box
    cut = pictures[:, top : top + height, left : left + width]
    if cut.shape[1:3] == size:
        return cut.copy()
    out = np.empty((len(cut), *size, cut.shape[3]), np.uint8)
    for picture, target in zip(cut, out, strict=True):
        # A plane at a time where the planes are no colours: Pillow would weigh one by the other.
        planes = [...] if picture.shape[2] == 3 else [(..., c) for c in range(picture.shape[2])]
        for plane in planes:
            image = Image.fromarray(np.ascontiguousarray(picture[plane]))
            target[plane] = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))
    return out


def crop_flip(
    pictures: NDArray[np.uint8],
    size: tuple[int, int],
    scale: Sequence[float] | None,
    random: np.random.Generator,
    *,
    flow: bool = False,
) -> NDArray[np.uint8]:
    """Pictures (T, H, W, C) cut by one box and mirrored together in half of the cases: (T, height, width, C).

    Args:
        pictures: of one clip.
        size: (height, width) in pixels.
        scale: least and largest share of the area; None leaves the pictures whole, which must be of that size.
        random: generator of the draws.
        flow: whether the first two planes are u and v, of which u changes its sign in a mirror (`frames.flip`).
    """
    if scale is not None:
        box = crop_box(pictures.shape[1], pictures.shape[2], scale, random)
        pictures = resized_crop(pictures, box, size)
    return flip(pictures, flow=flow) if random.random() < 0.5 else pictures


def mask_spectrogram(
    values: NDArray[np.float32], bins: int, frames: int, fill: NDArray[np.float32], random: np.random.Generator
) -> NDArray[np.float32]:
    """A copy of (F, T) with f neighbouring bins and t neighbouring frames replaced by `fill`.

    f is uniform in 0 .. bins, t in 0 .. frames, and where they lie is uniform.

    Args:
        values: the spectrogram.
        bins, frames: largest numbers of bins and frames that are masked, at most F and T of them.
        fill: (F, 1) or a single number.
        random: generator of the draws.

    Source: Park et al. 2019 (SpecAugment), section 2, one mask of each kind, without time warping.
    """
    masked = values.copy()
    fill = np.broadcast_to(np.asarray(fill, values.dtype), (len(values), 1))
    for axis, largest in ((0, bins), (1, frames)):
        size = int(random.integers(min(largest, values.shape[axis]) + 1))
        start = int(random.integers(values.shape[axis] - size + 1))
        part = slice(start, start + size)
        if axis == 0:
            masked[part] = fill[part]
        else:
            masked[:, part] = fill
    return masked
