"""Sound as an input: spectrograms or waveforms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.data.inputs.base import Input, probe_files, resolve
from polymodal.data.inputs.computed import computed_options, read_computed
from polymodal.data.inputs.moments import Moments
from polymodal.data.inputs.padding import Value, pad_sequences
from polymodal.data.media.audio import (
    default_hop,
    default_n_fft,
    default_n_mels,
    frame_count,
    log_magnitude,
    log_mel,
    log_power,
)
from polymodal.data.media.augment import mask_spectrogram
from polymodal.data.media.filter_bank import kaldi_clips
from polymodal.data.media.sound import probe_sound, read_wave
from polymodal.types import Padded

__all__ = ["AudioInput"]

REPRESENTATIONS = ("log_mel", "log_magnitude", "log_power", "waveform", "kaldi_clips")


@dataclass(eq=False)
class AudioInput(Input):
    """Sound, padded or cut to one length for all samples; a .npy file holds one that `data prepare` computed.

    `shape` is (1, F, T) for spectrograms and (1, S) for waveforms; a batch is `Padded(values, mask)` with values
    (B, 1, F, T) or (B, 1, S) float32 and mask (B, T) or (B, S). Padding is zero after standardisation. Clips of Kaldi's
    filter bank have `shape` (K, 1, F, T), and a batch of them is a tensor (B, K, 1, F, T) whose padding is standardised
    with the rest.

    Options:
        representation: "log_mel", "log_magnitude", "log_power", "waveform" or "kaldi_clips".
        sample_rate: Hz; default the most common one of the training part, at most 16000.
        max_seconds: longer sounds are cut; default the 99th percentile of the training part, at most 10.
        tile: whether a shorter sound is repeated up to `max_seconds`.
        clamp: whether samples beyond -1 and 1, which resampling may make, are cut off.
        n_fft, hop: window and step in samples; default 32 ms up to a power of two and 10 ms (log_mel), 512 and 353 (159 of
            log_power).
        n_mels: number of mel filters; default 40 up to 8 kHz, 64 above; 128 of clips.
        mel_scale: "slaney" or "htk".
        pad_mode: what surrounds the signal, "constant" or "reflect".
        clips, clip_seconds, clip_frames: K, their length, and T with the zeros behind it (kaldi_clips).
        standardize: whether to subtract `mean` and divide by `std`.
        mean, std: by frequency bin, or one number for all; default those of the training part.
        augment: "none", or "spec_augment": in training a band of frequencies and a stretch of time, drawn anew in each epoch,
            hold the mean instead; not of waveforms.
        mask_bins, mask_frames: how wide they are at most; default 27 of 80 bins, and a fifth of the frames up to 100.
    """

    representation: str = "log_mel"
    sample_rate: int | None = None
    max_seconds: float | None = None
    tile: bool = False
    clamp: bool = False
    n_fft: int | None = None
    hop: int | None = None
    n_mels: int | None = None
    mel_scale: str = "slaney"
    pad_mode: str = "constant"
    clips: int = 3
    clip_seconds: float = 2.0
    clip_frames: int = 204
    standardize: bool = True
    mean: list[float] | None = None
    std: list[float] | None = None
    augment: str = "none"
    mask_bins: int | None = None
    mask_frames: int | None = None

    reads_files: ClassVar[bool] = True

    def check(self) -> None:
        self.require_numbers(
            "sample_rate", "n_fft", "hop", "n_mels", "clips", "clip_frames", "mask_bins", "mask_frames"
        )
        self.require_numbers("max_seconds", "clip_seconds", whole=False)
        self.require("representation", self.representation in REPRESENTATIONS, "one of " + ", ".join(REPRESENTATIONS))
        self.require("mel_scale", self.mel_scale in ("slaney", "htk"), "slaney or htk")
        self.require("pad_mode", self.pad_mode in ("constant", "reflect"), "constant or reflect")
        self.require("augment", self.augment in ("none", "spec_augment"), "none or spec_augment")
        spectral = self.augment == "none" or self.representation != "waveform"
        self.require("augment", spectral, "none for waveforms, which have no frequencies to mask")

    def probe(self, rows: Sequence[tuple[Any, ...]], root: Path) -> None:
        for name, value in computed_options(rows, root).items():
            if getattr(self, name, 0) is None:
                setattr(self, name, value)
        if self.sample_rate is None or self.max_seconds is None:
            found = probe_files(rows, 256, root, probe_sound)
            if not found:
                return
            if self.sample_rate is None:
                self.sample_rate = min(16000, Counter(one.rate for one in found).most_common(1)[0][0])
            if self.max_seconds is None:
                longest = np.percentile([one.seconds for one in found], 99, method="higher")
                self.max_seconds = min(10.0, max(float(longest), 1 / self.sample_rate))
        self._settle(self.sample_rate)

    def _settle(self, rate: int) -> None:
        mel = self.representation == "log_mel"
        self.n_fft = self.n_fft or (default_n_fft(rate) if mel else 512)
        self.hop = self.hop or (default_hop(rate) if mel else 159 if self.representation == "log_power" else 353)
        self.n_mels = self.n_mels or (128 if self._clipped else default_n_mels(rate))

    @property
    def _clipped(self) -> bool:
        return self.representation == "kaldi_clips"

    def decode(self, cells: tuple[Any, ...], root: Path) -> NDArray[np.float32] | None:
        """(F, T) spectrogram, (1, S) waveform or (K, 1, F, T) clips."""
        if cells[0] is None:
            return None
        path = resolve(cells[0], root)
        if path.suffix == ".npy":
            return read_computed(path, self.computation(), self.shape)
        if self.sample_rate is None:
            read_wave(path, 16000)  # says what is wrong with this file, as with all others
        rate, samples = self._format()
        sound = read_wave(path, rate)[:samples]
        if self.tile:
            sound = np.resize(sound, samples)
        wave = torch.from_numpy(np.ascontiguousarray(sound.clip(-1, 1) if self.clamp else sound))
        if self.representation == "waveform":
            values = wave[None]
        elif self._clipped:
            seconds, frames = self.clip_seconds, self.clip_frames
            banks = kaldi_clips(wave, rate, self.n_mels or 128, clips=self.clips, seconds=seconds, frames=frames)
            values = banks[:, None]
        elif self.representation == "log_magnitude":
            values = log_magnitude(wave, self.n_fft or 512, self.hop or 353, self.pad_mode)
        elif self.representation == "log_power":
            values = log_power(wave, rate, self.n_fft or 512, self.hop or 159)
        else:
            options = {"n_fft": self.n_fft, "hop": self.hop, "n_mels": self.n_mels}
            values = log_mel(wave, rate, **options, scale=self.mel_scale, pad_mode=self.pad_mode)
        return np.ascontiguousarray(values.numpy())

    def computation(self) -> dict[str, Any]:
        """The options, once settled, that what `decode` gives depends on."""
        names = ["representation", "sample_rate", "max_seconds", "tile", "clamp", "n_fft", "hop", "n_mels", "mel_scale"]
        names += ["pad_mode", *(["clips", "clip_seconds", "clip_frames"] if self._clipped else [])]
        return {name: getattr(self, name) for name in names}

    def _format(self) -> tuple[int, int]:
        """Sampling rate and number of samples of the longest sound."""
        if self.sample_rate is None or self.max_seconds is None:
            raise self.unsettled()
        return self.sample_rate, max(1, round(self.max_seconds * self.sample_rate))

    @property
    def random(self) -> bool:
        return self.augment != "none"

    def vary(
        self, material: NDArray[np.float32], cells: tuple[Any, ...], random: np.random.Generator
    ) -> NDArray[np.float32]:
        known = self.standardize and self.mean is not None
        spectrograms = material.reshape(-1, *material.shape[-2:])
        _, count, length = spectrograms.shape
        bins, frames = self.mask_bins or count * 27 // 80, self.mask_frames or min(100, length // 5)
        masked = [
            mask_spectrogram(one, bins, frames, np.array(self.mean)[:, None] if known else one.mean(), random)
            for one in spectrograms
        ]
        return np.stack(masked).reshape(material.shape)

    def fit(self, decoded: Iterable[NDArray[np.float32]]) -> None:
        if not self.standardize or (self.mean is not None and self.std is not None):
            return
        moments = Moments()
        for values in decoded:
            moments.update(values.swapaxes(-1, -2).reshape(-1, values.shape[-2]) if self._clipped else values.T)
        self.mean, self.std = moments.result()

    def empty(self) -> NDArray[np.float32]:
        return np.zeros(self.shape if self._clipped else (self.shape[-2], 0), np.float32)

    def pack(self, decoded: Sequence[NDArray[np.float32]]) -> Value:
        if self._clipped:
            return torch.from_numpy(np.stack(decoded))
        # Time first while padding, then last; the copy makes frequency rows contiguous again.
        values, mask = pad_sequences([values.T for values in decoded], self.shape[-1])
        values = values.transpose(1, 2).contiguous()
        return Padded(values if self.representation == "waveform" else values[:, None], mask)

    def finish(self, packed: Value) -> Value:
        if not self.standardize or self.mean is None or self.std is None:
            return packed
        mean, std = torch.tensor(self.mean)[:, None], torch.tensor(self.std)[:, None]
        if isinstance(packed, Tensor):
            return (packed - mean) / std
        values, mask = packed
        return Padded(((values - mean) / std).masked_fill_(~_over_bins(mask, values), 0), mask)

    @property
    def shape(self) -> tuple[int, ...]:
        _, samples = self._format()
        if self.representation == "waveform":
            return 1, samples
        if self._clipped:
            return self.clips, 1, self.n_mels or 128, self.clip_frames
        if self.representation == "log_power":
            n_fft, hop = self.n_fft or 512, self.hop or 159
            return 1, n_fft // 2 + 1, 1 + max(0, samples - n_fft) // hop
        bins = (self.n_mels or 0) if self.representation == "log_mel" else (self.n_fft or 512) // 2 + 1
        return 1, bins, frame_count(samples, self.hop or 353)


def _over_bins(mask: Tensor, values: Tensor) -> Tensor:
    """Mask (B, T) with dimensions of size 1 up to those of `values`."""
    return mask.reshape(len(mask), *[1] * (values.dim() - 2), -1)
