"""Small pictures, sounds and clips that tell a class, for miniatures of data sets."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["picture", "sentence", "tone", "write_clip", "write_jpeg", "write_wav"]

EDGE = 32
WORDS = ("apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbour", "island", "jungle")
FILLERS = ("the", "a", "with", "and", "of", "near", "some", "under", "very", "old")
CODECS = {".mp4": ("mpeg4", "aac"), ".flv": ("flv", "pcm_s16le"), ".avi": ("mpeg4", "pcm_s16le")}


def picture(number: int, random: np.random.Generator, edge: int = EDGE) -> NDArray[np.uint8]:
    """(edge, edge, 3) noise with a bright square whose place and colour tell the class `number`."""
    pixels = random.integers(0, 60, (edge, edge, 3), dtype=np.uint8)
    step = edge // 3
    row, column = divmod(number % 9, 3)
    colour = [(220, 60, 60), (60, 220, 60), (60, 60, 220)][number // 9 % 3]
    pixels[row * step : row * step + step, column * step : column * step + step] = colour
    return pixels


def tone(number: int, random: np.random.Generator, seconds: float, rate: int) -> NDArray[np.float32]:
    """(S,) a tone whose pitch tells the class `number`, in a little noise, within -1 and 1."""
    pitch = 250 * 1.3 ** (number % 9) * (1 + 0.02 * random.standard_normal())
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.6 * np.sin(2 * np.pi * pitch * time + random.uniform(0, 6)) + 0.05 * random.standard_normal(len(time))
    return wave.clip(-1, 1).astype(np.float32)


def sentence(number: int, random: np.random.Generator, words: int = 6) -> str:
    """A few words, two of which tell the class `number`."""
    found = [str(random.choice(FILLERS)) for _ in range(words)]
    for place in random.choice(words, 2, replace=False):
        found[place] = WORDS[number % len(WORDS)]
    return " ".join(found)


def write_jpeg(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """A JPEG of (H, W) or (H, W, 3) pixels, its folders made where needed."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", quality=92)
    return path


def write_wav(path: Path, wave: NDArray[np.float32], rate: int) -> Path:
    """A WAV of 16 bits, its folders made where needed."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype="PCM_16")
    return path


def write_clip(
    path: Path, frames: NDArray[np.uint8], fps: int, wave: NDArray[np.float32] | None = None, rate: int = 16000
) -> Path:
    """A .mp4, .flv or .avi of (T, H, W, 3) frames, with a sound track where a waveform is given."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    codec, sound_codec = CODECS[path.suffix]
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream(codec, rate=fps)
        video.height, video.width, video.pix_fmt, video.bit_rate = (
            frames.shape[1],
            frames.shape[2],
            "yuv420p",
            2_000_000,
        )
        sound: Any = None if wave is None else out.add_stream(sound_codec, rate=rate, layout="mono")
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, fps)
            out.mux(video.encode(frame.reformat(format="yuv420p")))
        out.mux(video.encode())
        if wave is not None:
            samples = (wave * 32767).astype(np.int16)[None]
            block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
            for piece in av.AudioResampler(sound.format.name, "mono", rate).resample(block):
                out.mux(sound.encode(piece))
            out.mux(sound.encode())
    return path
