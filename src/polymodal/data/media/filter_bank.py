"""Kaldi's mel filter bank, and the clips of it that ImageBind hears: pure functions of tensors."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["clip_starts", "kaldi_clips", "kaldi_fbank", "kaldi_mel_bank"]


def kaldi_fbank(wave: Tensor, rate: int = 16000, n_mels: int = 128) -> Tensor:
    """Log-mel energies as Kaldi computes them: 25 ms frames every 10 ms, only whole ones.

    Each frame loses its mean, is pre-emphasised (x_n - 0.97 x_{n-1}, the first sample before itself), windowed by a
    symmetric Hann window and continued with zeros to a power of two; then log(max(M |FFT|^2, 2^-23)), natural logarithm.
    There is no dither.

    Args:
        wave: (S,) or (B, S) samples; those of ImageBind are in [-1, 1] without their mean.
        rate: sampling rate in Hz.
        n_mels: number of filters F.

    Returns:
        (F, T), T = 1 + (S - 25 ms) // 10 ms and 0 for less than one frame, with the leading dimension of `wave` if it
        has one.

    Source: Povey et al. 2011 (Kaldi's compute-fbank-feats with window hanning, no energy, dither 0, HTK compatible), as
        used by Gong et al. 2021 and Girdhar et al. 2023.

    Example:
        >>> kaldi_fbank(torch.zeros(32000)).shape
        torch.Size([128, 198])
    """
    size, step = int(rate * 0.025), int(rate * 0.010)
    if wave.shape[-1] < size:
        return wave.new_zeros(*wave.shape[:-1], n_mels, 0)
    frames = wave.unfold(-1, size, step)
    frames = frames - frames.mean(-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
    window = torch.hann_window(size, periodic=False, dtype=wave.dtype, device=wave.device)
    length = 1 << (size - 1).bit_length()
    power = torch.fft.rfft((frames - 0.97 * before) * window, n=length).abs().square()
    energy: Tensor = power @ kaldi_mel_bank(rate, length, n_mels).to(wave).T
    return energy.clamp_min(2.0**-23).log().transpose(-1, -2)


@lru_cache(maxsize=16)
def kaldi_mel_bank(rate: int, n_fft: int, n_mels: int) -> Tensor:
    """(n_mels, n_fft / 2 + 1) filters that are triangles on the mel scale 1127 log(1 + f / 700), from 20 Hz to half the rate.

    A filter narrower than the bins are apart may be zero everywhere, and nothing falls into the bin at half the rate.
    """
    edges = torch.linspace(0, 1, n_mels + 2, dtype=torch.float64)
    low, high = (1127 * torch.log1p(torch.tensor(hz / 700, dtype=torch.float64)) for hz in (20.0, rate / 2))
    edges = low + edges * (high - low)
    bins = 1127 * torch.log1p(torch.arange(n_fft // 2, dtype=torch.float64) * rate / n_fft / 700)
    width = edges[1] - edges[0]
    rising, falling = (bins - edges[:-2, None]) / width, (edges[2:, None] - bins) / width
    return pad(torch.minimum(rising, falling).clamp_min(0), (0, 1)).float()


def clip_starts(samples: int, clip: int, count: int) -> list[int]:
    """First samples of `count` clips of `clip` samples, spread evenly from the sound's start to its end.

    Example:
        >>> clip_starts(100, 20, 3), clip_starts(10, 20, 3)
        ([0, 40, 80], [0, 0, 0])
    """
    last = max(samples - clip, 0)
    return [round(last * index / max(count - 1, 1)) for index in range(count)]


def kaldi_clips(
    wave: Tensor, rate: int = 16000, n_mels: int = 128, *, clips: int = 3, seconds: float = 2.0, frames: int = 204
) -> Tensor:
    """Filter banks of clips of one sound, each without its own mean and continued with zeros to a number of frames.

    Args:
        wave: (S,) samples in [-1, 1].
        rate: sampling rate in Hz.
        n_mels: number of filters F.
        clips: number of clips K; those of a shorter sound than one clip are all the same.
        seconds: length of a clip.
        frames: T; 2 seconds have 198, and zeros follow. The zeros come before any standardisation.

    Returns:
        (K, F, T).

    Source: Girdhar et al. 2023, appendix B (three clips of two seconds, then (x + 4.268) / 9.138).
    """
    size = round(seconds * rate)
    parts = []
    for start in clip_starts(len(wave), size, clips):
        clip = wave[start : start + size]
        bank = kaldi_fbank(clip - clip.mean(), rate, n_mels)[:, :frames]
        parts.append(pad(bank, (0, frames - bank.shape[1])))
    return torch.stack(parts)
