"""Decoding one picture file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import (
    Image,
    ImageOps,
    TiffImagePlugin,  # noqa: F401 - formats that Pillow knows only when they are imported
    WebPImagePlugin,  # noqa: F401
)

from polymodal.data.media.files import check_file
from polymodal.errors import InputError

__all__ = ["ImageInfo", "fit_size", "probe_image", "read_image"]

FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow tells formats by content, and some of the others run programs or read further files."""
MAX_PIXELS, MAX_TRANSPARENT = 50_000_000, 35_000_000
"""A picture of more is refused by its header, before any memory is taken; laying one on white takes half as much again."""
STRIP = 1024
GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "F"}


class ImageInfo(NamedTuple):
    """What a model has to know before it is built: height and width in pixels, and whether there is any colour."""

    height: int
    width: int
    grey: bool


def read_image(
    path: Path, size: tuple[int, int] | None = None, channels: int = 3, shorter: int | None = None
) -> NDArray[np.uint8]:
    """(H, W, C) uint8 picture, upright (EXIF), transparency laid on white, resized to `size` = (H, W) pixels.

    Args:
        path: any file that Pillow reads; of an animation the first picture is taken.
        size: (height, width) in pixels; the picture is stretched to it. None keeps its own size.
        channels: 1 for grey, 3 for RGB.
        shorter: pixels that the shorter side is scaled to, after which the middle of `size` is cut out, which must fit in;
            nothing is stretched then.

    Raises:
        InputError: the file is missing, empty, truncated, too large or not a picture.
    """
    picture = _in_mode(_open(path), "L" if channels == 1 else "RGB")
    if size is not None and shorter is not None:
        picture = _middle(_scaled(picture, _shorter_to(picture.size, shorter)), size)
    elif size is not None:
        picture = _scaled(picture, (size[1], size[0]))
    pixels = np.array(picture, dtype=np.uint8)
    return pixels[:, :, None] if channels == 1 else pixels


def probe_image(path: Path) -> ImageInfo:
    """Size and colour of a picture; it is grey if all its pixels are, whatever its file says."""
    picture = _open(path)
    grey = picture.mode in GREY_MODES or all(_is_grey(strip) for _, strip in _strips(picture))
    return ImageInfo(picture.height, picture.width, grey)


def fit_size(heights: list[int], widths: list[int], longest: int) -> tuple[int, int]:
    """Median height and width, scaled down together where the longer one exceeds `longest` pixels."""
    height, width = float(np.median(heights)), float(np.median(widths))
    scale = min(1.0, longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _scaled(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Stretched to `size` = (width, height)."""
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)


def _shorter_to(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """(width, height) of the same ratio whose smaller number is `edge`, the larger one rounded down as torchvision does."""
    width, height = size
    return (edge, edge * height // width) if width <= height else (edge * width // height, edge)


def _middle(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle `size` = (height, width)."""
    top, left = round((picture.height - size[0]) / 2), round((picture.width - size[1]) / 2)
    return picture.crop((left, top, left + size[1], top + size[0]))


def _open(path: Path) -> Image.Image:
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged metadata that no pixel depends on
            with Image.open(path, formats=FORMATS) as opened:
                picture: Image.Image = opened
                most = MAX_TRANSPARENT if picture.has_transparency_data else MAX_PIXELS
                if picture.width * picture.height > most:
                    size = f"{picture.width} x {picture.height} pixels"
                    raise InputError(f"{path}: {size}, more than {most:,} in all; scale the picture down")
                picture.load()
                ImageOps.exif_transpose(picture, in_place=True)
    except InputError:
        raise
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error on a damaged file
        raise InputError(f"{path}: not a readable image, or truncated ({str(error)[:120]})") from None
    if picture.mode.startswith("I;16") or picture.mode == "I":
        # Pillow's own conversion clips 16-bit values at 255, which leaves a white picture.
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
    if picture.has_transparency_data:
        picture = _on_white(picture)
    return picture


def _strips(picture: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Pieces from above with the row that each begins at: a large picture is then held twice at most, and not five times."""
    for top in range(0, picture.height, STRIP):
        yield top, picture.crop((0, top, picture.width, min(top + STRIP, picture.height)))


def _on_white(picture: Image.Image) -> Image.Image:
    whole = Image.new("RGB", picture.size)
    for top, strip in _strips(picture):
        strip = strip.convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        whole.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return whole


def _is_grey(picture: Image.Image) -> bool:
    pixels = np.asarray(_in_mode(picture, "RGB"))
    return bool((pixels == pixels[:, :, :1]).all())


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    """Converted, without the copy that Pillow makes of what is in that mode already."""
    return picture if picture.mode == mode else picture.convert(mode)
