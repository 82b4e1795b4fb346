"""The first minute: a small multimodal set as ordinary files, and the ordinary path on it.

Pictures are the handwritten digits that scikit-learn ships, each with a blot; sounds are the tones of the telephone key
in noise. The picture is learnt fast, the sound slowly: what joint training makes of that is what the demo shows.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from polymodal.analysis.linear_probe import linear_probe
from polymodal.errors import InputError
from polymodal.predictor import Predictor
from polymodal.run import RunFolder, notes_in_files_only

__all__ = ["demo", "sentence", "write_set"]

SAMPLES = 1797  # all that scikit-learn ships
RATE = 8000  # Hz
SECONDS, TONE = 0.25, 0.15  # of a sound, and of the tone in it
SNR = -10.0  # dB, of the tone against the noise under it
BLOT = 7  # pixels of 16
LOW, HIGH = (697, 770, 852, 941), (1209, 1336, 1477)  # Hz, rows and columns of the telephone's keys
KEYS = {d: ((d - 1) // 3, (d - 1) % 3) if d else (3, 1) for d in range(10)}

MODALITIES = ("image", "sound")
SMALL = {"width": 8, "depth": 3, "dropout": 0.0}
"""Both encoders alike, whatever the defaults: what holds one back must be the other alone."""
RUNS: dict[str, dict[str, Any]] = {
    "ume": {"recipe": "ume"},
    "joint": {"balancer": "joint"},
    "multi_loss": {"balancer": "multi_loss"},
    "mlb": {"balancer": {"name": "mlb", "alpha": 0.5, "beta_max": 10}},
}
SAID = {
    "ume": "each modality alone, and their ensemble",
    "joint": "both at once, by the fused loss alone",
    "multi_loss": "both at once, with a loss for each",
    "mlb": "both at once, with balanced gradients",
}
GAP = 0.05
"""An encoder is called starved from this loss of probe accuracy on."""

Row = dict[str, Any]


def demo(
    out: str | Path = "polymodal-demo",
    seed: int = 0,
    *,
    samples: int = SAMPLES,
    epochs: int = 12,
    show: bool | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Write the set, train it in every way, print the comparison and leave run folders and a report.

    Args:
        out: new folder; gets `data/`, `runs/<method>/`, `report.html` and `comparison.json`.
        seed: of the pairing, the noise and the training.
        samples: at most 1797.
        epochs: of each training.
        show: force progress bars on or off; by default they show on a terminal.
        say: prints a line.

    Returns:
        `rows` by method (`accuracy`, `se`, `probes` by modality), the `sentence`, its figures under `shown`, `seconds`.

    Raises:
        InputError: the folder is not empty, or settings out of range.
    """
    began = time.perf_counter()
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"folder {out} exists and is not empty; name a new one with --out")
    if not 100 <= samples <= SAMPLES or epochs < 1 or seed < 0:
        raise InputError(f"samples={samples}, epochs={epochs}, seed={seed}; 100 to {SAMPLES}, 1 or more, 0 or more")
    table = write_set(out / "data", seed, samples)
    say(f"{samples} samples in {table}: a handwritten digit as a picture, and its telephone key as a sound in noise")
    split = pd.read_csv(table)["split"].to_numpy()
    rows: dict[str, Row] = {}
    with _one_thread(), notes_in_files_only():
        for number, (name, settings) in enumerate(RUNS.items(), 1):
            started = time.perf_counter()
            predictor = _predictor(settings, out / "runs" / name, seed, epochs, show).fit(table)
            rows |= _rows(name, predictor, table, split)
            say(f"[{number}/{len(RUNS)}] {name}: {SAID[name]} ({time.perf_counter() - started:.0f} s)")
    shown = figures(rows)
    result = {"rows": rows, "sentence": sentence(shown), "shown": shown, "seed": seed}
    RunFolder(out, resume=True).write_json("comparison.json", result)
    _print_table(rows, say)
    say(f"\n{result['sentence']}\n")
    from polymodal.analysis import compare

    others = [name for name in RUNS if name != "joint"]
    compare([out / "runs" / name for name in ("joint", *others)], out / "report.html")
    say(f"Runs are in {out / 'runs'}, the comparison in {out / 'report.html'} ({time.perf_counter() - began:.0f} s).")
    return result | {"seconds": time.perf_counter() - began}


# The set --------------------------------------------------------------------------------------------------------------


def write_set(folder: Path, seed: int, samples: int = SAMPLES) -> Path:
    """Write images/*.png, sounds/*.wav and table.csv; returns the table's path. The files are a function of the seed."""
    import soundfile
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = np.random.default_rng(seed)
    order = random.permutation(len(digits.target))[:samples]
    (folder / "images").mkdir(parents=True)
    (folder / "sounds").mkdir()
    rows = []
    for number, place in enumerate(order):
        digit, name = int(digits.target[place]), f"{number:04d}"
        image, sound = f"images/{name}.png", f"sounds/{name}.wav"
        Image.fromarray(_blotted(digits.images[place], random)).save(folder / image)
        soundfile.write(folder / sound, _key_tone(digit, random), RATE, subtype="PCM_16")
        part = "test" if number < samples // 3 else "valid" if number < samples * 4 // 9 else "train"
        rows.append({"id": name, "image": image, "sound": sound, "digit": digit, "split": part})
    path = folder / "table.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def _blotted(image: np.ndarray[Any, Any], random: np.random.Generator) -> np.ndarray[Any, Any]:
    """8 x 8 of 0 to 16, as 16 x 16 bytes with a grey square somewhere."""
    pixels = np.kron(image * (255 / 16), np.ones((2, 2))).astype(np.uint8)
    row, column = random.integers(0, 16 - BLOT + 1, 2)
    pixels[row : row + BLOT, column : column + BLOT] = 128
    return pixels


def _key_tone(digit: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """The two tones of a telephone key, at a random moment, in white noise: float (S,) within (-1, 1)."""
    count, length = round(SECONDS * RATE), round(TONE * RATE)
    row, column = KEYS[digit]
    phase = random.uniform(0, 2 * math.pi, 2)
    seconds = np.arange(length) / RATE
    pair = sum(np.sin(2 * math.pi * f * seconds + p) for f, p in zip((LOW[row], HIGH[column]), phase, strict=True))
    wave = random.standard_normal(count) * 10 ** (-SNR / 20)  # the pair has power 1
    start = random.integers(0, count - length + 1)
    wave[start : start + length] += pair
    scaled: np.ndarray[Any, Any] = wave * (0.9 / np.abs(wave).max())
    return scaled


# Training and figures -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Models this small lose more by dividing a step than they gain, and figures do not hang on the number of processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _predictor(settings: Mapping[str, Any], run: Path, seed: int, epochs: int, show: bool | None) -> Predictor:
    return Predictor(
        label="digit",
        out=run,
        show=show,
        seed=seed,
        epochs=epochs,
        select="last",  # what training does to an encoder is compared at equal length
        modalities=["image=image:image", "sound=sound:audio"],
        encoders={"image": SMALL | {"name": "image_cnn"}, "sound": SMALL | {"name": "spectrogram_cnn"}},
        optimizer="sgd",
        lr=0.03,
        **settings,
    )


def _rows(name: str, predictor: Predictor, table: Path, split: np.ndarray[Any, Any]) -> dict[str, Row]:
    """The rows of one run: the fused model, and with UME each modality alone as well."""
    digit = pd.read_csv(table)["digit"].to_numpy()
    train, test = split == "train", split == "test"
    probes = {
        m: linear_probe(one[train], digit[train], one[test], digit[test])
        for m, one in predictor.features(table).items()
    }
    count = int(test.sum())
    rows = {}
    if name == "ume":
        for m, alone in predictor.metrics["unimodal"]["test"].items():
            rows[f"{m} alone"] = _row(alone["accuracy"], count, {m: probes[m]})
    rows[name] = _row(predictor.metrics["test"]["accuracy"], count, probes)
    return rows


def _row(accuracy: float, count: int, probes: dict[str, float]) -> Row:
    return {"accuracy": accuracy, "se": math.sqrt(accuracy * (1 - accuracy) / count), "probes": probes}


def figures(rows: Mapping[str, Row]) -> dict[str, Any]:
    """What the sentence is about: the encoder that joint training costs most, and what gives most of it back.

    `gap` = probe alone - probe in the joint model; `recovered` = share of the gap that `remedy` closes.
    """
    alone, joint = ({m: rows[name]["probes"][m] for m in MODALITIES} for name in ("ume", "joint"))
    starved = max(MODALITIES, key=lambda m: alone[m] - joint[m])
    remedy = max(("multi_loss", "mlb"), key=lambda name: rows[name]["probes"][starved])
    gap = alone[starved] - joint[starved]
    regained = rows[remedy]["probes"][starved] - joint[starved]
    return {
        "starved": starved,
        "alone": alone[starved],
        "joint": joint[starved],
        "gap": gap,
        "remedy": remedy,
        "regained": regained,
        "recovered": regained / gap if gap > 0 else 0.0,
        "fused": {name: rows[name]["accuracy"] for name in ("joint", remedy)},
        "se": rows["joint"]["se"],
    }


def sentence(shown: Mapping[str, Any]) -> str:
    """What the figures show, whichever way they turned out."""
    m, remedy = shown["starved"], {"multi_loss": "Multi-Loss", "mlb": "MLB"}[shown["remedy"]]
    if shown["gap"] < GAP:
        return (
            f"Here joint training left no encoder behind: the largest loss is that of {m}, whose linear probe reads "
            f"{shown['joint']:.3f} of the test digits in the joint model and {shown['alone']:.3f} trained alone."
        )
    before, after = shown["fused"]["joint"], shown["fused"][shown["remedy"]]
    change = f"lifts the fused accuracy from {before:.3f} to {after:.3f}"
    if after - before < shown["se"]:
        change = f"leaves the fused accuracy where it was within a standard error ({before:.3f}, now {after:.3f})"
    if before - after > shown["se"]:
        change = f"costs fused accuracy ({before:.3f}, now {after:.3f})"
    returns = f"gives back {min(shown['recovered'], 1):.0%} of that"
    if shown["recovered"] < 0.5:
        returns = f"gives back only {max(shown['recovered'], 0):.0%} of that"
    return (
        f"Trained jointly, the {m} encoder starves: a linear probe of it reads {shown['joint']:.3f} of the test digits, "
        f"against {shown['alone']:.3f} when the same encoder is trained alone; {remedy} {returns} and {change}."
    )


def _print_table(rows: Mapping[str, Row], say: Callable[[str], None]) -> None:
    """On a terminal a drawn table, plain columns elsewhere."""
    heads = ["", "test accuracy", *(f"probe of {m}" for m in MODALITIES)]
    lines = []
    for name, row in rows.items():
        probes = [f"{row['probes'][m]:.3f}" if m in row["probes"] else "" for m in MODALITIES]
        lines.append([name, f"{row['accuracy']:.3f} ± {row['se']:.3f}", *probes])
    if say is print and sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(*heads)
        for line in lines:
            table.add_row(*line)
        Console().print(table)
        return
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
    say("")
    for line in [heads, *lines]:
        say("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
