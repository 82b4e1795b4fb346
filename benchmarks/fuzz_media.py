"""Damaged and hostile files of every kind, each read as training does: no crash, no hang, no memory above a gigabyte.

Every input is written into a table and looked into by `check_table`, or into a copy of a data set that its reader opens, in a
worker process with a limit of memory and of time. An input passes if the worker names it as broken by its row, or reads it, in
less than 5 s and 1 GiB; it fails if the worker ends, hangs, runs out of memory, or raises anything but an `InputError`.

    python benchmarks/fuzz_media.py [--inputs 2000] [--seed 0] [--check]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import resource
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

SECONDS, BYTES = 5.0, 2**30
KINDS = {
    "jpg": "image", "png": "image", "gif": "image", "webp": "image", "tif": "image", "bmp": "image", "wav": "audio",
    "flac": "audio", "ogg": "audio", "mp3": "audio", "mp4": "video", "avi": "video", "mkv": "video", "flv": "video",
    "npy": "vector", "h5": "mmimdb", "csv": "table", "jsonl": "table", "parquet": "table", "json": "list", "pkl": "pickle",
}  # fmt: skip


class Input(NamedTuple):
    """A file's name, what was done to it, its bytes, and how it is read."""

    name: str
    damage: str
    data: bytes
    kind: str


class Found(NamedTuple):
    """What became of an input: "named" as broken, "read", or what is wrong; and the seconds and bytes that it took."""

    outcome: str
    detail: str
    seconds: float
    peak: int


def originals(folder: Path) -> dict[str, bytes]:
    """A small valid file of each kind."""
    import av
    import h5py
    import pandas as pd
    import soundfile
    from PIL import Image

    random = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    pixels = random.integers(0, 255, (24, 32, 3), dtype=np.uint8)
    for one in ("jpg", "png", "gif", "webp", "tif", "bmp"):
        Image.fromarray(pixels).save(folder / f"x.{one}")
    wave = (0.3 * np.sin(np.arange(4000) / 9)).astype(np.float32)
    for one in ("wav", "flac", "ogg", "mp3"):
        soundfile.write(folder / f"x.{one}", wave, 8000)
    for one, codec in (("mp4", "h264"), ("avi", "mpeg4"), ("mkv", "ffv1"), ("flv", "flv")):
        with av.open(str(folder / f"x.{one}"), "w") as out:
            stream = out.add_stream(codec if codec != "h264" or _has("libx264") else "mpeg4", rate=8)
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
            for _ in range(12):
                frame = av.VideoFrame.from_ndarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8), format="rgb24")
                out.mux(stream.encode(frame.reformat(format="yuv420p")))
            out.mux(stream.encode())
    np.save(folder / "x.npy", random.normal(size=(5, 4)).astype(np.float32))
    table = pd.DataFrame({"a": random.normal(size=6), "text": list("uvwxyz"), "label": list("pqpqpq")})
    table.to_csv(folder / "x.csv", index=False)
    table.to_json(folder / "x.jsonl", orient="records", lines=True)
    table.to_parquet(folder / "x.parquet")
    with h5py.File(folder / "x.h5", "w") as file:
        file["features"] = random.normal(size=(6, 8)).astype(np.float32)
        file["genres"] = random.integers(0, 2, (6, 23))
        file["sequences"] = np.array([[1, 2, 3]] * 6)
        file["imdb_ids"] = np.array([b"0001"] * 6)
    (folder / "x.json").write_text(json.dumps({"train": ["a", "b"], "dev": ["c"], "test": ["d"], "1": {"train": []}}))
    (folder / "x.pkl").write_bytes(pickle.dumps({"train": {"text": wave[:40].reshape(4, 10), "labels": [1, 2]}}, 4))
    return {one.suffix[1:]: one.read_bytes() for one in sorted(folder.iterdir())}


def _has(codec: str) -> bool:
    import av

    return codec in av.codecs_available


def truncated(data: bytes, random: np.random.Generator) -> bytes:
    return data[: random.integers(1, len(data))]


def flipped(data: bytes, random: np.random.Generator) -> bytes:
    """One to thirty bits; half of the time only in the head, where sizes are."""
    found = bytearray(data)
    reach = len(found) if random.random() < 0.5 else min(len(found), 256)
    for place in random.integers(0, reach * 8, random.integers(1, 31)):
        found[place // 8] ^= 1 << (place % 8)
    return bytes(found)


def overwritten(data: bytes, random: np.random.Generator) -> bytes:
    """A field of 2, 4 or 8 bytes with the largest, or a large, number."""
    found, width = bytearray(data), int(random.choice([2, 4, 8]))
    place = int(random.integers(0, max(1, min(len(found), 600) - width)))
    value = random.choice(np.array([2 ** (8 * width - 1) - 1, 2 ** (8 * width - 2), 2 ** (4 * width)], dtype=np.uint64))
    found[place : place + width] = int(value).to_bytes(width, str(random.choice(["little", "big"])))  # type: ignore[arg-type]
    return bytes(found)


def spliced(data: bytes, random: np.random.Generator) -> bytes:
    """A piece taken out, or put in twice."""
    a, b = sorted(random.integers(0, len(data), 2).tolist())
    return data[:a] + data[b:] if random.random() < 0.5 else data[:b] + data[a:]


def noise(data: bytes, random: np.random.Generator) -> bytes:
    """The first bytes, by which formats are told, and noise behind them."""
    keep = int(random.integers(0, 64))
    return data[:keep] + random.bytes(int(random.integers(1, 4000)))


DAMAGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "truncated": truncated, "flipped": flipped, "overwritten": overwritten, "spliced": spliced, "noise": noise,
}  # fmt: skip


def hostile() -> list[Input]:
    """Made by hand: headers that promise far more than the file holds, bombs, lists of other files, empty files, pickles."""
    found = [Input(f"empty.{one}", "zero length", b"", kind) for one, kind in KINDS.items()]

    def png(width: int, height: int, kind: int = 6, rows: int = 0) -> bytes:
        def chunk(name: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

        body = zlib.compress(bytes(width * {2: 3, 6: 4}[kind] + 1) * rows, 9) if rows else b"x"
        head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")

    for width, height in ((100_000, 100_000), (2**31 - 1, 1), (60_000, 60_000)):
        found.append(Input("huge.png", "huge header", png(width, height), "image"))
    found.append(Input("bomb.png", "bomb", png(7000, 7000, 6, 7000), "image"))
    found.append(Input("bomb2.png", "bomb", png(12_000, 12_000, 2, 12_000), "image"))
    found.append(
        Input(
            "huge.bmp",
            "huge header",
            b"BM" + struct.pack("<IIIIiiHHIIiiII", 100, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
            "image",
        )
    )
    found.append(
        Input(
            "huge.gif",
            "huge header",
            b"GIF89a"
            + struct.pack("<HH", 65535, 65535)
            + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x4c\x01\0;",
            "image",
        )
    )
    found.append(Input("huge.ppm", "huge header", b"P6 90000 90000 255\nxxxx", "image"))
    for rate, channels, size in ((8000, 1, 2**31 - 1), (1, 1, 4000), (2**31 - 1, 1, 4000), (8000, 65535, 131070)):
        block = channels * 2 % 65536
        head = struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            b"RIFF",
            2**31 - 1,
            b"WAVE",
            b"fmt ",
            16,
            1,
            channels,
            rate,
            rate * 2 % 2**32,
            block,
            16,
            b"data",
            size,
        )
        found.append(Input("huge.wav", "huge header", head + bytes(4000), "audio"))
    flac = (
        b"fLaC\x80\0\0\x22"
        + struct.pack(">HH", 4096, 4096)
        + bytes(6)
        + ((8000 << 44) | (15 << 36) | (2**36 - 1)).to_bytes(8, "big")
        + bytes(16)
    )
    found.append(Input("huge.flac", "huge header", flac, "audio"))
    for shape in ("(1000000000, 1000)", "(-1, 4)", "(5,) * 10**9", "(" * 500):
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        found.append(
            Input(
                "huge.npy", "huge header", b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text.encode(), "vector"
            )
        )
    found.append(
        Input(
            "object.npy",
            "hostile",
            b"\x93NUMPY\x01\0"
            + struct.pack("<H", 60)
            + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(59)
            + b"\n"
            + pickle.dumps([_Evil()]),
            "vector",
        )
    )
    found.append(Input("evil.pkl", "hostile", pickle.dumps({"train": _Evil()}), "pickle"))
    found.append(Input("huge.pkl", "huge header", b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "pickle"))
    found.append(Input("deep.json", "hostile", b"[" * 200_000, "list"))
    found.append(Input("deep.jsonl", "hostile", b'{"a":' * 100_000, "table"))
    found.append(
        Input(
            "wide.csv", "hostile", b",".join(b"c%d" % i for i in range(3000)) + b"\n" + b"1," * 2999 + b"1\n", "table"
        )
    )
    found.append(Input("null.csv", "hostile", b"a,label\n\0\0\0,\0\n" * 50, "table"))
    secret = b"ffconcat version 1.0\nfile '/etc/hostname'\n"
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n"
    for name in ("list.mp4", "list.avi", "list.mkv", "list.wav", "list.mp3"):
        found += [Input(name, "list of files", one, KINDS[name[-3:]]) for one in (secret, playlist)]
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/fuzz-ran) (w) file closefile\nshowpage\n"
    found.append(Input("script.png", "hostile", eps, "image"))
    return found


class _Evil:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {tempfile.gettempdir()}/fuzz-ran",)


def inputs(count: int, seed: int, folder: Path) -> list[Input]:
    """`count` inputs, the same for the same seed."""
    random, valid = np.random.default_rng(seed), originals(folder)
    found = hostile()
    found += [Input(f"x.{one}", "valid", valid[one], kind) for one, kind in KINDS.items()]
    names = list(KINDS)
    for one in names:  # content of another kind under this name
        for other in random.choice([name for name in names if name != one], 3, replace=False):
            found.append(Input(f"x.{one}", "wrong extension", valid[str(other)], KINDS[one]))
    while len(found) < count:
        one, damage = names[len(found) % len(names)], str(random.choice(list(DAMAGES)))
        found.append(Input(f"x.{one}", damage, DAMAGES[damage](valid[one], random), KINDS[one]))
    return found[:count]


def read(one: Input, folder: Path) -> tuple[str, str]:
    """("named", message) or ("read", ""); whatever else it raises is a failure."""
    from polymodal.data.check import check_table
    from polymodal.data.table import Table
    from polymodal.datasets.mmimdb_hdf5 import read_hdf5
    from polymodal.datasets.records import read_json
    from polymodal.datasets.safe_files import load_pickle
    from polymodal.errors import InputError

    path = folder / one.name
    path.write_bytes(one.data)
    try:
        if one.kind in ("image", "audio", "video", "vector"):
            import pandas as pd

            frame = pd.DataFrame({"file": pd.Series([one.name], dtype=object)})
            table = Table(frame, folder, "table")
            found = check_table(table, modalities=[f"file=file:{one.kind}"], workers=0, show=False)
            broken = [(b.row, b.place, b.modality, b.reason) for b in found.broken]
            assert len(broken) < 2, broken
            if broken and broken[0][:3] != (0, "row 1", "file"):
                raise AssertionError(f"named as {broken}")
            decode(one.kind, table)
            return ("named", broken[0][3]) if broken else ("read", "")
        if one.kind == "table":
            check_table(path, workers=0, show=False)
        elif one.kind == "mmimdb":
            read_hdf5(path, {"train": 4, "valid": 1, "test": 1})
        elif one.kind == "pickle":
            load_pickle(path)
        else:
            read_json(path)
    except InputError as error:
        return "named", str(error)
    return "read", ""


def decode(kind: str, table: object) -> None:
    """As training does: settle the input by the file, and decode it if that worked."""
    from polymodal.data.inputs import make_input
    from polymodal.data.schema import Modality
    from polymodal.errors import InputError

    one = make_input(Modality("file", ("file",), kind))
    rows, root = [(table.cells("file")[0],)], table.root  # type: ignore[attr-defined]
    try:
        one.probe(rows, root)
        one.decode(rows[0], root)
    except InputError:
        pass


def work(pipe: Connection, seed: int, count: int, folder: str) -> None:
    """Read the inputs whose numbers arrive, and send back what became of each."""
    import warnings

    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    own = Path(folder) / str(os.getpid())
    own.mkdir()
    todo = inputs(count, seed, own / "valid")
    for one in ("jpg", "wav", "mp4", "csv", "npy"):  # libraries are loaded before memory is counted
        read(Input(f"warm.{one}", "valid", (own / "valid" / f"x.{one}").read_bytes(), KINDS[one]), own)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2 * BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    pipe.send(None)
    while (number := pipe.recv()) is not None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        began = time.process_time()
        try:
            outcome, detail = read(todo[number], own)
        except BaseException as error:
            outcome, detail = "raised", f"{type(error).__name__}: {error}"
        seconds = time.process_time() - began
        if any(one in detail for one in ("MemoryError", "Unable to allocate", "Cannot allocate memory")):
            outcome = "memory"
        peak = next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )
        pipe.send(Found(outcome, detail[:300], seconds, peak))


class Worker:
    """A process that reads inputs, and another one when it ends."""

    def __init__(self, *settings: object) -> None:
        self.settings = settings
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, *self.settings), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()

    def read(self, number: int, patience: float) -> Found:
        self.pipe.send(number)
        try:
            if self.pipe.poll(patience):
                return self.pipe.recv()  # type: ignore[no-any-return]
            found = Found("hang", f"no answer in {patience:.0f} s", patience, 0)
        except EOFError:
            self.process.join()
            found = Found("crash", f"exit code {self.process.exitcode}", 0.0, 0)
        self.process.kill()
        self.process.join()
        self.start()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=300.0, help="seconds on the clock that one input may take")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ran = Path(tempfile.gettempdir()) / "fuzz-ran"
    ran.unlink(missing_ok=True)
    table: dict[tuple[str, str], Counter[str]] = {}
    wrong, slowest, largest = [], Found("", "", 0.0, 0), Found("", "", 0.0, 0)
    with tempfile.TemporaryDirectory() as name:
        todo = inputs(asked.inputs, asked.seed, Path(name) / "valid")
        worker = Worker(asked.seed, asked.inputs, name)
        for number, one in enumerate(todo):
            found = worker.read(number, asked.patience)
            bad = found.outcome not in ("named", "read") or found.seconds > SECONDS or found.peak > BYTES
            bad |= (one.damage == "valid" and one.kind != "mmimdb" and found.outcome != "read") or ran.exists()
            if bad:
                wrong.append((one, found))
                print(f"{number}: {one.name}, {one.damage}: {found}", flush=True)
            kind = one.name.rsplit(".", 1)[-1]
            table.setdefault((kind, one.kind), Counter())[found.outcome] += 1
            slowest = max(slowest, found, key=lambda one: one.seconds)
            largest = max(largest, found, key=lambda one: one.peak)
        worker.process.kill()
    print("| file | inputs | named as broken | read | failed |\n| --- | --- | --- | --- | --- |")
    for (kind, _), counts in table.items():
        failed = sum(counts.values()) - counts["named"] - counts["read"]
        print(f"| {kind} | {sum(counts.values())} | {counts['named']} | {counts['read']} | {failed} |")
    print(
        f"{len(todo)} inputs, {len(wrong)} failed; slowest {slowest.seconds:.2f} s of processor ({slowest.detail[:80]})"
    )
    print(
        f"most memory {largest.peak / 2**20:.0f} MiB in all ({largest.detail[:80]}); pickles ran code: {ran.exists()}"
    )
    shutil.rmtree(ran, ignore_errors=True)
    if asked.check and wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
