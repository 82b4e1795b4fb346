"""How each golden record of preprocessing is compared with the library: `CHECKS[record](inputs, expected, tol)`."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from polymodal.data.inputs import make_input
from polymodal.data.media.audio import log_magnitude, log_power
from polymodal.data.media.filter_bank import kaldi_fbank
from polymodal.data.media.sampling import at_rate, segment_frames
from polymodal.data.schema import Modality
from polymodal.datasets import find
from polymodal.datasets.extract import frames
from polymodal.datasets.ucf101 import WITH_SOUND
from polymodal.encoders.imagebind_audio import ImageBindAudio
from tests.data.files import write_image, write_sound
from tests.golden.analysis_checks import close

Record = dict[str, Any]
Check = Callable[[Record, Record, float], None]


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, f"{text!r} says no {pattern}"
    return int(found[1])


def signal(text: str, count: int) -> Tensor:
    """The formula in front of the first comma at n = 0 .. count - 1."""
    n = torch.arange(count, dtype=torch.float64)
    value = eval(text.split(", n")[0], {"__builtins__": {}}, {"n": n, "pi": torch.pi, "sin": torch.sin})
    assert isinstance(value, Tensor)
    return value


def places(found: Tensor, expected: Record, tol: float, std: Tensor) -> None:
    """Shape, mean, deviation, and the values v_ROW_COLUMN."""
    assert {"shape", "mean", "std"} < set(expected)
    close(found.shape, expected["shape"], tol)
    close(found.mean(), expected["mean"], tol)
    close(std, expected["std"], tol)
    for key in set(expected) - {"shape", "mean", "std"}:
        place = re.fullmatch(r"v_(\d+)_(\d+)", key)
        assert place, f"nothing computes {key}"
        close(found[int(place[1]), int(place[2])], expected[key], tol)


def spectrogram(pad_mode: str) -> Check:
    def check(inputs: Record, expected: Record, tol: float) -> None:
        text = inputs["signal"]
        once = signal(text, number(r"n<(\d+)", text))
        wave = once.repeat(number(r"tiled x(\d+)", text))[: number(r"cut to (\d+)", text)]
        found = log_magnitude(wave, pad_mode=pad_mode)
        places(found, expected, tol, found.std(correction=0))

    return check


def fbank(inputs: Record, expected: Record, tol: float) -> None:
    text = inputs["signal"]
    wave = signal(text, number(r"n = 0\.\.(\d+)", text) + 1)
    wave = (wave - wave.mean()).float()
    rate = 1000 * number(r"(\d+) kHz", text)
    found = kaldi_fbank(wave, rate, n_mels=number(r"(\d+) mel bins", inputs["settings"])).T
    places(found, expected, tol, found.std())


def ucf101_classes(inputs: Record, expected: Record, tol: float) -> None:
    assert expected == {"n": len(WITH_SOUND), "classes": list(WITH_SOUND)}


def shapes(inputs: Record, expected: Record, tol: float) -> None:
    for key, shape in expected.items():
        found = shape_of(key)
        assert found == shape, f"{key}: {found}"


@cache
def shape_of(key: str) -> Any:
    """The shape of what the library computes, told by the key: a rate in Hz, a length in seconds, a window and a step."""
    linear = re.fullmatch(r"\w+_(\d+)_(\d+)s_(?:nfft(\d+)_)?hop(\d+)", key)
    if linear:
        rate, seconds, n_fft, hop = (int(one or 512) for one in linear.groups())
        return list(log_magnitude(torch.zeros(rate * seconds), n_fft, hop).shape)
    power = re.fullmatch(r"\w*scipy_(\d+)_(\d+)s_noverlap(\d+)", key)
    if power:
        rate, seconds, overlap = map(int, power.groups())
        return list(log_power(torch.zeros(rate * seconds), rate, 512, 512 - overlap).shape)
    if key == "kinetics_fbank":  # the record has time first
        return list(of_a_tone(DATASETS["kinetics_sounds"]["ogm"]).shape[:1:-1])
    if key == "imagebind_2s_frames_at_10ms":
        return list(kaldi_fbank(torch.zeros(2 * 16000)).shape)
    if key == "imagebind_target":
        return list(of_a_tone(DATASETS["cremad"]["mmlora"]).shape[2:])
    assert key == "imagebind_audio_tokens", f"nothing computes {key}"
    encoder = ImageBindAudio(width=8, depth=1, heads=2, dim=4, path_dropout=0.0)
    tokens = encoder(torch.zeros(1, 1, 128, 204)).tokens
    assert tokens is not None
    return tokens.shape[1] - 1  # the class token is one more


DATASETS = {
    name: {key: one.settings for key, one in find(name).presets.items()} for name in ("cremad", "kinetics_sounds")
}


def of_a_tone(settings: Any) -> Any:
    """What the preset's sound input makes of a file of twelve seconds."""
    with TemporaryDirectory() as folder:
        write_sound(Path(folder) / "a.wav", seconds=12, rate=16000)
        made = make_input(Modality("audio", ("audio",), "audio"), **settings["data"]["inputs"]["audio"])
        made.probe([("a.wav",)], Path(folder))
        return made.decode(("a.wav",), Path(folder))


def segments(inputs: Record, expected: Record, tol: float) -> None:
    for key, one in expected.items():
        assert one == segments_of(number(r"n(\d+)", key)), key


@cache
def segments_of(total: int) -> Record:
    """Frames, counted from 1, of a folder of `total` pictures that each show their number; three are taken."""
    options = {"frames": 3, "sampling": "segments", "channels": 1, "height": 2, "width": 2, "standardize": False}
    input = make_input(Modality("clip", ("clip",), "video"), **options)
    with TemporaryDirectory() as folder:
        for i in range(1, total + 1):
            write_image(Path(folder) / f"frame_{i:05d}.jpg", np.full((8, 8), 10 * i, np.uint8))

        def seen(pictures: Any) -> list[int]:
            return [round(float(one.mean()) / 10) for one in pictures]

        cells, root, random = (Path(folder).name,), Path(folder).parent, np.random.default_rng(0)
        evaluated = seen(input.decode(cells, root))
        again = seen(input.decode(cells, root))
        drawn = np.array([seen(input.material(cells, root, random)) for _ in range(100)])
    return {
        "seg": int(np.diff(segment_frames(total, 3))[0]),
        "test": evaluated,
        "train_low": drawn.min(0).tolist(),
        "train_high": drawn.max(0).tolist(),
        "fixed": again,
    }


def frames_at_one_a_second(inputs: Record, expected: Record, tol: float) -> None:
    total, rate, fps = inputs["n_frames"], inputs["fps"], inputs["keep_per_second"]
    assert expected == {"saved": list(at_rate(range(total), rate, fps)), "names": prepared(total, rate)}
    assert fps == 1, "prepared frames are one a second"


@cache
def prepared(total: int, rate: int) -> list[str]:
    """Names of the frames that `data prepare` writes of a clip."""
    with TemporaryDirectory() as folder:
        clip, out = Path(folder) / "a.mkv", Path(folder) / "out"
        with av.open(str(clip), "w") as file:
            stream: Any = file.add_stream("ffv1", rate=rate)
            stream.height, stream.width, stream.pix_fmt = 8, 8, "gray"
            for i in range(total):
                frame = av.VideoFrame.from_ndarray(np.zeros((8, 8), np.uint8), format="gray")
                frame.pts, frame.time_base = i, Fraction(1, rate)
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        frames(clip, out)
        return sorted(one.name for one in out.iterdir())


CHECKS: dict[str, Check] = {
    "preprocess/cremad_spectrogram_constant": spectrogram("constant"),
    "preprocess/cremad_spectrogram_reflect": spectrogram("reflect"),
    "preprocess/cremad_frame_indices_at_1fps": frames_at_one_a_second,
    "preprocess/kaldi_fbank_128": fbank,
    "preprocess/segment_frame_indices_1_based": segments,
    "preprocess/spectrogram_shapes": shapes,
    "preprocess/ucf101_classes_not_in_ucf50": ucf101_classes,
}
