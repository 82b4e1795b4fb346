"""Opening files that hold streams of pictures and sound, and noticing that one was cut off."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from polymodal.data.media.files import check_file
from polymodal.errors import InputError

__all__ = ["check_complete", "open_media", "reason"]

MAX_PIXELS = 8192 * 4320
"""Of one frame; a header that asks for more is refused before any memory is taken."""
LIMITS = {"max_pixels": str(MAX_PIXELS)}
FORMATS = (
    "aac,ac3,aiff,amr,asf,avi,caf,dv,eac3,flac,flv,gif,h264,hevc,ivf,m4v,matroska,mov,mp3,mp4,mpeg,mpegts,mpegvideo,mxf,nut,"
    "ogg,w64,wav,webm"
)
"""FFmpeg also reads lists of other files and addresses (HLS, concat), whatever a file's name ends in; these it does not."""


def open_media(path: Path, kind: str) -> tuple[Any, Any]:
    """(container, first stream of `kind` "video" or "audio") of a file; the caller closes the container."""
    import av

    _check_size(check_file(path))
    try:
        container = av.open(
            f"file:{path}", metadata_errors="replace", options=LIMITS, container_options={"format_whitelist": FORMATS}
        )
    except (av.FFmpegError, ValueError, OSError, MemoryError) as error:
        raise InputError(f"{path}: not a readable {kind} file, or truncated ({reason(error)})") from None
    streams = container.streams.video if kind == "video" else container.streams.audio
    if not streams:
        has_pictures = bool(container.streams.video)
        container.close()
        silent = ", so the video has no sound track" if kind == "audio" and has_pictures else ""
        raise InputError(f"{path}: the file has no {kind} stream{silent}")
    stream: Any = streams[0]
    if stream.codec_context is None:
        container.close()
        raise InputError(f"{path}: no decoder for its {kind} stream, or truncated")
    stream.codec_context.options = LIMITS
    stream.codec_context.thread_count = 1  # many small files at once are quicker than many threads on each
    return container, stream


def _check_size(path: Path) -> None:
    """Raise if a Matroska, WebM or AVI file ends before the end that its header gives."""
    with path.open("rb") as file:
        head = file.read(4096)
    end = 0
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        end = 8 + int.from_bytes(head[4:8], "little")
    elif head[:4] == b"\x1a\x45\xdf\xa3" and (place := head.find(b"\x18\x53\x80\x67") + 4) > 3:
        # The segment's length: as many bytes as the first one has leading zero bits, plus one; all ones mean unknown.
        length = 9 - head[place].bit_length() if place < len(head) else 9
        size = int.from_bytes(head[place : place + length], "big") & ((1 << 7 * length) - 1)
        end = place + length + size if length < 9 and size + 1 != 1 << 7 * length else 0
    if end > path.stat().st_size:
        raise InputError(f"{path}: truncated: {path.stat().st_size} bytes of {end}")


def check_complete(
    path: Path, container: Any, stream: Any, *, end: float, count: int, reached: float | None = None
) -> None:
    """Raise if a stream is shorter than its header says: FFmpeg decodes what is there of a truncated file.

    5 % and two frames are let pass, because headers are often off by that much. Where only the length of the whole
    file is written (FLV), that is what is compared.

    Args:
        path: for the message.
        container, stream: open file and the stream that was read to its end.
        end: seconds from the stream's start to its end.
        count: number of its frames or packets.
        reached: seconds to the end of the last packet of any stream, where that is known.

    Raises:
        InputError: the stream is too short, or holds nothing.
    """
    if not count:
        raise InputError(f"{path}: not a readable {stream.type} file, or truncated (nothing in it can be decoded)")
    promised = _promised_seconds(stream)
    if stream.frames > 0 and stream.type == "video":
        short = count < 0.95 * stream.frames - 2
    elif promised is not None:
        short = end < 0.95 * promised - 0.1 and (stream.type == "audio" or count < _frames(stream, 0.95 * promised))
    else:
        whole = (container.duration or 0) / 1e6
        short = end < 0.7 * whole - 0.1 or (reached is not None and reached < 0.9 * whole - 0.1)
    if short:
        raise InputError(f"{path}: truncated: the {stream.type} ends after {end:.2f} s, before its header says")


def _frames(stream: Any, seconds: float) -> float:
    return seconds * float(stream.average_rate or 0) or float("inf")


def _promised_seconds(stream: Any) -> float | None:
    tag = stream.metadata.get("DURATION", "")  # Matroska: hours:minutes:seconds
    if tag.count(":") == 2:
        with suppress(ValueError):
            hours, minutes, seconds = map(float, tag.split(":"))
            return hours * 3600 + minutes * 60 + seconds
    return float(stream.duration * stream.time_base) if stream.duration else None


def reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).split("\n")[0][:120]
