"""Decoding no more of a video file than the frames asked for depend on.

Packets are counted, never sought. A run of packets that begins with a key frame can be left out where no wanted frame is in it,
and so can single frames that no other refers to. Both are done only where the frames can be told by their timestamps, or by their
number where a file has no timestamps and no frame is shown out of order; else the file must be decoded from its beginning.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from polymodal.data.media.container import check_complete, open_media, reason
from polymodal.errors import InputError

__all__ = ["Packets", "decode_only", "read_packets"]

Kept = TypeVar("Kept")
CLOSED = frozenset({"h264", "mpeg4", "flv", "mjpeg"})
"""Codecs each of whose packets is one frame, and whose frames refer to none before the last key frame but one."""
DISPOSABLE = frozenset({"h264", "mpeg4"})
"""Those whose decoder knows a frame that no other refers to."""


class Packets(NamedTuple):
    """The packets of a video stream, in the order in which they are decoded.

    Attributes:
        rate: frames a second, 0 if unknown.
        total: of packets.
        shown: place of each packet's frame among all frames; None if the file does not tell.
        times: timestamp of each packet's frame, where there are any.
        keys: numbers of the packets that begin with nothing before them.
    """

    rate: float
    total: int
    shown: list[int] | None
    times: list[int] | None
    keys: list[int]


def read_packets(path: Path) -> Packets:
    """Go through the packets of a file's video, decoding none of them.

    Raises:
        InputError: the file is missing, damaged or truncated, or holds no video.
    """
    container, stream = open_media(path, "video")
    import av

    times: list[int | None] = []
    keys: list[int] = []
    plain, end, reached = stream.codec_context.name in CLOSED, 0.0, 0.0
    with container:
        try:
            for packet in container.demux():
                if not packet.size:
                    continue
                own = packet.stream.index == stream.index
                if own:
                    keys += [len(times)] * packet.is_keyframe
                    times.append(packet.pts)
                    plain = plain and not packet.is_discard and not packet.is_corrupt
                if packet.pts is not None:
                    stop = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    reached, end = max(reached, stop), max(end, stop) if own else end
        except av.FFmpegError as error:
            raise InputError(f"{path}: the video is damaged or truncated ({reason(error)})") from None
        end -= float((stream.start_time or 0) * stream.time_base)
        check_complete(path, container, stream, end=end, count=len(times), reached=reached)
        rate = float(stream.average_rate or 0)
        ordered = not stream.codec_context.has_b_frames
    known = [one for one in times if one is not None]
    if not plain or not keys or keys[0] != 0:
        return Packets(rate, len(times), None, None, keys)
    if len(set(known)) == len(times):
        place = {one: number for number, one in enumerate(sorted(known))}
        return Packets(rate, len(times), [place[one] for one in known], known, keys)
    shown = list(range(len(times))) if not known and ordered else None
    return Packets(rate, len(times), shown, None, keys)


def decode_only(
    path: Path, packets: Packets, wanted: Collection[int], take: Callable[[Any], Kept]
) -> dict[int, Kept] | None:
    """What `take` makes of each wanted frame, by its place; None where only decoding all of them would tell which is which.

    Raises:
        InputError: what is decoded is damaged.
    """
    runs = None if packets.shown is None else _runs(packets, packets.shown, wanted)
    if runs is None:
        return None
    import av

    container, stream = open_media(path, "video")
    kept: dict[int, Kept] = {}
    with container:
        try:
            for place, frame in _decoded(container, stream, packets, runs, wanted):
                if place is None or frame.is_corrupt:
                    return None
                if place in wanted:
                    kept[place] = take(frame)
        except (av.FFmpegError, ValueError) as error:
            raise InputError(f"{path}: the video is damaged or truncated ({reason(error)})") from None
    return kept if len(kept) == len(set(wanted)) else None


def _runs(packets: Packets, shown: list[int], wanted: Collection[int]) -> list[tuple[int, int]] | None:
    """First packet, and first packet no longer needed, of each run that must be decoded, in order."""
    packet_of = {place: number for number, place in enumerate(shown)}
    needed = []
    for place in wanted:
        number = packet_of[place]
        group = bisect_right(packets.keys, number) - 1
        if place < shown[packets.keys[group]]:  # shown before its key frame: it refers to the frames before that, too
            group -= 1
        if group < 0:
            return None
        needed.append((packets.keys[group], number + 1))
    runs: list[tuple[int, int]] = []
    for start, stop in sorted(needed):
        if runs and start <= runs[-1][1]:
            runs[-1] = runs[-1][0], max(runs[-1][1], stop)
        else:
            runs.append((start, stop))
    return runs


def _decoded(
    container: Any, stream: Any, packets: Packets, runs: list[tuple[int, int]], wanted: Collection[int]
) -> Iterator[tuple[int | None, Any]]:
    """Place and frame of all that is decoded; a place of None where it cannot be told."""
    assert packets.shown is not None
    decoder, left = stream.codec_context, iter(runs)
    places = None if packets.times is None else dict(zip(packets.times, packets.shown, strict=True))
    skips = places is not None and decoder.name in DISPOSABLE
    start, stop = next(left)
    number, given = -1, 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        number += 1
        if number < start:
            continue
        if skips:
            decoder.skip_frame = "DEFAULT" if packets.shown[number] in wanted else "NONREF"
        last = number + 1 == stop
        for frame in chain(decoder.decode(packet), decoder.decode(None) if last else ()):
            if places is not None:
                yield places.get(frame.pts), frame
            else:
                yield None if frame.pict_type.name == "B" else start + given, frame
            given += 1
        if not last:
            continue
        if places is None and given != stop - start:
            yield None, None
        decoder.flush_buffers()
        following = next(left, None)
        if following is None:
            return
        (start, stop), given = following, 0
