"""Clips that are folders of numbered pictures, and optical flow as a pair of such folders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymodal.data.media.files import EXTENSIONS, PAIR, places
from polymodal.data.media.image import ImageInfo, probe_image, read_image
from polymodal.errors import InputError

__all__ = ["Frames", "find_frames", "flip", "read_pictures"]


class Frames(NamedTuple):
    """The pictures of a clip in order: (T) files, or (T) pairs of files where the clip is a flow."""

    files: list[tuple[Path, ...]]
    flow: bool

    def probe(self) -> ImageInfo:
        """Size and colour of the first picture."""
        return probe_image(self.files[0][0])


def find_frames(path: Path) -> Frames | None:
    """The pictures of a folder, ordered by the number in their names; None where `path` is no folder.

    Args:
        path: a folder of pictures, or "FLOW/{u,v}/CLIP" (braces and all), which stands for the folders FLOW/u/CLIP and
            FLOW/v/CLIP of horizontal and vertical flow.

    Raises:
        InputError: a folder without pictures, one of a pair that is not there, or pairs that do not agree.
    """
    folders = places(path)
    flow = PAIR in str(path)
    if not flow and not folders[0].is_dir():
        return None
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of flow pictures")
        found.append(_pictures(folder))
    names = [[one.name for one in files] for files in found]
    if flow and names[0] != names[1]:
        raise InputError(f"{path}: u has {len(names[0])} pictures and v {len(names[1])}, or their names differ")
    return Frames(list(zip(*found, strict=True)), flow)


def _pictures(folder: Path) -> list[Path]:
    # A listing has no order, and "frame10" sorts before "frame9" as text.
    found = [one for one in folder.iterdir() if one.suffix[1:].lower() in EXTENSIONS["image"]]
    if not found:
        raise InputError(f"{folder}: the folder has no pictures")
    return sorted(found, key=lambda one: ([int(n) for n in re.findall(r"\d+", one.stem)], one.name))


def read_pictures(frames: Frames, index: list[int], size: tuple[int, int] | None, channels: int) -> NDArray[np.uint8]:
    """(T, H, W, C) uint8 pictures `index`, resized to `size` = (H, W) pixels.

    Args:
        frames: the clip.
        index: T places in it.
        size: (height, width) in pixels, None that of the first one.
        channels: 1 for grey, 3 for RGB; of a flow 2 for (u, v), 3 adds a plane of 128 for people to look at.

    Raises:
        InputError: a broken picture, or a number of channels that the clip does not have.
    """
    if frames.flow != (channels == 2) and not (frames.flow and channels == 3):
        what = "flow has 2 channels" if frames.flow else "pictures have 1 or 3 channels"
        raise InputError(f"{frames.files[0][0].parent}: {what}, and {channels} are asked for")
    if size is None:
        one = read_image(frames.files[index[0]][0])
        size = one.shape[0], one.shape[1]
    if not frames.flow:
        return np.stack([read_image(frames.files[i][0], size, channels) for i in index])
    pairs = np.stack([np.concatenate([read_image(one, size, 1) for one in frames.files[i]], -1) for i in index])
    return np.pad(pairs, [(0, 0)] * 3 + [(0, channels - 2)], constant_values=128)


def flip(pictures: NDArray[np.uint8], *, flow: bool = False) -> NDArray[np.uint8]:
    """Pictures (..., H, W, C) mirrored left to right; in a mirror horizontal flow u changes its sign: 255 - u.

    *Differs from the authors' code:* a balancing benchmark draws the mirror separately for u and v and leaves u as it is.
    """
    mirrored = pictures[..., ::-1, :].copy()
    if flow:
        mirrored[..., 0] = 255 - mirrored[..., 0]
    return mirrored
