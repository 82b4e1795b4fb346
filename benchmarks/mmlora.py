"""MMLoRA and everything its paper compares it with, in small: tables 3, 4, 5, 8, 9, 10 and 13 on digits and emoji.

    python benchmarks/mmlora.py ../shared/data [--minutes 90 | --full] [--check] [--out FILE] [--cache FOLDER]
    python benchmarks/mmlora.py ../shared/data --sets digits_noisy --methods ume mmlora_r1 --seeds 1 --epochs 2   # a smoke test

Digits (clean and noisy) have small encoders from scratch; emoji (`name` and `keywords`) MiniLM and EfficientNet-Lite0 of the
extra `pretrained-small`; there ranks above 1 adapt the text alone, beside which the pictures' predictions come from the cache.
Rank 64 has no row on digits, whose layers are smaller. Settings are fixed beforehand, the same for all that trains alike; the
best epoch on validation is kept, test is read once. Uni-modal phases are trained once a seed and length and shared by all
methods that begin with one; "short" is a fifth of the length. `kept` counts the seeds in which validation preferred the adapted
model to its ensemble.
Runs are kept in FOLDER as soon as they end, so that the same command goes on where it was stopped. Rows that something is
claimed of come first, the others in their order for all sets; with a time limit a cell is begun only if it should end in time.
`--check` exits with 1 where a row of the table of claims does not hold.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import logging
import re
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _cells import Cell, alone, command, gap, work, write
from _common import Results, Settings, expanded, markdown, mean_sd, signed, source_digest

ROOMS = (
    "adapters", "balancers", "encoders", "fusion", "data", "recipes", "model", "fit", "loop", "evaluate", "tasks", "types",
    "metrics", "distributed", "optim",
)  # fmt: skip
SGD = {"name": "sgd", "lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4}
DIGITS: dict[str, Any] = {
    "encoders": {
        "video": {"name": "frame_cnn", "width": 16, "dropout": 0.0},
        "audio": {"name": "spectrogram_cnn", "width": 8, "dropout": 0.0},
    },
    "optimizer": SGD,
    "stages": {
        "mmlora": {"optimizer": {"name": "adamw", "lr": 2e-3}, "train": {"epochs": 10}},
        "full_ume": {"optimizer": {"lr": 0.003}, "train": {"epochs": 10}},
        "frozen_features": {"optimizer": {"name": "adamw", "lr": 1e-3}, "train": {"epochs": 50}},
    },
}
EMOJI: dict[str, Any] = {
    "preset": "small",
    "data": {"inputs": {"image": {"image_size": 128}}},  # at most: the pictures have 64 pixels and are not enlarged
    "optimizer": {"name": "adamw", "lr": 2e-4, "weight_decay": 0.01},
    "stages": {
        "unimodal_image": {"optimizer": {"lr": 1e-3}},
        "mmlora": {"optimizer": {"lr": 1e-3}, "train": {"epochs": 2}},
        "full_ume": {"optimizer": {"lr": 5e-5}, "train": {"epochs": 2}},
        "frozen_features": {"optimizer": {"lr": 1e-3}, "train": {"epochs": 50}},
    },
}
SETS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], int, dict[str, Any]]] = {
    "digits_noisy": ("grid_digits", ("--snr", "-5"), ("video=video:video", "audio=audio:audio"), 25, DIGITS),
    "digits_clean": ("grid_digits", (), ("video=video:video", "audio=audio:audio"), 25, DIGITS),
    "emoji_name": ("emoji_groups", (), ("image=image:image", "name=name:text"), 3, EMOJI),
    "emoji_keywords": ("emoji_groups", (), ("image=image:image", "keywords=keywords:text"), 3, EMOJI),
}
"""What expand.py is asked for, the columns, epochs of the uni-modal phase and of joint training, and the settings."""
CLAIMS = (
    ("digits_noisy", "mmlora_r1", "ume", -0.02, 0.02),
    ("emoji_name", "frozen_raw: logistic regression", None, 0.81, 1.0),
    ("emoji_name", "ume", None, 0.82, 1.0),
    ("emoji_name", "joint", None, 0.83, 1.0),
)
"""Set, method (behind a colon: one of its further rows), what it is compared with (nothing: its own accuracy), and the limits
of the mean."""


def methods_of(name: str) -> dict[str, dict[str, Any]]:
    """Recipe, its settings and the length of the uni-modal phase, by the name of the row."""
    modalities = [one.partition("=")[0] for one in SETS[name][2]]
    lora: dict[str, Any] = {"recipe": "mmlora", "keep": "adapted"}
    text = [m for m in modalities if m in ("name", "keywords")]
    factors: dict[str, dict[str, Any]] = {
        "mmlora_logit_short": {**lora, "rank": 1, "combine": "logit", "phase": "short"},
        "mmlora_multi_loss_short": {**lora, "rank": 1, "balancer": "multi_loss", "phase": "short"},
        "full_ume_short": {"recipe": "full_ume", "phase": "short"},
    }
    return {
        "ume": {"recipe": "ume"},
        "mmlora_r1": {**lora, "rank": 1},
        "joint": {"recipe": "joint"},
        "frozen_features": {"recipe": "frozen_features"},
        "frozen_raw": {"recipe": "frozen_features", "fine_tune": False},
        "full_ume": {"recipe": "full_ume"},
        **{f"mmlora_r1_{m}": {**lora, "rank": 1, "modalities": [m]} for m in modalities},
        "ume_short": {"recipe": "ume", "phase": "short"},
        "mmlora_r1_short": {**lora, "rank": 1, "phase": "short"},
        "mmlora_logit": {**lora, "rank": 1, "combine": "logit"},
        **({} if text else factors),
        "mmlora_no_phase": {**lora, "rank": 1, "fine_tune": False},
        "ogm_ge": {"recipe": "joint", "balancer": {"name": "ogm_ge", "param_filter": "weights", "alpha": 0.3}},
        "linear_raw": {"recipe": "linear_eval"},
        **({} if text else {f"mmlora_r{rank}": {**lora, "rank": rank} for rank in (2, 4, 8)}),
        **{f"mmlora_r{rank}_{m}": {**lora, "rank": rank, "modalities": [m]} for rank in (2, 4, 8, 64) for m in text},
    }


@functools.cache
def assembled(name: str, data: str, folder: str) -> Any:
    """A predictor that has read and decoded a set; each worker does it once."""
    import polymodal as pm
    from polymodal.config import load_config

    kind, options, modalities, _, settings = SETS[name]
    columns = {**settings.get("data", {}), "modalities": list(modalities)}
    config = load_config({"label": "label", **settings, "data": columns})
    predictor = pm.Predictor(config=config, show=False)
    return predictor, predictor._assemble(str(expanded(Path(data), kind, Path(folder), *options)), None)


def run(job: Settings, data: str, folder: str) -> dict[str, Any]:
    """One method: validation and test figures, parameters that train, seconds and peak memory beyond the uni-modal phase."""
    import torch

    from polymodal import names
    from polymodal.analysis.linear_probe import encoder_features, linear_probe
    from polymodal.config import load_config
    from polymodal.evaluate import evaluate
    from polymodal.recipes.base import Only
    from polymodal.recipes.ume import ume

    torch.set_num_threads(1)
    logging.getLogger("polymodal").setLevel(logging.ERROR)
    spec = dict(job["trial"])
    recipe, balancer, phase = spec.pop("recipe"), spec.pop("balancer", "joint"), spec.pop("phase", "full")
    predictor, parts = assembled(job["data"], data, folder)
    epochs = max(1, job["epochs"] // 5) if phase == "short" else job["epochs"]
    values = SETS[job["data"]][4] | {"seed": job["seed"], "balancer": balancer}
    columns = {**values.pop("data", {}), "modalities": list(SETS[job["data"]][2])}
    train = {"epochs": epochs if recipe in ("ume", "mmlora", "full_ume") else job["epochs"], "device": "cpu"}
    predictor.config = load_config({"label": "label", "data": columns, "train": train, **values})
    setup = predictor._setup(parts, None)
    test = predictor._loader(parts.samples["test"], 256)
    own = ("joint", "linear_eval")
    if recipe not in own and spec.get("fine_tune", True):
        kind, options, *_ = SETS[job["data"]]  # both emoji sets have the same pictures
        name = "-".join([kind, *options, str(epochs), str(job["seed"]), source_digest(*ROOMS)])
        alone(setup, Path(folder) / "phases" / name)
    began = time.perf_counter()
    with peak_memory() as peak:
        result = names.resolve("recipes", recipe)(setup, **spec)
    seconds = time.perf_counter() - began

    def figures(model: Any) -> dict[str, float]:
        found = evaluate(model, Only(test, model.modalities), setup.task).metrics
        return {"accuracy": found["accuracy"], "ece": found["ece"]}

    row: dict[str, Any] = {"test": figures(result.model), "valid": setup.evaluate(result.model).metrics, "also": {}}
    if recipe == "ume":
        row["also"] = {f"{m} alone": figures(one) for m, one in result.unimodal.items()}
        row["also"]["ume, logits"] = figures(ume(setup, "logit").model)
    if recipe == "frozen_features" and not spec.get("fine_tune", True):
        # As SCIENCE.md probes: standardised, so that no encoder's scale rules.
        (x, y, _), (x_test, y_test, _) = (encoder_features(result.model, part) for part in (setup.train, test))
        both = [np.concatenate([one[m] for m in result.model.modalities], 1) for one in (x, x_test)]
        row["also"] = {"logistic regression": {"accuracy": linear_probe(both[0], y, both[1], y_test)}}
    if recipe == "linear_eval":
        row["also"] = {f"{m}, linear on raw features": figures(one) for m, one in result.unimodal.items()}
    return row | {"trainable": trainable(setup, recipe, spec, result), "seconds": round(seconds, 2), "memory": peak[0]}


def trainable(setup: Any, recipe: str, spec: Settings, result: Any) -> int:
    """Parameters that the method's last stage trains."""
    from polymodal.adapters.lora import inject_lora

    if recipe == "ume":
        return 0
    if recipe == "mmlora":
        count = 0
        for m, encoder in result.model.encoders.items():
            if m in (spec.get("modalities") or result.model.modalities):
                count += inject_lora(copy.deepcopy(encoder), spec["rank"]).counts().trainable
        heads = 0 if spec.get("fine_tune", True) else sum(p.numel() for p in result.model.heads.parameters())
        return count + heads
    parts = [result.model.fusion, result.model.heads]
    if recipe in ("joint", "full_ume"):
        parts.append(result.model.encoders)
    return sum(p.numel() for part in parts for p in part.parameters())


@contextlib.contextmanager
def peak_memory() -> Any:
    """MiB that this process grew by at its largest within the block; Linux only, else not a number."""
    found = [float("nan")]
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else what an earlier run left in the heap hides what this one takes
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
    except (OSError, AttributeError):
        yield found
        return
    yield found
    found[0] = _resident("VmHWM") - before


def _resident(what: str) -> float:
    match = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) / 1024 if match else float("nan")


# The tables -----------------------------------------------------------------------------------------------------------


def table(data: str, cells: list[Cell]) -> str:
    """Markdown of one set."""
    own = {cell.method: cell.result() for cell in cells if cell.data == data and cell.result()}
    if not own:
        return f"### {data}\n\nNothing was run to the end."

    def against(name: str) -> str | None:
        base = "ume_short" if name.endswith("short") else "ume"
        return base if base in own and name not in ("ume", "ume_short") else None

    lines = []
    for name, rows in own.items():
        base = against(name)
        kept = ""
        if base and name.startswith("mmlora"):
            pairs = zip(rows, own[base], strict=True)
            kept = f"{sum(_merit(one) >= _merit(two) for one, two in pairs)} of {len(rows)}"
        lines.append(
            [
                name,
                mean_sd([row["test"]["accuracy"] for row in rows]),
                signed(gap(rows, own[base])) if base else "",
                mean_sd([row["test"]["ece"] for row in rows]),
                kept,
                f"{rows[0]['trainable']:,}",
                f"{np.median([row['seconds'] for row in rows]):.1f}",
                f"{np.median([row['memory'] for row in rows]):.0f}",
            ]
        )
        for also in rows[0]["also"]:
            accuracy, ece = ([row["also"][also].get(key) for row in rows] for key in ("accuracy", "ece"))
            told = "" if None in ece else mean_sd(ece)
            lines.append([f"{also} ({name})", mean_sd(accuracy), "", told, "", "", "", ""])
    heads = ["method", "test", "over its UME (se)", "ECE", "kept", "trainable", "seconds", "MiB"]
    return f"### {data}\n\n{markdown(heads, lines)}"


def _merit(row: dict[str, Any]) -> tuple[float, float]:
    return row["valid"]["accuracy"], -row["valid"]["loss"]


def claims(cells: list[Cell], sets: list[str]) -> tuple[str, bool]:
    """Markdown of what must hold on the sets that were asked for, and whether all of it was measured and does."""
    found = {(cell.data, cell.method): cell.result() for cell in cells}
    lines, good = [], True
    for data, name, other, low, high in CLAIMS:
        if data not in sets:
            continue
        method, _, also = name.partition(": ")
        rows, base = found.get((data, method)), found.get((data, other)) if other else None
        measured = None
        if rows and (base or not other):
            accuracy = [(row["also"][also] if also else row["test"])["accuracy"] for row in rows]
            measured = (
                gap(rows, base)
                if base
                else (float(np.mean(accuracy)), float(np.std(accuracy, ddof=1) / len(accuracy) ** 0.5))
            )
        holds = measured is not None and low <= measured[0] <= high
        good &= holds
        what = f"{name} - {other}" if other else name
        told = "not run" if measured is None else signed(measured)
        lines.append([data, what, told, f"{low:g} to {high:g}", "yes" if holds else "NO"])
    return "### Claims\n\n" + markdown(["set", "what", "measured (se)", "asked", "holds"], lines), good


def main() -> int:
    parser = command(
        __doc__,
        "mmlora",
        list(SETS),
        minutes=90,
        seeds=5,
        epochs="of the first phase, instead of 25 and 3",
    )
    parser.add_argument("--methods", nargs="*")
    args = parser.parse_args()
    results = Results(args.cache / "runs.jsonl", source_digest(*ROOMS))
    cells = [
        Cell(data, method, [spec], args.seeds, args.epochs or SETS[data][3], results)
        for data in args.sets
        for method, spec in methods_of(data).items()
        if not args.methods or method in args.methods
    ]
    claimed = {(data, one) for data, method, base, *_ in CLAIMS for one in (method.partition(": ")[0], base)}
    cells.sort(
        key=lambda cell: ((cell.data, cell.method) not in claimed, list(methods_of(cell.data)).index(cell.method))
    )
    for data in args.sets:
        kind, options, *_ = SETS[data]
        expanded(args.data, kind, args.cache, *options)
    work(run, cells, results, args.data, None if args.full else args.minutes * 60)
    told, good = claims(cells, args.sets)
    note = f"{args.seeds} seeds, mean ± standard deviation; differences paired by seed with their standard error."
    write([*(table(data, cells) for data in args.sets), told], cells, note, args.out)
    return int(any(cell.failed for cell in cells) or (args.check and not good))


if __name__ == "__main__":
    sys.exit(main())
