"""Decoding the pictures of one video file; frames are counted, never sought (seeking in AVI is off by one)."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymodal.data.media.container import open_media, reason
from polymodal.data.media.files import Piece, piece_of
from polymodal.data.media.frames import find_frames, read_pictures
from polymodal.data.media.packets import Packets, decode_only, read_packets
from polymodal.data.media.sampling import Pick, at_rate, sample_frames
from polymodal.errors import InputError

__all__ = ["VideoInfo", "each_frame", "probe_video", "read_frames"]


class VideoInfo(NamedTuple):
    """Number of frames, height and width in pixels, whether there is any colour, and frames a second where known."""

    frames: int
    height: int
    width: int
    grey: bool
    rate: float | None = None


def read_frames(
    path: Path,
    frames: int,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    *,
    pick: Pick = sample_frames,
    fps: float | None = None,
) -> NDArray[np.uint8]:
    """(T, H, W, C) uint8: `frames` pictures of the clip, spread evenly over it, resized to `size` = (H, W) pixels.

    Args:
        path: any file with a video stream that FFmpeg decodes, or a piece of one ("clip.mp4#t=2,7"); a folder of numbered
            pictures; or a pair of folders of flow (`frames.find_frames`).
        frames: T.
        size: (height, width) in pixels; the pictures are stretched to it. None keeps their own size.
        channels: 1 for grey, 3 for RGB, 2 for flow.
        pick: which of the frames are taken, if not `sample_frames`.
        fps: how many frames a second it chooses from (`sampling.at_rate`); None is all of them. A folder of pictures, whose
            rate nothing tells, is taken as it is.

    Raises:
        InputError: the file is missing, empty, truncated, holds no video, ends before the piece asked for, or holds no frame
            at that rate.
    """
    folder = find_frames(path)
    if folder is not None:
        return read_pictures(folder, pick(len(folder.files), frames).tolist(), size, channels)
    if channels == 2:
        raise InputError(f"{path}: 2 channels are those of flow, and this is no pair of folders of flow pictures")
    piece = piece_of(path)
    packets = read_packets(piece.path)
    wanted = _wanted(piece, packets.total, packets.rate, frames, pick, fps)
    kept = _only(piece.path, packets, set(wanted), size, channels)
    if kept is None:
        kept, total = _decode(piece.path, set(wanted), size, channels)
        if total != packets.total:  # packets and frames differ in some codecs: hidden frames, or B-frames left out
            wanted = _wanted(piece, total, packets.rate, frames, pick, fps)
            kept, _ = _decode(piece.path, set(wanted), size, channels)
    return np.stack([kept[i] for i in wanted])


def _wanted(piece: Piece, total: int, rate: float, frames: int, pick: Pick, fps: float | None) -> list[int]:
    inside = _inside(piece, total, rate) if fps is None else _kept(piece, total, rate, fps)
    return [inside[i] for i in pick(len(inside), frames).tolist()]


def _kept(piece: Piece, total: int, rate: float, fps: float) -> range:
    if not rate:
        raise InputError(
            f"{piece.path}: the file does not say its frames a second, so that {fps:g} a second cannot be kept"
        )
    found = at_rate(_inside(piece, total, rate), rate, fps)
    if not found:
        raise InputError(
            f"{piece.path}: the piece is too short to hold a frame at {fps:g} a second; take fps higher or empty"
        )
    return found


def _inside(piece: Piece, total: int, rate: float) -> range:
    """Indices of the frames shown at `start` to `end` seconds, both included."""
    if piece.start == 0 and piece.end is None:
        return range(total)
    if not rate:
        raise InputError(
            f"{piece.path}: the file does not say its frames a second, so that no piece can be cut from it"
        )
    last = total - 1 if piece.end is None else min(total - 1, math.floor(piece.end * rate + 1e-6))
    found = range(math.ceil(piece.start * rate - 1e-6), last + 1)
    if not found:
        raise InputError(f"{piece.path}: no frame after {piece.start:g} s; the clip is {total / rate:.2f} s long")
    return found


def each_frame(path: Path, *, per_second: bool = False) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(index, (H, W, 3) uint8) of each frame of a video file, or of a piece of one, in order and in its own size.

    Args:
        path: the file or piece.
        per_second: only frames whose index is a multiple of int(frames a second), as published loaders keep one a second.

    Raises:
        InputError: as `read_frames`; a truncated file before its first frame is given.
    """
    piece = piece_of(path)
    packets = read_packets(piece.path)
    if per_second and not packets.rate:
        raise InputError(
            f"{piece.path}: the file does not say its frames a second, so that one a second cannot be kept"
        )
    inside = _inside(piece, packets.total, packets.rate)
    for index, pixels in _decoded(piece.path, at_rate(inside, packets.rate, 1) if per_second else inside, None, 3):
        if pixels is not None:
            yield index, pixels


def probe_video(path: Path) -> VideoInfo:
    """Length, size and colour of a clip, the last from its first, middle and last frame."""
    folder = find_frames(path)
    if folder is not None:
        one = folder.probe()
        return VideoInfo(len(folder.files), one.height, one.width, one.grey)
    piece = piece_of(path)
    packets = read_packets(piece.path)
    inside = _inside(piece, packets.total, packets.rate)
    wanted = {inside[0], inside[len(inside) // 2], inside[-1]}
    kept = _only(piece.path, packets, wanted, None, 3) or _decode(piece.path, wanted, None, 3).kept
    pictures = list(kept.values())
    grey = all(bool((np.ptp(picture.astype(np.int16), axis=2) <= 2).all()) for picture in pictures)
    height, width, _ = pictures[0].shape
    return VideoInfo(len(inside), height, width, grey, packets.rate or None)


class _Pictures(NamedTuple):
    kept: dict[int, NDArray[np.uint8]]
    total: int


def _only(
    path: Path, packets: Packets, wanted: set[int], size: tuple[int, int] | None, channels: int
) -> dict[int, NDArray[np.uint8]] | None:
    """The wanted pictures without decoding what they do not need; None where that is not sure to give the right ones."""
    return decode_only(path, packets, wanted, lambda frame: _to_array(frame, size, channels))


def _decode(path: Path, wanted: set[int], size: tuple[int, int] | None, channels: int) -> _Pictures:
    kept: dict[int, NDArray[np.uint8]] = {}
    total = 0
    for index, pixels in _decoded(path, wanted, size, channels):
        if pixels is not None:
            kept[index] = pixels
        total = index + 1
    return _Pictures(kept, total)


def _decoded(
    path: Path, wanted: Container[int], size: tuple[int, int] | None, channels: int
) -> Iterator[tuple[int, NDArray[np.uint8] | None]]:
    """Index of each frame of a file, with its pixels where they are wanted."""
    import av

    index = -1
    container, stream = open_media(path, "video")
    with container:
        try:
            for index, frame in enumerate(container.decode(stream)):
                yield index, _to_array(frame, size, channels) if index in wanted else None
        except (av.FFmpegError, ValueError) as error:
            raise InputError(f"{path}: the video is damaged or truncated ({reason(error)})") from None
    if index < 0:
        raise InputError(f"{path}: no frame can be decoded")


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
