"""Clips a second of the loader beside a bare loop over PyAV, soundfile or Pillow, in the same run; frames; cache; memory.

The bare loop decodes each file to its end with one thread and keeps what the loader keeps: three frames of 112 x 112, ten
seconds at 16 kHz, or a picture of 224 x 224. The loader makes batches of float32 of them besides. Loops take turns, and the
least time of each counts. Without workers times are of the processor. With two workers they are of the clock, from the moment
that both have given a batch, as their start is counted aside; they mean something on two free cores alone. What two cores can do
at best is printed beside them: two bare loops at once, each over all files in a process of its own.

    python benchmarks/pipeline.py [--files 24] [--rounds 5] [--check]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

import numpy as np

BARS = {"no workers": 0.9, "two workers": 1.6, "cache": 10.0, "memory": 1.10}
SECONDS, FPS, SIZE, KEPT = 4, 25, (240, 320), 3
VIDEO = {  # codec, and frames from one key frame to the next
    "mp4": ("libx264", 250),
    "avi": ("mpeg4", 12),
    "flv": ("flv", 12),
    "mkv": ("libx264", 50),
}


class Row(NamedTuple):
    """Seconds for all files: bare, loader without and with two workers, loader from the cache; on processor and clock.

    `both` is what two bare loops at once take, each for all files.
    """

    bare: float
    none: float
    bare_clock: float
    two: float
    both: float
    cache: float | None


def write_video(path: Path, seed: int) -> None:
    """A moving picture; the place of a bright bar in its lowest rows tells the number of each frame."""
    import av

    random = np.random.default_rng(seed)
    ground = random.integers(0, 200, (SIZE[0] // 8, SIZE[1] // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    codec, group = VIDEO[path.suffix[1:]]
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream(codec, rate=FPS)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *SIZE, "yuv420p", group
        stream.bit_rate = 1_000_000
        for i in range(SECONDS * FPS):
            pixels = np.roll(ground, (i, 2 * i), (0, 1))
            pixels[-24:] = 0
            pixels[-24:, 3 * i : 3 * i + 6] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def write_wav(path: Path, seed: int) -> None:
    import soundfile

    wave = np.random.default_rng(seed).normal(size=(441000, 2)) * 0.1
    soundfile.write(path, wave, 44100)


def write_jpg(path: Path, seed: int) -> None:
    from PIL import Image

    ground = np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(ground.repeat(8, 0).repeat(8, 1)).save(path, quality=90)


def bare_video(path: Path) -> np.ndarray:
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        total = stream.frames or SECONDS * FPS
        wanted = {(2 * i + 1) * total // (2 * KEPT) for i in range(KEPT)}
        kept = [
            frame.to_ndarray(format="rgb24", height=112, width=112, interpolation="AREA")
            for i, frame in enumerate(container.decode(stream))
            if i in wanted
        ]
    return np.stack(kept)


def bare_wav(path: Path) -> np.ndarray:
    import soundfile
    import soxr

    wave, rate = soundfile.read(path, dtype="float32")
    return np.asarray(soxr.resample(wave.mean(1), rate, 16000))


def bare_jpg(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as picture:
        return np.array(picture.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR, reducing_gap=3.0))


KINDS: dict[str, tuple[str, Callable[[Path, int], None], Callable[[Path], np.ndarray], dict[str, Any]]] = {
    **{
        name: ("video", write_video, bare_video, {"frames": KEPT, "height": 112, "width": 112, "channels": 3})
        for name in VIDEO
    },
    "wav": ("audio", write_wav, bare_wav, {"representation": "waveform", "sample_rate": 16000, "max_seconds": 10.0}),
    "jpg": ("image", write_jpg, bare_jpg, {"height": 224, "width": 224, "channels": 3}),
}


MORE = {"wav": 4, "jpg": 16}
"""How many times as many files of what is read fast: what an epoch costs beside its files must not decide."""
BATCHES = 12
"""Of each epoch, so that two workers share them evenly."""


def loader(
    folder: Path, names: Sequence[str], kind: str, options: dict[str, Any], workers: int, held: int, batch: int = 2
) -> Any:
    """Batches of the files; `held` bytes of decoded samples stay in memory."""
    import pandas as pd

    from polymodal.data.cache import Cache
    from polymodal.data.inputs import make_input
    from polymodal.data.loader import Loader
    from polymodal.data.samples import Samples
    from polymodal.data.schema import infer
    from polymodal.data.table import Table

    frame = pd.DataFrame({"file": pd.Series(names, dtype=object), "label": ["a", "b"] * (len(names) // 2)})
    table = Table(frame, folder, "table")
    schema = infer(table, "label", modalities=[f"file=file:{kind}"])
    inputs = {"file": make_input(schema.modalities["file"], standardize=False, **options)}
    samples = Samples(table, np.arange(len(names)), schema, inputs, cache=Cache(held))
    samples.probe()
    if held:
        samples.decode_all(workers=0)
        samples.fit()
    return Loader(samples, batch, shuffle=False, seed=0, workers=workers)


def seconds(do: Callable[[], Iterable[Any]]) -> tuple[float, float]:
    """Of the processor, this process alone, and of the clock."""
    began, clock = time.process_time(), time.perf_counter()
    for _ in do():
        pass
    return time.process_time() - began, time.perf_counter() - clock


def after_start(batches: Iterable[Any], workers: int, count: int) -> float:
    """Seconds by the clock for all `count` batches, by those that come after each worker has given one."""
    began = 0.0
    for number, _ in enumerate(batches, 1):
        if number == workers:
            began = time.perf_counter()
    return (time.perf_counter() - began) * count / (count - workers)


def loop(folder: Path, name: str, count: int) -> float:
    """Seconds by the clock of a bare loop, in a process of `two_bare`."""
    began = time.perf_counter()
    for i in range(count):
        KINDS[name][2](folder / f"{i}.{name}")
    return time.perf_counter() - began


def two_bare(pool: ProcessPoolExecutor, folder: Path, name: str, count: int) -> float:
    """Seconds that two bare loops take side by side."""
    return max(pool.map(loop, [folder] * 2, [name] * 2, [count] * 2))


def measure(folder: Path, name: str, files: int, rounds: int) -> Row:
    kind, write, bare, options = KINDS[name]
    names = [f"{i}.{name}" for i in range(files * MORE.get(name, 1))]
    for i, one in enumerate(names):
        write(folder / one, i)
    batch = len(names) // BATCHES
    none, two = (loader(folder, names, kind, options, workers, 0, batch) for workers in (0, 2))
    cached = loader(folder, names, kind, options, 0, 2**30, batch) if kind == "video" else None
    loops: dict[str, Callable[[], Iterable[Any]]] = {
        "bare": lambda: (bare(folder / one) for one in names),
        "none": lambda: none,
    }
    if cached is not None:
        loops["cache"] = lambda: cached
    found: dict[str, list[tuple[float, float]]] = {one: [] for one in loops}
    together: list[tuple[float, float]] = []
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        two_bare(pool, folder, name, 1)
        for _ in range(rounds):
            for one, do in loops.items():
                found[one].append(seconds(do))
            together.append((after_start(two, 2, len(two)), two_bare(pool, folder, name, len(names))))
    least = {one: tuple(min(times) for times in zip(*runs, strict=True)) for one, runs in found.items()}
    cache = least["cache"][0] if cached is not None else None
    shared, both = (min(times) for times in zip(*together, strict=True))
    return Row(least["bare"][0], least["none"][0], least["bare"][1], shared, both, cache)


def exact(folder: Path, name: str) -> bool:
    """Whether each frame that is read is the frame of that number, told by its bar."""
    from polymodal.data.media.video import read_frames

    path = folder / f"exact.{name}"
    write_video(path, 0)
    total = SECONDS * FPS
    for count in (1, 3, 7, total):
        places = [(2 * i + 1) * total // (2 * count) for i in range(count)]
        bars = read_frames(path, count, None)[:, -14:-4, :, :].mean((1, 3))
        found = [round((np.flatnonzero(one > 128).mean() - 2.5) / 3) for one in bars]
        if found != places:
            print(f"{name}: asked for {places}, read {found}")
            return False
    return True


def peak(folder: Path, rows: int) -> int:
    """Largest resident bytes of a process that goes once through a table of so many rows with 8 MB of cache."""
    command = [sys.executable, __file__, "--through", str(rows), "--folder", str(folder)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def through(folder: Path, rows: int) -> None:
    import resource

    names = [f"{i % 16}.jpg" for i in range(rows)]
    options = {"height": 64, "width": 64, "channels": 3}
    for _ in loader(folder, names, "image", options, 0, 8 * 2**20):
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=24, help="of each kind of video, a multiple of 12")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--quiet-machine", action="store_true", help="also hold the two workers against their bar")
    parser.add_argument("--through", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if asked.through:
        through(asked.folder, asked.through)
        return
    wrong = []
    print(
        "| file | bare, clips/s | loader | of bare | two workers, of bare (clock) | two bare loops, of one | cache, of decoding "
        "| frame-exact |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for one in asked.kinds:
            row = measure(folder, one, asked.files, asked.rounds)
            alone, both = row.bare / row.none, row.bare_clock / row.two
            possible = 2 * row.bare_clock / row.both
            cache = "" if row.cache is None else f"{row.none / row.cache:.0f}"
            frames = "" if one not in VIDEO else "yes" if exact(folder, one) else "NO"
            count = asked.files * MORE.get(one, 1)
            print(
                f"| {one} | {count / row.bare:.0f} | {count / row.none:.0f} | {alone:.2f} | {both:.2f} | {possible:.2f} "
                f"| {cache} | {frames} |",
                flush=True,
            )
            wrong += [f"{one}: {alone:.2f} of the bare loop"] * (alone < BARS["no workers"])
            wrong += [f"{one}: {both:.2f} with two workers"] * (asked.quiet_machine and both < BARS["two workers"])
            wrong += [f"{one}: cache"] * (row.cache is not None and row.none / row.cache < BARS["cache"])
            wrong += [f"{one}: frames"] * (frames == "NO")
        if "jpg" in asked.kinds:
            small, large = peak(folder, 40), peak(folder, 4000)
            print(f"\nLargest memory: {small / 2**20:.0f} MiB with 40 rows, {large / 2**20:.0f} MiB with 4000.")
            wrong += ["memory grows with the table"] * (large > BARS["memory"] * small)
    for one in wrong:
        print(f"below its bar: {one}")
    if asked.check and wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
