"""Opening files that hold streams of pictures and sound, and noticing that one was cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from polymodal.data.media.files import check_file
from polymodal.errors import InputError

__all__ = ["check_complete", "open_media", "reason"]


def open_media(path: Path, kind: str) -> tuple[Any, Any]:
    """(container, first stream of `kind` "video" or "audio") of a file; the caller closes the container."""
    import av

    check_file(path)
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, ValueError, OSError) as error:
        raise InputError(f"{path}: not a readable {kind} file, or truncated ({reason(error)})") from None
    streams = container.streams.video if kind == "video" else container.streams.audio
    if not streams:
        container.close()
        raise InputError(f"{path}: the file has no {kind} stream")
    stream: Any = streams[0]
    if stream.codec_context is None:
        container.close()
        raise InputError(f"{path}: no decoder for its {kind} stream, or truncated")
    stream.codec_context.thread_count = 1  # many small files at once are quicker than many threads on each
    return container, stream


def check_complete(path: Path, container: Any, stream: Any, end: float, count: int) -> None:
    """Raise if a stream of `count` frames that ends after `end` seconds is shorter than its header says.

    FFmpeg decodes what is there of a truncated file without an error. 5 % and two frames are let pass, because
    headers are often off by that much; the container's own length belongs to its longest stream, so more is let pass.
    """
    promised = _promised_seconds(stream)
    short = promised is not None and end < 0.95 * promised - 0.1
    if stream.type == "video":
        short = short and count < 0.95 * (promised or 0) * float(stream.average_rate or 0)
        short = short or (stream.frames > 0 and count < 0.95 * stream.frames - 2)
    if promised is None and container.duration:
        short = short or end < 0.7 * container.duration / 1e6 - 0.1
    if short or not count:
        raise InputError(f"{path}: truncated: the file ends after {end:.2f} s, before its header says")


def _promised_seconds(stream: Any) -> float | None:
    tag = stream.metadata.get("DURATION", "")  # Matroska: hours:minutes:seconds
    if tag.count(":") == 2:
        hours, minutes, seconds = tag.split(":")
        return float(hours) * 3600 + float(minutes) * 60 + float(seconds)
    return float(stream.duration * stream.time_base) if stream.duration and not stream.frames else None


def reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).split("\n")[0][:120]
