"""Frames, sound and spectrograms of one file, written where they are prepared: `make(source, target)` each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.inputs import make_input
from polymodal.data.inputs.computed import OPTIONS
from polymodal.data.media.files import check_file
from polymodal.data.media.sound import read_wave
from polymodal.data.media.video import each_frame
from polymodal.data.schema import Modality
from polymodal.errors import InputError

__all__ = ["COMPUTED", "copy", "frames", "sound", "sounds", "write_jpeg"]

QUALITY = 95
COMPUTED = "Spectrograms"
"""Folder of spectrograms that stand in the place of sounds."""


def write_jpeg(path: Path, pixels: Any) -> None:
    """A JPEG of (H, W) or (H, W, 3) uint8 pixels."""
    from PIL import Image

    Image.fromarray(pixels).save(path, "JPEG", quality=QUALITY)


def copy(source: Path, target: Path) -> None:
    """The file, or the folder of pictures, as it is."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(check_file(source), target)


def frames(source: Path, target: Path) -> None:
    """A folder with one frame a second, `<index:05d>.jpg`: those whose index is a multiple of int(frames a second).

    A folder of frames that were extracted before is taken as it is.

    Source: preparation of OGM-GE (2022) and its followers.
    """
    if source.is_dir():
        copy(source, target)
        return
    target.mkdir()
    for index, pixels in each_frame(source, per_second=True):
        write_jpeg(target / f"{index:05d}.jpg", pixels)
    if not any(target.iterdir()):
        raise InputError(f"{source}: the piece holds no frame whose index is a multiple of the frames a second")


def sound(source: Path, target: Path, *, rate: int) -> None:
    """A WAV of 16 bits at `rate` Hz: the mean of all channels, samples beyond -1 and 1 cut off."""
    import soundfile

    soundfile.write(target, read_wave(source, rate).clip(-1, 1), rate, format="WAV", subtype="PCM_16")


def spectrogram(source: Path, target: Path, *, options: Mapping[str, Any]) -> None:
    """A .npy of what the input "audio" with these settled options computes."""
    values = make_input(Modality("audio", ("audio",), "audio"), **options).decode((source.name,), source.parent)
    with target.open("wb") as file:
        np.save(file, np.asarray(values))


def sounds(
    audio: Mapping[str, Any], kind: str, folder: str
) -> tuple[Callable[[Path, Path], None], str, dict[str, str]]:
    """How sounds are made, their place by name (to be filled in with `format`), and texts that lie beside them.

    Args:
        audio: options of the input "audio", settled for spectrograms.
        kind: "wav" or "spectrogram".
        folder: of the .wav; spectrograms go to `COMPUTED`.
    """
    if kind == "wav":
        return partial(sound, rate=int(audio.get("sample_rate", 16000))), folder + "/{}.wav", {}
    told = {f"{COMPUTED}/{OPTIONS}": json.dumps(dict(audio), indent=1, sort_keys=True)}
    return partial(spectrogram, options=dict(audio)), COMPUTED + "/{}.npy", told
