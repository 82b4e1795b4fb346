"""Pictures and dense optical flow of a clip, by OpenCV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.data.media.video import each_frame
from polymodal.datasets.extract import write_jpeg
from polymodal.errors import InputError

__all__ = ["flow", "opencv", "pictures", "to_bytes"]

EDGE = 256
BOUND = 20.0
NAME = "frame{:06d}.jpg"


def opencv() -> Any:
    """OpenCV, with one thread: clips run side by side, and results do not depend on how many.

    Raises:
        InputError: it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise InputError("flow and faces need OpenCV: pip install 'polymodal[vision]'") from None
    cv2.setNumThreads(1)
    return cv2


def pictures(source: Path, target: Path) -> None:
    """A folder with every frame, `frame000001.jpg`, the shorter side scaled to 256 pixels."""
    target.mkdir()
    cv2 = opencv()
    for index, pixels in each_frame(source):
        write_jpeg(target / NAME.format(index + 1), _scaled(cv2, pixels))


def flow(source: Path, target: Path) -> None:
    """Folders `u` and `v` with the flow from every frame to the next, `frame000001.jpg`, grey; see `to_bytes`.

    Inverse search for displacements, OpenCV's preset "medium", between grey pictures whose shorter side is 256 pixels.

    Source: Kroeger et al. 2016 (DIS).
    *Differs from the authors' code:* Feichtenhofer et al. 2016 distribute TV-L1 flow, which OpenCV's packages leave out; the
    bound of 20 pixels and the form of the files are theirs. A clip has one flow fewer than it has frames.
    """
    cv2 = opencv()
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    before: Any = None
    for axis in ("u", "v"):
        (target / axis).mkdir(parents=True)
    for index, pixels in each_frame(source):
        grey = cv2.cvtColor(_scaled(cv2, pixels), cv2.COLOR_RGB2GRAY)
        if before is not None:
            moved = to_bytes(search.calc(before, grey, None))
            for place, axis in enumerate(("u", "v")):
                write_jpeg(target / axis / NAME.format(index), np.ascontiguousarray(moved[..., place]))
        before = grey
    if not any((target / "u").iterdir()):
        raise InputError(f"{source}: flow needs two frames, and the clip has one")


def to_bytes(moved: NDArray[np.float32], bound: float = BOUND) -> NDArray[np.uint8]:
    """Pixels moved, from -`bound` to `bound`, as 0 to 255; what lies beyond is cut off and 0 becomes 128.

    Example:
        >>> to_bytes(np.array([-30.0, -20.0, 0.0, 10.0, 20.0], np.float32)).tolist()
        [0, 0, 128, 191, 255]
    """
    scaled = (moved.clip(-bound, bound) + bound) * (255 / (2 * bound))
    return np.floor(scaled + 0.5).astype(np.uint8)


def _scaled(cv2: Any, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    scale = EDGE / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled: NDArray[np.uint8] = pixels if scale == 1 else cv2.resize(pixels, size, interpolation=how)
    return scaled
