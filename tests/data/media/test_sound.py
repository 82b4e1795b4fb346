from __future__ import annotations

import numpy as np
import pytest
import soundfile

from polymodal.data.media.sound import probe_sound, read_wave
from polymodal.errors import InputError
from tests.data.files import cut, numbered_frames, write_clip, write_sound


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_formats_of_soundfile(tmp_path, name):
    path = write_sound(tmp_path / name, seconds=0.5)
    wave = read_wave(path, 8000)
    assert wave.dtype == np.float32
    assert len(wave) == 4000
    assert np.abs(wave).max() == pytest.approx(0.5, abs=0.05)
    assert probe_sound(path) == (8000, 0.5)


def test_channels_are_averaged(tmp_path):
    both = np.stack([np.full(100, 0.5), np.full(100, -0.25)], 1)
    soundfile.write(tmp_path / "a.wav", both, 8000, subtype="FLOAT")
    np.testing.assert_allclose(read_wave(tmp_path / "a.wav", 8000), 0.125)


def test_resampling_keeps_the_tone(tmp_path):
    wave = read_wave(write_sound(tmp_path / "a.wav", seconds=1, rate=22050, pitch=1000), 8000)
    assert abs(len(wave) - 8000) <= 1
    assert np.abs(np.fft.rfft(wave[:8000])).argmax() == pytest.approx(1000, abs=2)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi"])
def test_sound_track_of_a_video(tmp_path, name):
    path = write_clip(tmp_path / name, numbered_frames(12))
    wave = read_wave(path, 8000)
    assert len(wave) == pytest.approx(12 * 320, abs=2200)  # AAC adds silence at both ends
    tone = np.abs(np.fft.rfft(wave[: 12 * 320])).argmax() * 8000 / (12 * 320)
    assert tone == pytest.approx(440, abs=10)
    assert probe_sound(path).rate == 8000


def test_mp3(tmp_path):
    import av

    path = tmp_path / "a.mp3"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libmp3lame", rate=16000, layout="mono")
        tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.int16)
        block = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        block.sample_rate = 16000
        for piece in av.AudioResampler("s16p", "mono", 16000).resample(block):
            out.mux(stream.encode(piece))
        out.mux(stream.encode())
    wave = read_wave(path, 8000)
    assert np.abs(np.fft.rfft(wave[:8000])).argmax() == pytest.approx(440, abs=4)


@pytest.mark.parametrize("name", ["a.wav", "a.mkv"])
def test_truncated(tmp_path, name):
    path = tmp_path / name
    path = write_sound(path) if name == "a.wav" else write_clip(path, numbered_frames(25))
    cut(path, 0.3)
    with pytest.raises(InputError, match="truncated") as caught:
        read_wave(path, 8000)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.mkv"])
@pytest.mark.parametrize("content", [b"", b"this is not sound at all " * 40, b"RIFF"])
def test_not_sound(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        InputError, match="is empty" if not content else "not a readable audio file|no decoder|no audio"
    ):
        read_wave(tmp_path / name, 8000)


def test_missing_silent_and_infinite(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_wave(tmp_path / "none.wav", 8000)
    with pytest.raises(InputError, match="no audio stream"):
        read_wave(write_clip(tmp_path / "mute.mkv", numbered_frames(3), sound=False), 8000)
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 1)), 8000)
    with pytest.raises(InputError, match="no samples"):
        read_wave(tmp_path / "none.wav", 8000)
    soundfile.write(tmp_path / "nan.wav", np.full(10, np.nan), 8000, subtype="FLOAT")
    with pytest.raises(InputError, match="NaN or infinite"):
        read_wave(tmp_path / "nan.wav", 8000)


def test_wav_written_to_a_pipe_has_no_length(tmp_path):
    path = write_sound(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    data[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(read_wave(path, 8000)) == 1600
