"""Retrieval: the MMT and Wander on a generated copy of MSRVTT's layout, and emoji pictures by their names.

    python benchmarks/retrieval.py ../shared/data [--seeds 5] [--epochs 20] [--out FILE] [--cache FOLDER] [--workers 2] [--check]
    python benchmarks/retrieval.py ../shared/data --seeds 1 --epochs 1 --samples 24   # a smoke test

Emoji: encoders of the extra `pretrained-small`; the gallery has two experts, EfficientNet-Lite0's last map of a picture at two
sizes, so that Wander, which needs two sequences, has something to join on its side; the query is MiniLM's mean. All rows have
these experts. `heads` trains gated units and weights on frozen features, `wander` the adapter beside them, `full` everything,
the encoders at a tenth of the rate and for a sixth of the epochs, each of which takes a hundred times as long.
The best epoch on validation (`rsum`) is kept, test is read once; the gallery are the pictures of the test part. Runs are kept in
FOLDER as soon as they end.

The generated copy: 90 training and 100 test videos of seven experts, the MMT from scratch; then one epoch, the model frozen,
and Wander over the experts. `--check` exits with 1 unless R@10 is three times that of chance both ways and Wander improves it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from _common import Results, Settings, circumstances, expanded, markdown, mean_sd, source_digest

ROOMS = ("adapters", "encoders", "fusion", "data", "model", "fit", "loop", "evaluate", "tasks", "metrics")
METHODS = ("heads", "wander", "full")
RATE, ENCODERS = 1e-3, 1e-4
"""Of all that is new, and of the encoders where they train."""
SIZES = {"image": 64, "detail": 96}
FIGURES = [f"r_at_{k}_{way}" for way in ("q2g", "g2q") for k in (1, 5, 10)]


# Emoji ----------------------------------------------------------------------------------------------------------------


def emoji(settings: Settings) -> dict[str, Any]:
    """Figures of one method and seed on the test part."""
    import torch

    from polymodal import Predictor, evaluate, fit
    from polymodal.config import load_config

    torch.set_num_threads(1)
    logging.getLogger("polymodal").setLevel(logging.ERROR)
    images = {m: {"height": size, "width": size} for m, size in SIZES.items()}
    config = load_config(
        {
            "label": "id",
            "data": {
                "task": "retrieval",
                "modalities": ["name=name:text", *(f"{m}=image:image" for m in SIZES)],
                "inputs": images,
            },
            "encoders": {"name": {"name": "minilm_l6"}, **{m: {"name": "efficientnet_lite0"} for m in SIZES}},
            "fusion": {"name": "moee", "query": "name", "width": 128},
            "train": {"batch_size": 64, "device": "cpu"},
            "seed": settings["seed"],
        }
    )
    predictor = Predictor(config=config, show=False)
    parts = predictor._assemble(_table(settings), None)
    setup = predictor._setup(parts, None)
    setup.seed(f"emoji {settings['method']}")
    model = setup.model(setup.modalities, config.fusion.model_dump(), heads=False)
    loaders: dict[str, Any] = {part: predictor._loader(one, 64) for part, one in parts.samples.items()}
    if settings["method"] != "full":
        model.encoders.requires_grad_(False)
        loaders = {part: _features(model.encoders, loader) for part, loader in loaders.items()}
        if settings["method"] == "wander":
            _insert_wander(model, loaders["train"])
    else:
        loaders["train"] = setup.train
    trained = [p for p in model.parameters() if p.requires_grad]
    rates = [{"params": model.encoders.parameters(), "lr": ENCODERS}] if settings["method"] == "full" else []
    rates.append({"params": model.fusion.parameters(), "lr": RATE})
    began = time.perf_counter()
    history = fit(
        model,
        loaders["train"] if settings["method"] == "full" else Shuffled(loaders["train"], 64, settings["seed"]),
        loaders["valid"],
        task=setup.task,
        epochs=settings["epochs"],
        optimizer=torch.optim.AdamW(rates, weight_decay=1e-4),
        device="cpu",
        show=False,
    )
    seconds = (time.perf_counter() - began) / settings["epochs"]
    found = evaluate(model, loaders["test"], setup.task)
    return {
        "test": found.metrics,
        "items": len(found.ids),
        "trainable": sum(p.numel() for p in trained),
        "seconds": round(seconds, 2),
        "best_epoch": history.best_epoch,
    }


def _table(settings: Settings) -> Any:
    """The emoji's table, or the first rows of each part of it."""
    import pandas as pd

    if settings["samples"] is None:
        return settings["table"]
    frame = pd.read_csv(settings["table"])
    few = frame.groupby("split").head(settings["samples"]).reset_index(drop=True)
    return few.assign(image=[str(Path(settings["table"]).parent / one) for one in few["image"]])


def _features(encoders: Any, loader: Any) -> list[Any]:
    """The batches of a loader with what the frozen encoders make of them."""
    import torch

    encoders.eval()
    with torch.no_grad():
        return [one._replace(inputs={m: encoders[m](x) for m, x in one.inputs.items()}) for one in loader]


class Shuffled:
    """Batches of features drawn in a new order each epoch."""

    def __init__(self, batches: list[Any], size: int, seed: int) -> None:
        import torch

        from polymodal.types import Batch, Features

        def joined(m: str, field: int) -> Any:
            parts = [one.inputs[m][field] for one in batches]
            if parts[0] is None:
                return None
            longest = max(part.shape[1] for part in parts) if field else 0
            pad = [0, 0] * (parts[0].ndim - 2)
            return torch.cat(
                [torch.nn.functional.pad(p, [*pad, 0, longest - p.shape[1]]) if field else p for p in parts]
            )

        inputs = {m: Features(*(joined(m, field) for field in range(3))) for m in batches[0].inputs}
        self.whole = Batch(inputs, torch.cat([one.target for one in batches]))
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return max(1, len(self.whole.target) // self.size)

    def __iter__(self) -> Iterator[Any]:
        import torch

        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.whole.target))
        for rows in np.array_split(order, len(self)):
            place = torch.from_numpy(rows)
            inputs = {
                m: type(f)(*(None if one is None else one[place] for one in f)) for m, f in self.whole.inputs.items()
            }
            yield self.whole._replace(inputs=inputs, target=self.whole.target[place])


def _insert_wander(model: Any, batches: list[Any]) -> None:
    from polymodal.adapters import Wander

    experts = model.fusion.experts
    dims = {m: model.encoders[m].dim for m in experts}
    lengths = {m: max(one.inputs[m].tokens.shape[1] for one in batches) for m in experts}
    model.fusion.insert(Wander(dims, lengths, output="per_modality", down=16, rank_t=4, rank_h=4, activation="relu"))


# The generated copy of MSRVTT -----------------------------------------------------------------------------------------


def generated(epochs: int, seed: int) -> dict[str, dict[str, float]]:
    """Test figures of the MMT from scratch, of its first epoch, and of Wander over the experts of the latter, frozen."""
    from polymodal import Predictor
    from polymodal.config import load_config
    from polymodal.data.miniature.msrvtt import EXPERTS, write
    from polymodal.datasets import with_preset

    logging.getLogger("polymodal").setLevel(logging.ERROR)
    found = {}
    with TemporaryDirectory() as folder:
        write(Path(folder), np.random.default_rng(seed), {"train": 90, "valid": 20, "test": 100}, words=6)
        source = f"msrvtt/full:{folder}"
        for name, recipe, length in (
            ("MMT", {"name": "joint"}, epochs),
            ("MMT, one epoch", {"name": "joint"}, 1),
            ("MMT, one epoch, then Wander", {"name": "wander", "down": 8, "rank_t": 4, "rank_h": 4}, epochs),
        ):
            values = {
                "table": source,
                "recipe": recipe,
                "encoders": {m: {"dim": 32} for m in EXPERTS},
                "fusion": {"depth": 2, "heads": 4, "hidden": 64},
                "optimizer": {"lr": 2e-3},
                "train": {"epochs": length, "batch_size": 64, "device": "cpu"},
                "stages": {"retrieval": {"train": {"epochs": 1}}},
                "seed": seed,
            }
            predictor = Predictor(config=load_config(with_preset(values)), show=False).fit(source)
            found[name] = predictor.metrics["test"]
    return found


def holds(found: dict[str, dict[str, float]]) -> list[str]:
    """What does not hold of the generated copy."""
    chance, wrong = 10.0, []
    for way in ("q2g", "g2q"):
        key = f"r_at_10_{way}"
        for name in ("MMT", "MMT, one epoch, then Wander"):
            if found[name][key] < 3 * chance:
                wrong.append(f"{name}: {key} {found[name][key]:.1f}, by chance {chance:.0f}")
        if found["MMT, one epoch, then Wander"][key] <= found["MMT, one epoch"][key]:
            wrong.append(f"Wander does not improve {key}")
    return wrong


# Tables ---------------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the development data, with expand.py")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--samples", type=int, help="of each part of the emoji alone, for a smoke test")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/polymodal-benchmarks"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true", help="exit with 1 where the generated copy is not learned")
    args = parser.parse_args()
    table = str(expanded(args.data, "emoji_groups", args.cache))
    results = Results(args.cache / "retrieval.jsonl", source_digest(*ROOMS))
    wanted: dict[str, list[Settings]] = {
        method: [
            {
                "method": method,
                "seed": seed,
                "epochs": max(1, args.epochs // 6) if method == "full" else args.epochs,
                "table": table,
                "samples": args.samples,
            }
            for seed in range(args.seeds)
        ]
        for method in args.methods
    }
    results.run([one for runs in wanted.values() for one in runs], emoji, title="emoji", workers=args.workers)
    rows = []
    for method, runs in wanted.items():
        own = [results[one] for one in runs]
        recalls = [mean_sd([row["test"][key] for row in own], 1) for key in FIGURES]
        seconds = f"{np.median([row['seconds'] for row in own]):.2f}"
        rows.append([method, *recalls, f"{own[0]['trainable']:,}", seconds])
    items = results[wanted[args.methods[0]][0]]["items"]
    heads = ["trained", *(f"R@{k} {way}" for way in ("name to picture", "back") for k in (1, 5, 10))]
    text = [f"### Emoji by name, {items} in the gallery", markdown([*heads, "parameters", "s/epoch"], rows)]
    found = generated(args.epochs, 0)
    rows = [[name, *(f"{one[key]:.1f}" for key in FIGURES)] for name, one in found.items()]
    text += ["### A generated copy of MSRVTT's seven experts, 100 videos in the gallery"]
    text += [markdown(["model", *(f"R@{k} {way}" for way in ("t2v", "v2t") for k in (1, 5, 10))], rows)]
    wrong = holds(found)
    text += ["Holds: R@10 three times chance both ways, and better with Wander." if not wrong else "; ".join(wrong)]
    page = "\n\n".join([*text, circumstances()]) + "\n"
    print(page)
    if args.out is not None:
        args.out.write_text(page)
    return int(args.check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
