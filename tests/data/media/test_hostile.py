"""Damaged and hostile files: named by their row, never more memory than they hold, never another file opened.

`benchmarks/fuzz_media.py` does the same with thousands of inputs in processes with limits.
"""

from __future__ import annotations

import json
import pickle
import struct
import tempfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from polymodal.data.check import check_table
from polymodal.data.media.arrays import read_array
from polymodal.data.media.image import read_image
from polymodal.data.media.sound import read_wave
from polymodal.data.media.video import read_frames
from polymodal.data.miniature.media import picture, write_clip
from polymodal.data.table import Table, read_table
from polymodal.datasets.safe_files import open_hdf5, read_set
from polymodal.errors import InputError

KINDS = {
    "jpg": "image", "png": "image", "gif": "image", "webp": "image", "tif": "image", "bmp": "image", "wav": "audio",
    "flac": "audio", "ogg": "audio", "mp4": "video", "avi": "video", "flv": "video", "npy": "vector",
}  # fmt: skip


@cache
def valid(suffix: str) -> bytes:
    """A small file of that kind."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{suffix}"
        if KINDS[suffix] == "image":
            Image.fromarray(picture(1, random)).save(path)
        elif KINDS[suffix] == "audio":
            soundfile.write(path, 0.3 * np.sin(np.arange(2000) / 9), 8000)
        elif KINDS[suffix] == "video":
            write_clip(path, np.stack([picture(1, random) for _ in range(4)]), 10)
        else:
            np.save(path, random.normal(size=(5, 4)).astype(np.float32))
        return path.read_bytes()


def looked_into(folder: Path, name: str, data: bytes, kind: str):
    (folder / name).write_bytes(data)
    frame = pd.DataFrame({"file": pd.Series([name], dtype=object)})
    return check_table(Table(frame, folder, "table"), modalities=[f"file=file:{kind}"], workers=0, show=False)


@pytest.mark.parametrize("suffix", KINDS)
def test_valid_ones_are_read(tmp_path, suffix):
    assert looked_into(tmp_path, f"x.{suffix}", valid(suffix), KINDS[suffix]).broken == []


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    suffix=st.sampled_from(sorted(KINDS)),
    named=st.sampled_from(sorted(KINDS)),
    renamed=st.booleans(),
    cut=st.one_of(st.none(), st.floats(0, 1)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=12),
)
def test_damaged_ones_are_named_or_read(suffix, named, renamed, cut, flips):
    data = bytearray(valid(suffix))
    for place, bit in flips:
        data[int(place**2 * len(data))] ^= 1 << bit  # more of them in front, where sizes are
    name = named if renamed else suffix
    with tempfile.TemporaryDirectory() as folder:
        whole = data if cut is None else data[: int(cut * len(data))]
        found = looked_into(Path(folder), f"x.{name}", bytes(whole), KINDS[name])
    assert [(one.row, one.place, one.modality) for one in found.broken] in ([], [(0, "row 1", "file")])
    if cut == 0:
        assert "empty" in found.broken[0].reason


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def wav(rate: int, size: int, samples: bytes) -> bytes:
    head = (b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16, b"data", size)
    return struct.pack("<4sI4s4sIHHIIHH4sI", *head) + samples


def flac(samples: int) -> bytes:
    told = ((8000 << 44) | (15 << 36) | samples).to_bytes(8, "big")
    return b"fLaC\x80\0\0\x22" + struct.pack(">HH", 4096, 4096) + bytes(6) + told + bytes(16)


def npy(shape: str, kind: str = "<f4", data: bytes = b"") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode() + data


CONCAT = b"ffconcat version 1.0\nfile '{}'\n"
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("x.png", png(100_000, 100_000), "10000000000 pixels"),
        ("x.png", png(8000, 8000), "8000 x 8000 pixels, more than 50,000,000"),
        ("x.ppm", b"P6 90000 90000 255\nxxxx", "8100000000 pixels"),
        ("x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not a readable image"),
        ("x.flac", flac(2**36 - 1), "68719476735 samples by its header"),
        ("x.wav", wav(1, 40_000, bytes(40_000)), "20000 s of sound at 1 Hz; more than 134,217,728 samples"),
        ("x.wav", wav(8000, 2**30, bytes(4000)), "truncated"),
        ("x.npy", npy("(1000000000, 1000)"), "or truncated"),
        ("x.npy", npy("(-1, 4)"), "not a readable .npy file"),
        ("x.npy", npy("(1,)", "|O", pickle.dumps([1])), "not a readable .npy file"),
        ("x.npy", npy("(1,)", "<U4", bytes(16)), "expected one array of real numbers"),
        ("x.npy", npy("(" * 300), "not a readable .npy file"),
    ],
)
def test_headers_that_promise_too_much(tmp_path, name, data, expected):
    path = tmp_path / name
    path.write_bytes(data)
    read: Any = {"png": read_image, "ppm": read_image, "npy": read_array}.get(
        name[2:], lambda one: read_wave(one, 16000)
    )
    with pytest.raises(InputError, match=expected) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("text", [CONCAT, PLAYLIST])
@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "mp3", "wav"])
def test_lists_of_other_files_are_not_followed(tmp_path, text, suffix):
    inner = write_clip(
        tmp_path / "inner.mp4", np.stack([picture(0, np.random.default_rng(0))] * 4), 10, np.zeros(4000, np.float32)
    )
    assert len(read_frames(inner, 2, (8, 8))) == 2
    path = tmp_path / f"list.{suffix}"
    path.write_bytes(text.replace(b"{}", str(inner).encode() if text == PLAYLIST else b"inner.mp4"))
    with pytest.raises(InputError, match="not a readable"):
        read_wave(path, 8000)
    with pytest.raises(InputError, match="not a readable"):
        read_frames(path, 2, (8, 8))


def test_names_that_look_like_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "x.mp4", np.stack([picture(0, np.random.default_rng(0))] * 4), 10).rename("concat:x.mp4")
    assert read_frames(Path("concat:x.mp4"), 1, (8, 8)).shape == (1, 8, 8, 3)


def test_too_large_frames(tmp_path, monkeypatch):
    path = write_clip(tmp_path / "x.mp4", np.stack([picture(0, np.random.default_rng(0))] * 4), 10)
    monkeypatch.setattr("polymodal.data.media.container.LIMITS", {"max_pixels": "1000"})
    with pytest.raises(InputError, match="damaged or truncated"):
        read_frames(path, 1, (8, 8))


def test_sound_that_is_too_long(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "x.wav", np.zeros(5000), 8000)
    write_clip(tmp_path / "x.mp4", np.stack([picture(0, np.random.default_rng(0))] * 4), 10, np.zeros(8000, np.float32))
    monkeypatch.setattr("polymodal.data.media.sound.LONGEST", 4000)
    for name in ("x.wav", "x.mp4"):
        with pytest.raises(InputError, match="cut the file into pieces"):
            read_wave(tmp_path / name, 8000)


def test_channels_are_averaged_block_by_block(tmp_path, monkeypatch):
    waves = np.random.default_rng(0).uniform(-1, 1, (5000, 3)).astype(np.float32)
    soundfile.write(tmp_path / "x.wav", waves, 8000, subtype="FLOAT")
    monkeypatch.setattr("polymodal.data.media.sound.BLOCK", 1000)
    assert read_wave(tmp_path / "x.wav", 8000) == pytest.approx(waves.mean(1), abs=1e-6)


def test_transparency_strip_by_strip(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (23, 7, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    monkeypatch.setattr("polymodal.data.media.image.STRIP", 5)
    alpha = pixels[..., 3:] / 255
    assert np.abs(read_image(tmp_path / "x.png") - (pixels[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1


def test_hdf5_that_promises_too_much(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("zeros", shape=(10**9, 100), dtype="f4", chunks=(1000, 100))
        file["few"] = np.arange(6)
        file.create_group("folder")
    with open_hdf5(tmp_path / "x.h5") as file:
        assert read_set(file, "few").tolist() == [0, 1, 2, 3, 4, 5]
        with pytest.raises(InputError, match="'zeros' would take 400000000000 bytes"):
            read_set(file, "zeros")
        for name in ("folder", "none"):
            with pytest.raises(InputError, match=f"no data set '{name}'"):
                read_set(file, name)
    data = (tmp_path / "x.h5").read_bytes()
    (tmp_path / "x.h5").write_bytes(data[:300])
    with pytest.raises(InputError, match="not a readable HDF5 file"), open_hdf5(tmp_path / "x.h5"):
        pass


def test_deep_json_lines(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"a": 1}) + "\n" + '{"a":' * 50_000)
    with pytest.raises(InputError, match="line 2: not JSON"):
        read_table(tmp_path / "x.jsonl")
