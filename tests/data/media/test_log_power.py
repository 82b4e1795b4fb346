"""PMR's spectrogram against SciPy's, and the options of sound that presets use."""

import numpy as np
import pytest
import torch
from scipy import signal

from polymodal.data.inputs import make_input
from polymodal.data.media.audio import log_power
from polymodal.data.schema import Modality
from tests.data.files import write_sound


@pytest.mark.parametrize(("seconds", "columns"), [(3, 299), (10, 1004)])
def test_against_scipy(seconds, columns):
    wave = np.random.default_rng(0).standard_normal(seconds * 16000) * np.linspace(0.01, 1, seconds * 16000)
    _, _, power = signal.spectrogram(wave, 16000, nperseg=512, noverlap=353)
    expected = np.log(power + 1e-7)
    expected = (expected - expected.mean()) / (expected.std() + 1e-9)
    found = log_power(torch.from_numpy(wave), 16000)
    assert found.shape == (257, columns)
    assert np.allclose(found, expected, atol=1e-9)


def test_short_and_silent_sounds():
    assert log_power(torch.zeros(10), 16000).shape == (257, 1)
    assert torch.isfinite(log_power(torch.zeros(16000), 16000)).all()


def sound_input(**options):
    return make_input(Modality("s", ("s",), "audio"), sample_rate=8000, standardize=False, **options)


def test_short_sounds_are_tiled(tmp_path):
    write_sound(tmp_path / "a.wav", seconds=0.3, rate=8000)
    once = sound_input(representation="waveform", max_seconds=1.0).decode(("a.wav",), tmp_path)
    tiled = sound_input(representation="waveform", max_seconds=1.0, tile=True).decode(("a.wav",), tmp_path)
    assert once.shape == (1, 2400)
    assert np.array_equal(tiled[0], np.tile(once[0], 4)[:8000])


def test_samples_beyond_one_are_clamped(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.array([0.5, 1.5, -2.0]), 8000, subtype="FLOAT")
    options = {"representation": "waveform", "max_seconds": 1.0}
    assert sound_input(**options).decode(("a.wav",), tmp_path)[0].tolist() == [0.5, 1.5, -2.0]
    assert sound_input(**options, clamp=True).decode(("a.wav",), tmp_path)[0].tolist() == [0.5, 1.0, -1.0]


def test_shape_of_log_power(tmp_path):
    write_sound(tmp_path / "a.wav", seconds=1.0, rate=8000)
    one = sound_input(representation="log_power", max_seconds=1.0)
    one.probe([("a.wav",)], tmp_path)
    assert one.decode(("a.wav",), tmp_path).shape == (257, 48) == one.shape[1:]
