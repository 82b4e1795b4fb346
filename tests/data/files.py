"""Small media files and tables for the tests of `polymodal.data`."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

CODECS = {"mkv": ("ffv1", "gray"), "avi": ("mpeg4", "yuv420p"), "mp4": ("mpeg4", "yuv420p"), "flv": ("flv", "yuv420p")}


def write_image(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def write_sound(path: Path, seconds: float = 0.2, rate: int = 8000, pitch: float = 440.0, channels: int = 1) -> Path:
    wave = 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)
    soundfile.write(
        path, np.tile(wave[:, None], (1, channels)), rate, subtype=None if path.suffix == ".ogg" else "PCM_16"
    )
    return path


def numbered_frames(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """(T, H, W) grey frames whose brightness is their number: 10, 20, ..."""
    return np.broadcast_to((10 * np.arange(1, count + 1, dtype=np.uint8))[:, None, None], (count, height, width)).copy()


def write_clip(path: Path, frames: np.ndarray, sound: bool = True) -> Path:
    """(T, H, W) grey frames at 25 Hz and a tone of the same length at 8 kHz."""
    import av

    codec, form = CODECS[path.suffix[1:]]
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream(codec, rate=25)
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], form
        if codec != "ffv1":
            video.bit_rate = 4_000_000
        audio: Any = None
        if sound:
            rate = 11025 if path.suffix == ".flv" else 8000
            audio = out.add_stream("pcm_s16le" if path.suffix != ".mp4" else "aac", rate=rate, layout="mono")
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="gray")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            out.mux(video.encode(frame.reformat(format=form)))
        out.mux(video.encode())
        if audio is not None:
            tone = 8000 * np.sin(2 * np.pi * 440 * np.arange(len(frames) * rate // 25) / rate)
            block = av.AudioFrame.from_ndarray(tone.astype(np.int16)[None], format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
            for piece in [block] if path.suffix != ".mp4" else av.AudioResampler("fltp", "mono", rate).resample(block):
                out.mux(audio.encode(piece))
            out.mux(audio.encode())
    return path


def cut(path: Path, share: float) -> Path:
    """Truncate a file to a share of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
