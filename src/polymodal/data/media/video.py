"""Decoding the pictures of one video file; frames are counted, never sought (seeking in AVI is off by one)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymodal.data.media.container import check_complete, open_media, reason
from polymodal.errors import InputError

__all__ = ["VideoInfo", "probe_video", "read_frames", "sample_frames"]


class VideoInfo(NamedTuple):
    """Number of frames, height and width in pixels, and whether there is any colour."""

    frames: int
    height: int
    width: int
    grey: bool


def sample_frames(total: int, wanted: int) -> NDArray[np.int64]:
    """(wanted,) indices of `wanted` frames spread evenly over `total`: floor((i + 1/2) total / wanted).

    A clip with fewer frames than wanted gives all of its frames and repeats the last.
    """
    if total < wanted:
        return np.minimum(np.arange(wanted), total - 1)
    return ((2 * np.arange(wanted) + 1) * total) // (2 * wanted)


def read_frames(path: Path, frames: int, size: tuple[int, int] | None = None, channels: int = 3) -> NDArray[np.uint8]:
    """(T, H, W, C) uint8: `frames` pictures spread evenly over the clip, resized to `size` = (H, W) pixels.

    Args:
        path: any file with a video stream that FFmpeg decodes.
        frames: T, see `sample_frames`.
        size: (height, width) in pixels; the pictures are stretched to it. None keeps their own size.
        channels: 1 for grey, 3 for RGB.

    Raises:
        InputError: the file is missing, empty, truncated or holds no video.
    """
    total = _count(path)
    pictures = _decode(path, set(sample_frames(total, frames).tolist()), size, channels)
    if pictures.total != total:  # packets and frames differ in some codecs: hidden frames, or B-frames left out
        total = pictures.total
        pictures = _decode(path, set(sample_frames(total, frames).tolist()), size, channels)
    return np.stack([pictures.kept[i] for i in sample_frames(total, frames).tolist()])


def probe_video(path: Path) -> VideoInfo:
    """Length, size and colour of a clip, the last from its first, middle and last frame."""
    total = _count(path)
    kept = list(_decode(path, {0, total // 2, total - 1}, None, 3).kept.values())
    grey = all(bool((np.ptp(picture.astype(np.int16), axis=2) <= 2).all()) for picture in kept)
    return VideoInfo(total, kept[0].shape[0], kept[0].shape[1], grey)


class _Pictures(NamedTuple):
    kept: dict[int, NDArray[np.uint8]]
    total: int


def _count(path: Path) -> int:
    """Number of packets of the video stream: its number of frames, without decoding them."""
    container, stream = open_media(path, "video")
    import av

    count, end, reached = 0, 0.0, 0.0
    with container:
        try:
            for packet in container.demux():
                if not packet.size:
                    continue
                own = packet.stream.index == stream.index
                count += own
                if packet.pts is not None:
                    stop = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    reached, end = max(reached, stop), max(end, stop) if own else end
        except av.FFmpegError as error:
            raise InputError(f"{path}: the video is damaged or truncated ({reason(error)})") from None
        end -= float((stream.start_time or 0) * stream.time_base)
        check_complete(path, container, stream, end=end, count=count, reached=reached)
    return count


def _decode(path: Path, wanted: set[int], size: tuple[int, int] | None, channels: int) -> _Pictures:
    import av

    kept: dict[int, NDArray[np.uint8]] = {}
    total = 0
    container, stream = open_media(path, "video")
    with container:
        try:
            for frame in container.decode(stream):
                if total in wanted:
                    kept[total] = _to_array(frame, size, channels)
                total += 1
        except (av.FFmpegError, ValueError) as error:
            raise InputError(f"{path}: the video is damaged or truncated ({reason(error)})") from None
    if not total:
        raise InputError(f"{path}: no frame can be decoded")
    return _Pictures(kept, total)


def _to_array(frame: Any, size: tuple[int, int] | None, channels: int) -> NDArray[np.uint8]:
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # phones store upright clips lying, with a rotation
    height, width = size or ((frame.width, frame.height) if turns % 2 else (frame.height, frame.width))
    if turns % 2:
        height, width = width, height
    form = "gray" if channels == 1 else "rgb24"
    pixels: NDArray[np.uint8] = frame.to_ndarray(format=form, height=height, width=width, interpolation="AREA")
    if channels == 1:
        pixels = pixels[:, :, None]
    return np.ascontiguousarray(np.rot90(pixels, turns))
