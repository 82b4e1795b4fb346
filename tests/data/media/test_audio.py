from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polymodal.data.media.audio import frame_count, log_magnitude, log_mel, mel_filter_bank, spectrum


@pytest.fixture(scope="module")
def wave():
    return torch.from_numpy(np.random.default_rng(0).standard_normal((2, 4000))) * 0.1


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_spectrum_is_the_centred_short_time_fourier_transform(wave, mode):
    window = torch.hann_window(512, periodic=True, dtype=wave.dtype)
    reference = torch.stft(wave, 512, 353, window=window, center=True, pad_mode=mode, return_complex=True).abs()
    torch.testing.assert_close(spectrum(wave, 512, 353, mode), reference)
    assert reference.shape == (2, 257, frame_count(4000, 353))
    torch.testing.assert_close(log_magnitude(wave, pad_mode=mode), torch.log(reference + 1e-7))


def test_authors_shape():
    assert log_magnitude(torch.zeros(66150)).shape == (257, 188)


def test_loop_reference(wave):
    padded = np.pad(wave[0].numpy(), 128)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    columns = [np.abs(np.fft.rfft(padded[i : i + 256] * window)) ** 2 for i in range(0, len(padded) - 255, 80)]
    bank = mel_filter_bank(8000, 256, 40).double().numpy()
    reference = np.log(bank @ np.stack(columns, 1) + 1e-6)
    ours = log_mel(wave[0], 8000)
    assert ours.shape == (40, frame_count(4000, 80))
    np.testing.assert_allclose(ours.numpy(), reference, atol=1e-9)


def test_one_and_many_waves_agree(wave):
    torch.testing.assert_close(log_mel(wave, 16000)[1], log_mel(wave[1], 16000))
    assert log_mel(wave, 16000).shape == (2, 64, 26)


def test_slaney_filters():
    bank = mel_filter_bank(16000, 512, 40)
    bins = torch.linspace(0, 8000, 257)
    # Unit area, up to the sampling of narrow triangles by bins of 31.25 Hz.
    torch.testing.assert_close(bank.sum(1) * 31.25, torch.ones(40), atol=0.2, rtol=0)
    peaks = bins[bank.argmax(1)]
    assert (peaks.diff() > 0).all()
    # Linear below 1 kHz, logarithmic above.
    mel_top = 15 + 27 * math.log(8) / math.log(6.4)
    assert abs(peaks[2] - 3 * mel_top / 41 * 200 / 3) <= 16
    assert abs(peaks[39] - 1000 * math.exp((40 / 41 * mel_top - 15) * math.log(6.4) / 27)) <= 16


def test_htk_filters_peak_at_one_and_add_up_to_one():
    bank = mel_filter_bank(16000, 8192, 20, "htk")
    assert bank.max(1).values.min() > 0.98
    inside = bank.sum(0)[(bank.argmax(1)[0]) : (bank.argmax(1)[-1])]
    torch.testing.assert_close(inside, torch.ones_like(inside), atol=1e-4, rtol=0)


def test_a_tone_peaks_in_its_filter():
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(8000) / 8000)
    top = log_mel(tone, 8000).mean(1).argmax()
    bank = mel_filter_bank(8000, 256, 40)
    assert bank[top, 32] > 0


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_sounds_shorter_than_the_window(mode):
    assert log_mel(torch.ones(3), 8000, pad_mode=mode).shape == (40, 1)
    assert torch.isfinite(log_mel(torch.zeros(100), 8000, pad_mode=mode)).all()
