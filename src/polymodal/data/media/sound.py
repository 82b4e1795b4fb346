"""Decoding the sound of one file: soundfile where it can, PyAV for everything else and for the sound of videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymodal.data.media.container import check_complete, open_media, reason
from polymodal.data.media.files import check_file, piece_of
from polymodal.errors import InputError

__all__ = ["SoundInfo", "probe_sound", "read_wave"]

LONGEST = 2**27
"""Samples of one sound: 46 minutes at 48 kHz, in half a gigabyte. More is refused by its header, or when it comes."""
BLOCK = 2**20
PLAIN = {".wav", ".flac", ".ogg", ".oga", ".aif", ".aiff"}


class SoundInfo(NamedTuple):
    """Sampling rate in Hz and length in seconds."""

    rate: int
    seconds: float


def read_wave(path: Path, rate: int) -> NDArray[np.float32]:
    """(S,) float32 waveform in about [-1, 1]: the mean of all channels at `rate` Hz.

    Args:
        path: sound file, or video file with a sound track, or a piece of one ("clip.mp4#t=2,7").
        rate: sampling rate in Hz to resample to.

    Raises:
        InputError: the file is missing, empty, truncated, has no sound, ends before the piece asked for, or holds NaN or
            infinite samples.
    """
    piece = piece_of(path)
    wave, own_rate = _decode(piece.path)
    if not len(wave):
        raise InputError(f"{path}: the sound has no samples")
    if piece.start or piece.end is not None:
        seconds = len(wave) / own_rate
        wave = wave[round(piece.start * own_rate) : None if piece.end is None else round(piece.end * own_rate)]
        if not len(wave):
            raise InputError(f"{piece.path}: no sound after {piece.start:g} s; it is {seconds:.2f} s long")
    if not np.isfinite(wave).all():
        raise InputError(f"{path}: the sound holds NaN or infinite samples")
    if own_rate != rate:
        import soxr

        if len(wave) * rate > LONGEST * own_rate:
            raise InputError(f"{path}: {len(wave) / own_rate:.0f} s of sound at {own_rate} Hz; {_TOO_LONG}")
        wave = soxr.resample(wave, own_rate, rate).astype(np.float32, copy=False)
        if not len(wave):
            raise InputError(f"{path}: the sound is too short to resample to {rate} Hz")
    return wave


def probe_sound(path: Path) -> SoundInfo:
    """Rate and length of a sound, or of a piece of one, from its header where that tells them."""
    piece = piece_of(path)
    whole = _probe(piece.path)
    end = whole.seconds if piece.end is None else min(piece.end, whole.seconds)
    return SoundInfo(whole.rate, max(0.0, end - piece.start))


def _probe(path: Path) -> SoundInfo:
    check_file(path)
    if path.suffix.lower() in PLAIN:
        import soundfile

        try:
            info = soundfile.info(str(path))
            return SoundInfo(int(info.samplerate), info.frames / info.samplerate)
        except soundfile.LibsndfileError:
            pass
    container, stream = open_media(path, "audio")
    with container:
        if stream.duration and stream.rate:
            return SoundInfo(stream.rate, float(stream.duration * stream.time_base))
    wave, rate = _decode(path)
    return SoundInfo(rate, len(wave) / rate)


def _decode(path: Path) -> tuple[NDArray[np.float32], int]:
    check_file(path)
    if path.suffix.lower() in PLAIN:
        import soundfile

        try:
            wave, rate = _decode_plain(path)
        except (soundfile.LibsndfileError, RuntimeError):
            return _decode_container(path)  # for example ADPCM in a .wav, or Opus in an .ogg
        if path.suffix.lower() == ".wav":
            _check_wav(path)
        return wave, rate
    return _decode_container(path)


_TOO_LONG = f"more than {LONGEST:,} samples are not read at once; cut the file into pieces"


def _decode_plain(path: Path) -> tuple[NDArray[np.float32], int]:
    import soundfile

    with soundfile.SoundFile(str(path)) as file:
        if file.frames >= 2**62:
            raise RuntimeError("libsndfile does not know how long it is")
        if file.frames > LONGEST:
            raise InputError(f"{path}: {file.frames} samples by its header; {_TOO_LONG}")
        if file.channels == 1:
            return file.read(dtype="float32"), int(file.samplerate)
        wave = np.empty(file.frames, np.float32)
        count = 0
        while len(block := file.read(max(1, BLOCK // file.channels), dtype="float32", always_2d=True)):
            wave[count : count + len(block)] = _mono(block.T)
            count += len(block)
        return wave[:count], int(file.samplerate)


def _mono(channels: NDArray[Any]) -> NDArray[np.float32]:
    """The mean (S,) of channels (C, S); NumPy's own takes longer than decoding where samples of channels alternate."""
    total: NDArray[np.float32] = channels[0].astype(np.float32)
    for one in channels[1:]:
        total += one
    total /= len(channels)
    return total


def _check_wav(path: Path) -> None:
    """Compare the size in the header with the file's: libsndfile plays a truncated WAV without an error."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"RIFF":
            return
        file.seek(12)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                # Programs that write to a pipe leave 0 or the largest number as length.
                if length < 0x7FFFFFFF - 2**16 and file.tell() + length > size:
                    part = f"{size - file.tell()} of {length} bytes of samples"
                    raise InputError(f"{path}: truncated: the file holds {part}")
                return
            file.seek(length + length % 2, 1)


def _decode_container(path: Path) -> tuple[NDArray[np.float32], int]:
    import av

    parts: list[NDArray[np.float32]] = []
    count = 0
    container, stream = open_media(path, "audio")
    with container:
        rate = int(stream.rate or 0)
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
        try:
            for frame in container.decode(stream):
                parts.extend(_mono(out.to_ndarray()) for out in resampler.resample(frame))
                count += frame.samples
                if count > LONGEST:
                    raise InputError(f"{path}: {_TOO_LONG}")
            parts.extend(_mono(out.to_ndarray()) for out in resampler.resample(None))
        except InputError:
            raise
        except (av.FFmpegError, ValueError) as error:
            raise InputError(f"{path}: the sound is damaged or truncated ({reason(error)})") from None
        wave = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        check_complete(path, container, stream, end=len(wave) / max(rate, 1), count=len(parts))
    return wave, rate
