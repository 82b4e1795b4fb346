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
from polymodal.data.inputs.moments import Moments
from polymodal.data.inputs.padding import Value, pad_sequences
from polymodal.data.media.audio import (
    default_hop,
    default_n_fft,
    default_n_mels,
    frame_count,
    log_magnitude,
    log_mel,
)
from polymodal.data.media.sound import probe_sound, read_wave
from polymodal.types import Padded

__all__ = ["AudioInput"]

REPRESENTATIONS = ("log_mel", "log_magnitude", "waveform")


@dataclass(eq=False)
class AudioInput(Input):
    """Sound, padded or cut to one length for all samples.

    `shape` is (1, F, T) for spectrograms and (1, S) for waveforms; a batch is `Padded(values, mask)` with values
    (B, 1, F, T) or (B, 1, S) float32 and mask (B, T) or (B, S). Padding is zero after standardisation.

    Options:
        representation: "log_mel", "log_magnitude" or "waveform".
        sample_rate: Hz; default the most common one of the training part, at most 16000.
        max_seconds: longer sounds are cut; default the 99th percentile of the training part, at most 10.
        n_fft, hop: window and step in samples; default 32 ms up to a power of two and 10 ms (log_mel), 512 and 353.
        n_mels: number of mel filters; default 40 up to 8 kHz, 64 above.
        mel_scale: "slaney" or "htk".
        pad_mode: what surrounds the signal, "constant" or "reflect".
        standardize: whether to subtract `mean` and divide by `std`.
        mean, std: by frequency bin (one number for waveforms); default those of the training part.
    """

    representation: str = "log_mel"
    sample_rate: int | None = None
    max_seconds: float | None = None
    n_fft: int | None = None
    hop: int | None = None
    n_mels: int | None = None
    mel_scale: str = "slaney"
    pad_mode: str = "constant"
    standardize: bool = True
    mean: list[float] | None = None
    std: list[float] | None = None

    reads_files: ClassVar[bool] = True

    def check(self) -> None:
        self.require_numbers("sample_rate", "n_fft", "hop", "n_mels")
        self.require_numbers("max_seconds", whole=False)
        self.require("representation", self.representation in REPRESENTATIONS, "one of " + ", ".join(REPRESENTATIONS))
        self.require("mel_scale", self.mel_scale in ("slaney", "htk"), "slaney or htk")
        self.require("pad_mode", self.pad_mode in ("constant", "reflect"), "constant or reflect")

    def probe(self, rows: Sequence[tuple[Any, ...]], root: Path) -> None:
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
        self.hop = self.hop or (default_hop(rate) if mel else 353)
        self.n_mels = self.n_mels or default_n_mels(rate)

    def decode(self, cells: tuple[Any, ...], root: Path) -> NDArray[np.float32] | None:
        """(F, T) spectrogram or (1, S) waveform."""
        if cells[0] is None:
            return None
        path = resolve(cells[0], root)
        if self.sample_rate is None:
            read_wave(path, 16000)  # says what is wrong with this file, as with all others
        rate, samples = self._format()
        wave = torch.from_numpy(np.ascontiguousarray(read_wave(path, rate)[:samples]))
        if self.representation == "waveform":
            values = wave[None]
        elif self.representation == "log_magnitude":
            values = log_magnitude(wave, self.n_fft or 512, self.hop or 353, self.pad_mode)
        else:
            options = {"n_fft": self.n_fft, "hop": self.hop, "n_mels": self.n_mels}
            values = log_mel(wave, rate, **options, scale=self.mel_scale, pad_mode=self.pad_mode)
        return np.ascontiguousarray(values.numpy())

    def _format(self) -> tuple[int, int]:
        """Sampling rate and number of samples of the longest sound."""
        if self.sample_rate is None or self.max_seconds is None:
            raise self.unsettled()
        return self.sample_rate, max(1, round(self.max_seconds * self.sample_rate))

    def fit(self, decoded: Iterable[NDArray[np.float32]]) -> None:
        if not self.standardize or (self.mean is not None and self.std is not None):
            return
        moments = Moments()
        for values in decoded:
            moments.update(values.T)
        self.mean, self.std = moments.result()

    def empty(self) -> NDArray[np.float32]:
        return np.zeros((self.shape[-2], 0), np.float32)

    def pack(self, decoded: Sequence[NDArray[np.float32]]) -> Padded:
        # Time first while padding, then last; the copy makes frequency rows contiguous again.
        values, mask = pad_sequences([values.T for values in decoded], self.shape[-1])
        values = values.transpose(1, 2).contiguous()
        return Padded(values if self.representation == "waveform" else values[:, None], mask)

    def finish(self, packed: Value) -> Padded:
        assert isinstance(packed, Padded)
        values, mask = packed
        if self.standardize and self.mean is not None and self.std is not None:
            values = (values - torch.tensor(self.mean)[:, None]) / torch.tensor(self.std)[:, None]
            values = values.masked_fill_(~_over_bins(mask, values), 0)
        return Padded(values, mask)

    @property
    def shape(self) -> tuple[int, ...]:
        _, samples = self._format()
        if self.representation == "waveform":
            return 1, samples
        bins = (self.n_mels or 0) if self.representation == "log_mel" else (self.n_fft or 512) // 2 + 1
        return 1, bins, frame_count(samples, self.hop or 353)


def _over_bins(mask: Tensor, values: Tensor) -> Tensor:
    """Mask (B, T) with dimensions of size 1 up to those of `values`."""
    return mask.reshape(len(mask), *[1] * (values.dim() - 2), -1)
