"""One model for every subset of modalities: trained with modality dropout, against models of one modality each.

    python benchmarks/missing.py ../shared/data [--minutes 60 | --full] [--check] [--out FILE] [--cache FOLDER]
    python benchmarks/missing.py ../shared/data --sets digits_noisy --seeds 1 --epochs 1   # a smoke test

`av_digits` and `grid_digits` (clean, and with noise at -5 dB) as files. `alone` trains each modality by itself, `plain` all of
them together, `dropout` all of them with each sample losing modalities at random, under Multi-Loss. Encoders, optimiser and
rate are the same for all. The best epoch on validation is kept; of `dropout` the last, because whole samples are right long
before each modality alone is, and validation sees whole samples. `dropout` has 1 / .7 as many epochs, so that each modality is
seen as often as by its dedicated model. Test is read once. Runs are kept in FOLDER as soon as they end, so that the same command
goes on where it was stopped. `--check` exits with 1 where the model is more than two points below a dedicated one on any modality
of any set.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _cells import Cell, command, work, write
from _common import Results, Settings, expanded, markdown, mean_sd, paired, signed, source_digest

ROOMS = (
    "adapters", "balancers", "encoders", "fusion", "data", "recipes", "model", "fit", "loop", "evaluate", "tasks", "types",
    "metrics", "distributed", "optim",
)  # fmt: skip
BELOW = 0.02
"""Largest mean loss of accuracy against a model of that modality alone."""
VIDEO = {"name": "frame_cnn", "width": 16, "dropout": 0.0}
SOUND = {"name": "spectrogram_cnn", "width": 8, "dropout": 0.0}
IMAGE = {"name": "image_cnn", "width": 8}
SETS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...], int, dict[str, Any]]] = {
    "av_digits": ("av_digits", (), ("image=image:image", "audio=audio:audio"), 12, {"image": IMAGE, "audio": SOUND}),
    "digits_clean": ("grid_digits", (), ("video=video:video", "audio=audio:audio"), 25, {"video": VIDEO, "audio": SOUND}),
    "digits_noisy": (
        "grid_digits", ("--snr", "-5"), ("video=video:video", "audio=audio:audio"), 25, {"video": VIDEO, "audio": SOUND},
    ),
}  # fmt: skip
"""What expand.py is asked for, the columns, epochs, and the encoders."""
SGD = {"name": "sgd", "lr": 0.03, "momentum": 0.9, "weight_decay": 1e-4}
METHODS: dict[str, list[Settings]] = {
    "alone": [{"recipe": "unimodal"}],
    "plain": [{"recipe": "joint"}],
    "dropout": [
        {"recipe": "joint", "balancer": "multi_loss", "modality_dropout": 0.3, "times": 1 / 0.7, "select": "last"},
    ],
}


@functools.cache
def assembled(name: str, data: str, folder: str) -> Any:
    """A predictor that has read and decoded a set; each worker does it once."""
    import polymodal as pm
    from polymodal.config import load_config

    kind, options, modalities, _, encoders = SETS[name]
    config = load_config({"label": "label", "data": {"modalities": list(modalities)}, "encoders": encoders})
    predictor = pm.Predictor(config=config, show=False)
    return predictor, predictor._assemble(str(expanded(Path(data), kind, Path(folder), *options)), None)


def run(job: Settings, data: str, folder: str) -> dict[str, Any]:
    """Accuracy on test by subset, and what the trial is chosen by: the means over subsets on validation."""
    import torch

    from polymodal import names
    from polymodal.config import load_config
    from polymodal.evaluate import evaluate_subsets
    from polymodal.recipes.base import Only

    torch.set_num_threads(1)
    logging.getLogger("polymodal").setLevel(logging.ERROR)
    predictor, parts = assembled(job["data"], data, folder)
    trial = job["trial"]
    values = {
        "balancer": trial.get("balancer", "joint"),
        "train": {
            "epochs": round(job["epochs"] * trial.get("times", 1)),
            "device": "cpu",
            "modality_dropout": trial.get("modality_dropout", 0.0),
            "select": trial.get("select", "best"),
        },
    }
    own = {"data": {"modalities": list(SETS[job["data"]][2])}, "encoders": SETS[job["data"]][4], "optimizer": SGD}
    predictor.config = load_config({"label": "label", "seed": job["seed"], **own, **values})
    setup = predictor._setup(parts, None)
    began = time.perf_counter()
    result = names.resolve("recipes", trial["recipe"])(setup)
    seconds = time.perf_counter() - began
    models = list(result.unimodal.values()) or [result.model]
    found: dict[str, list[Any]] = {}
    for part in ("valid", "test"):
        loader = predictor._loader(parts.samples[part], 256)
        found[part] = [
            one for model in models for one in evaluate_subsets(model, Only(loader, model.modalities), setup.task)
        ]
    accuracy = {"+".join(one.modalities): one.metrics["accuracy"] for one in found["test"]}
    chosen_by = {key: float(np.mean([one.metrics[key] for one in found["valid"]])) for key in ("accuracy", "loss")}
    return {
        "test": {"accuracy": accuracy[list(accuracy)[-1]]},
        "subsets": accuracy,
        "valid": chosen_by,
        "seconds": seconds,
    }


def table(data: str, cells: list[Cell]) -> tuple[str, bool]:
    """Markdown of one set, and whether the model is close to the dedicated ones."""
    found = {cell.method: cell for cell in cells if cell.data == data and cell.result()}
    if set(found) != set(METHODS):
        return f"### {data}\n\nNot run to the end.", False
    modalities = [one.partition("=")[0] for one in SETS[data][2]]
    lines, good = [], True
    accuracy = {
        method: {
            name: [row["subsets"].get(name) for row in cell.result()] for name in (*modalities, "+".join(modalities))
        }
        for method, cell in found.items()
    }
    for name, dropped in accuracy["dropout"].items():
        other = "alone" if name in modalities else "plain"
        difference = paired(dropped, accuracy[other][name])
        close = difference[0] >= -BELOW
        good &= close
        alone = mean_sd(accuracy["alone"][name]) if name in modalities else ""
        shown = [mean_sd(accuracy["plain"][name]), mean_sd(dropped), f"{signed(difference)} over {other}"]
        lines.append([name, alone, *shown, "yes" if close else "NO"])
    heads = ["subset", "trained alone", "one model, plain", "one model, dropout", "difference (se)", "within 2 points"]
    return f"### {data}\n\n{markdown(heads, lines)}", good


def main() -> int:
    parser = command(__doc__, "missing", list(SETS), minutes=60, seeds=3, epochs="instead of those of each set")
    args = parser.parse_args()
    results = Results(args.cache / "runs.jsonl", source_digest(*ROOMS))
    cells = [
        Cell(data, method, trials, args.seeds, args.epochs or SETS[data][3], results)
        for data in args.sets
        for method, trials in METHODS.items()
    ]
    for data in args.sets:
        kind, options, *_ = SETS[data]
        expanded(args.data, kind, args.cache, *options)
    work(run, cells, results, args.data, None if args.full else args.minutes * 60)
    tables = [table(data, cells) for data in args.sets]
    note = f"{args.seeds} seeds, mean ± standard deviation; differences paired by seed with their standard error."
    write([one for one, _ in tables], cells, note, args.out)
    return int(any(cell.failed for cell in cells) or (args.check and not all(good for _, good in tables)))


if __name__ == "__main__":
    sys.exit(main())
