"""Kaldi's filter bank and the clips of ImageBind: against the steps written out, and torch's own pieces."""

import math

import pytest
import torch

from polymodal.data.media.filter_bank import clip_starts, kaldi_clips, kaldi_fbank, kaldi_mel_bank
from tests.properties import assert_close


def test_a_frame_is_its_formula():
    wave = torch.randn(600).double()
    bank = kaldi_fbank(wave, n_mels=23)
    assert bank.shape == (23, 2)
    for frame in range(2):
        x = wave[160 * frame : 160 * frame + 400].tolist()
        mean = sum(x) / 400
        x = [one - mean for one in x]
        y = [x[n] - 0.97 * x[max(n - 1, 0)] for n in range(400)]
        y = [one * (0.5 - 0.5 * math.cos(2 * math.pi * n / 399)) for n, one in enumerate(y)]
        power = torch.fft.fft(torch.tensor(y + [0.0] * 112, dtype=torch.float64)).abs()[:257] ** 2
        for mel in (0, 7, 22):
            energy = sum(weight(k, mel, 23) * power[k].item() for k in range(256))
            assert bank[mel, frame].item() == pytest.approx(math.log(energy), abs=1e-5)


def weight(k, mel, n_mels, rate=16000, n_fft=512):
    """Of bin k in filter `mel`: a triangle on the mel scale."""

    def scale(hz):
        return 1127 * math.log(1 + hz / 700)

    step = (scale(rate / 2) - scale(20)) / (n_mels + 1)
    place = (scale(k * rate / n_fft) - scale(20)) / step - mel
    return max(0.0, min(place, 2 - place))


def test_filters_are_triangles():
    bank = kaldi_mel_bank(16000, 512, 128)
    assert bank.shape == (128, 257)
    assert (bank[:, 256] == 0).all()
    for mel in (0, 40, 127):
        expected = [weight(k, mel, 128) for k in range(256)]
        assert_close(bank[mel, :256], expected, 1e-5)


def test_silence_is_the_least_number_of_kaldi():
    assert_close(kaldi_fbank(torch.zeros(400)), torch.full((128, 1), -15.942384719848633), 1e-5)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (32000, 198)])
def test_only_whole_frames_count(samples, frames):
    assert kaldi_fbank(torch.zeros(samples)).shape == (128, frames)
    assert kaldi_fbank(torch.zeros(2, samples)).shape == (2, 128, frames)


def test_a_batch_is_its_waveforms():
    waves = torch.randn(2, 700)
    assert_close(kaldi_fbank(waves)[1], kaldi_fbank(waves[1]), 1e-4)


@pytest.mark.parametrize(
    ("samples", "clip", "count", "starts"),
    [(100, 20, 3, [0, 40, 80]), (100, 20, 1, [0]), (10, 20, 3, [0, 0, 0]), (20, 20, 2, [0, 0]), (25, 20, 2, [0, 5])],
)
def test_clips_are_spread_over_the_sound(samples, clip, count, starts):
    assert clip_starts(samples, clip, count) == starts


def test_clips_lose_their_own_mean_and_are_padded_with_zeros():
    wave = torch.randn(16000) + torch.linspace(-3, 3, 16000)
    clips = kaldi_clips(wave, n_mels=16, clips=2, seconds=0.5, frames=52)
    assert clips.shape == (2, 16, 52)
    for clip, part in zip(clips, (wave[:8000], wave[8000:]), strict=True):
        assert_close(clip[:, :48], kaldi_fbank(part - part.mean(), n_mels=16), 1e-4)
        assert not clip[:, 48:].any()


def test_a_short_sound_is_the_same_clip_again_and_a_long_clip_is_cut():
    wave = torch.randn(3000)
    clips = kaldi_clips(wave, n_mels=16, clips=2, seconds=0.5, frames=20)
    assert torch.equal(clips[0], clips[1])
    assert clips[0, :, :17].abs().min() > 0
    assert not clips[..., 17:].any()
    assert kaldi_clips(wave, n_mels=16, clips=1, seconds=0.5, frames=5).shape == (1, 16, 5)
    assert kaldi_clips(wave[:100], n_mels=16, clips=1, seconds=0.5, frames=5).tolist() == [[[0.0] * 5] * 16]
