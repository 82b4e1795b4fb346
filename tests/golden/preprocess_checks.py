"""How each golden record of preprocessing is compared with the library: `CHECKS[record](inputs, expected, tol)`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from polymodal.data.media.audio import log_magnitude
from polymodal.data.media.filter_bank import kaldi_fbank
from polymodal.datasets.ucf101 import WITH_SOUND
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


CHECKS: dict[str, Check] = {
    "preprocess/cremad_spectrogram_constant": spectrogram("constant"),
    "preprocess/cremad_spectrogram_reflect": spectrogram("reflect"),
    "preprocess/kaldi_fbank_128": fbank,
    "preprocess/ucf101_classes_not_in_ucf50": ucf101_classes,
}
