"""Does `polymodal diagnose TABLE` advise well? What it says before training, beside the test accuracy of all it could have said.

    python benchmarks/advice.py ../shared/data [--minutes 60 | --full] [--check] [--out FILE] [--cache FOLDER]
    python benchmarks/advice.py ../shared/data --sets d4 mosi_utt --seeds 1 --epochs 1   # a smoke test

Ten conditions: `grid_digits` clean, clean with every second training row alone, and with noise at -5 dB; `mosi_utt`; `mfeat6`;
`emoji_groups` (names, pre-trained encoders of the preset `small`, pictures of 64 pixels); and D1b, D2, D3 and D4 of
`polymodal.data.synthetic` (validation 400, test 4000 samples). Settings are fixed beforehand, the same for all recipes of a
condition; the best epoch on validation is kept. The advice sees training and validation alone, once a seed, in five folds. What
is advised is trained as its options say. Rivals are all that could be advised, and joint training without any balancing.
Uni-modal phases are trained once a seed and shared by every recipe that begins with one.

Advice holds where its test accuracy and one standard error reach the accuracy of the best row, as in auto.py. The standard error
is that of the advised recipe's accuracy: over test samples, of the share of seeds in which each is right. Stricter, as the same
samples are easy for both, is the standard error of the paired difference (`_common.two_way`), which stands beside it. That the
best row is chosen on the test split itself makes both bars stricter.

Runs are kept in FOLDER as soon as they end, so that the same command goes on where it was stopped. With a time limit a cell is
begun only if it should end in time. `--check` exits with 1 where the advice holds in fewer than eight of the ten.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from _cells import Cell, alone, command, work, write
from _common import Results, Settings, expanded, grouped, markdown, own_error, signed, source_digest, two_way
from missing import ROOMS, SGD, SOUND, VIDEO
from mmlora import EMOJI
from numpy.typing import NDArray

from polymodal.analysis.advise import CANDIDATES, Judged, decide
from polymodal.config import laid
from polymodal.tasks import Classification

FOLDS = 5
ADVICE = [f"advice{fold}" for fold in range(FOLDS)]
"""Rows of the advice: what is judged in each fold."""
ASKED = 8
"""Conditions in which the advice must hold."""
VALID, TEST = 400, 4000
"""Samples of the synthetic sets beside those for training."""
HEADS = {
    "frozen_features": {"optimizer": {"name": "adamw", "lr": 1e-3}, "train": {"epochs": 50}},
    "wander": {"optimizer": {"name": "adamw", "lr": 1e-3}, "train": {"epochs": 20}},
}
"""Of what stands on frozen encoders, where the rest trains with SGD: as mmlora.py and adapters.py train it."""
BY_SGD = {"optimizer": SGD, "stages": HEADS}
DIGITS = {"encoders": {"video": VIDEO, "audio": SOUND}, **BY_SGD}
BOTH = ("video=video:video", "audio=audio:audio")


@dataclass(frozen=True)
class Condition:
    """One condition of data, and what all recipes train with there.

    Attributes:
        epochs: of the uni-modal phase and of joint training.
        settings: of a run; the library's own where nothing is said.
        kind, options: what expand.py is asked for; None for synthetic data.
        modalities: columns of the table; inferred where empty.
        every: of the training rows, one in so many is kept.
        group: array of the data that no fold divides, as the given split does not: rows of a video, variants of an emoji.
    """

    epochs: int = 25
    settings: Settings = field(default_factory=dict)
    kind: str | None = None
    options: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    every: int = 1
    group: str | None = None


SMALL = {
    **{key: EMOJI[key] for key in ("preset", "optimizer")},
    "data": {"inputs": {"image": {"image_size": 64}}},
    "stages": {
        **{stage: EMOJI["stages"][stage] for stage in ("unimodal_image", "frozen_features")},
        "wander": {"optimizer": {"lr": 1e-3}, "train": {"epochs": 5}},
    },
}
CONDITIONS = {
    "d4": Condition(30, {"optimizer": {"name": "adamw", "lr": 5e-3}}),
    "mosi_utt": Condition(kind="mosi_utt", group="video_id"),
    "mfeat6": Condition(kind="mfeat6"),
    "d2": Condition(60, BY_SGD),
    "d1b": Condition(60, BY_SGD),
    "d3": Condition(60, laid(BY_SGD, {"optimizer": {"lr": 0.1}})),
    "digits_half": Condition(12, DIGITS, "grid_digits", (), BOTH, every=2),
    "digits_clean": Condition(12, DIGITS, "grid_digits", (), BOTH),
    "digits_noisy": Condition(12, DIGITS, "grid_digits", ("--snr", "-5"), BOTH),
    "emoji_name": Condition(3, SMALL, "emoji_groups", (), ("image=image:image", "name=name:text"), group="group"),
}
"""The synthetic sets train as SCIENCE says: MLPs 64-64-32 (D4: the tokens as they are), batches of 50. Digits have the epochs of
balancing.py; emoji 3 instead of 5, which is half of what all ten take."""


def trials_of(name: str) -> dict[str, Settings]:
    """Settings of the advice and of every recipe in a condition, by the name of the row."""
    own = CONDITIONS[name].settings
    recipes = {**{one: dict(candidate.settings) for one, candidate in CANDIDATES.items()}, "joint": {"recipe": "joint"}}
    # A changed way to advise asks for new advice, and for no other run.
    advice = {
        "settings": own,
        "group": CONDITIONS[name].group,
        "source": source_digest("analysis/advise", "data/split"),
    }
    return {
        **dict.fromkeys(ADVICE, advice),
        **{row: {"settings": laid(own, recipe)} for row, recipe in recipes.items()},
    }


# One run, in a worker -------------------------------------------------------------------------------------------------


def table_of(name: str, data: Path, folder: Path) -> Path:
    """The table of a condition; one with fewer training rows lies beside the whole."""
    import pandas as pd

    one = CONDITIONS[name]
    assert one.kind is not None
    table = expanded(data, one.kind, folder, *one.options)
    if one.every == 1:
        return table
    part = table.with_name(f"every{one.every}.csv")
    if not part.exists():
        rows = pd.read_csv(table, dtype=str)
        train = rows["split"] == "train"
        rows[~train | (train.cumsum() % one.every == 1)].to_csv(part, index=False)
    return part


@functools.cache
def assembled(name: str, data: str, folder: str) -> Any:
    """A predictor that has read and decoded a table; each worker does it once."""
    import polymodal as pm

    job = {"data": name, "seed": 0, "epochs": 1, "trial": {"settings": CONDITIONS[name].settings}}
    predictor = pm.Predictor(config=config_of(job, folder), show=False)
    return predictor, predictor._assemble(str(table_of(name, Path(data), Path(folder))), None)


def config_of(job: Settings, folder: str) -> Any:
    """Configuration of one run."""
    from polymodal.config import load_config

    one = CONDITIONS[job["data"]]
    pretrained = "preset" in one.settings
    cache = {"feature_cache": str(Path(folder) / "features")} if pretrained else {}
    batch = {} if one.kind else {"batch_size": 50}
    common = {
        "label": "label",
        "seed": job["seed"],
        "train": {"epochs": job["epochs"], "device": "cpu", **batch},
        "data": {"modalities": list(one.modalities), "decoded": str(Path(folder) / "decoded"), **cache},
    }
    return load_config(laid(common, job["trial"]["settings"]))


def setup_of(job: Settings, data: str, folder: str) -> tuple[Any, Any]:
    """Set-up of one run and the loader of its test split, which is the same for every seed."""
    if CONDITIONS[job["data"]].kind is None:
        train, valid, test = samples_of(job)
        return synthetic_setup(job, folder, train, valid), loader_of(test)
    predictor, parts = assembled(job["data"], data, folder)
    predictor.config = config_of(job, folder)
    return predictor._setup(parts, None), predictor._loader(parts.samples["test"], 256)


def fold_of(job: Settings, number: int, data: str, folder: str) -> tuple[Any, Any]:
    """Set-up of one fold and the loader of what it holds out."""
    import torch

    import polymodal as pm

    if CONDITIONS[job["data"]].kind is not None:
        config, table = config_of(job, folder), table_of(job["data"], Path(data), Path(folder))
        if CONDITIONS[job["data"]].group is not None:
            one = CONDITIONS[job["data"]]
            config.data.group, table = "group", grouped(Path(data), str(one.kind), table, str(one.group))
        rounds = pm.Predictor(config=config, show=False).rounds(str(table), folds=FOLDS)
        return next(islice(rounds, number, None))
    train, valid, _ = samples_of(job)
    inputs = {m: torch.cat([train.inputs[m], valid.inputs[m]]) for m in train.inputs}
    both = train._replace(inputs=inputs, target=torch.cat([train.target, valid.target]))
    order = np.random.default_rng(job["seed"]).permutation(len(both.target))
    held = order[number::FOLDS]
    rest = np.setdiff1d(order, held, assume_unique=True)
    tenth = len(rest) // 10
    held_out, chosen, taught = (at(both, torch.from_numpy(places)) for places in (held, rest[:tenth], rest[tenth:]))
    return synthetic_setup(job, folder, taught, chosen), loader_of(held_out)


def at(data: Any, places: Any) -> Any:
    """Some samples of a synthetic set."""
    return data._replace(inputs={m: one[places] for m, one in data.inputs.items()}, target=data.target[places])


def loader_of(data: Any) -> Any:
    """Batches for evaluation."""
    from polymodal.data.synthetic import ArrayLoader

    return ArrayLoader(data, 1000)


def samples_of(job: Settings) -> Any:
    """Samples for training, validation and test of a synthetic set."""
    from polymodal.data import synthetic

    def d1(settings: synthetic.D1Settings) -> Callable[[int, int], synthetic.Arrays]:
        return lambda n, seed: synthetic.d1(**(settings | {"n": n}), seed=seed)

    make, count = {
        "d1b": (d1(synthetic.D1B), synthetic.D1B["n"]),
        "d2": (synthetic.d2, 1000),
        "d3": (d1(synthetic.D3), synthetic.D3["n"]),
        "d4": (synthetic.d4, 1500),
    }[job["data"]]
    return make(count, 2 * job["seed"] + 1), make(VALID, 2 * job["seed"] + 2), make(TEST, 0)


def synthetic_setup(job: Settings, folder: str, train: Any, valid: Any) -> Any:
    """Set-up of a run on a synthetic set."""
    from adapters import Raw

    from polymodal import names
    from polymodal.data.synthetic import ArrayLoader
    from polymodal.encoders import MLP
    from polymodal.recipes.base import Setup
    from polymodal.tasks import Classification

    config = config_of(job, folder)
    balancer = names.resolve("balancers", config.balancer.name)
    batch = config.train.batch_size
    return Setup(
        modalities=("x1", "x2"),
        task=Classification(int(train.target.max()) + 1),
        config=config,
        train=ArrayLoader(train, batch, shuffle=True, seed=job["seed"]),
        valid=loader_of(valid),
        make_encoder=lambda m: Raw() if job["data"] == "d4" else MLP(train.inputs[m].shape[1], dim=32, hidden=[64, 64]),
        make_balancer=lambda: balancer(**config.balancer.arguments),
        show=False,
    )


def run(job: Settings, data: str, folder: str) -> dict[str, Any]:
    """What one fold of the advice hears of each candidate; or of one recipe, on which test samples it is right."""
    import torch

    from polymodal import names
    from polymodal.analysis.advise import judge
    from polymodal.errors import Diverged
    from polymodal.evaluate import evaluate
    from polymodal.recipes.base import Only

    torch.set_num_threads(1)
    logging.getLogger("polymodal").setLevel(logging.ERROR)
    began = time.perf_counter()
    if job["method"] in ADVICE:
        told = judge(*fold_of(job, ADVICE.index(job["method"]), data, folder))
        judged = {
            "metric": told.metric,
            "target": packed(told.target),
            "alone": {m: packed(one) for m, one in told.alone.items()},
            "found": {name: packed(one) for name, one in told.found.items()},
        }
        return {"test": {"accuracy": math.nan}, "judged": judged, "seconds": round(time.perf_counter() - began, 2)}
    setup, test = setup_of(job, data, folder)
    if setup.config.recipe.name != "joint":
        own = json.dumps([CONDITIONS[job["data"]].settings, source_digest(*ROOMS)], sort_keys=True)
        place = f"{job['data']}-{job['epochs']}-{job['seed']}-{hashlib.sha256(own.encode()).hexdigest()[:12]}"
        alone(setup, Path(folder) / "phases" / place)
    recipe = names.resolve("recipes", setup.config.recipe.name)
    try:
        model = recipe(setup, **setup.config.recipe.arguments).model
        found = evaluate(model, Only(test, model.modalities), setup.task)
        right = found.probabilities.argmax(1) == found.target
    except Diverged:
        right = np.zeros(sum(len(batch.target) for batch in test), dtype=bool)
    return {
        "test": {"accuracy": float(right.mean())},
        "right": np.packbits(right).tobytes().hex(),
        "samples": len(right),
        "seconds": round(time.perf_counter() - began, 2),
    }


def packed(array: NDArray[Any]) -> list[Any]:
    """An array as its shape and bytes; probabilities as float32."""
    kept = array.astype(np.int32 if array.dtype.kind in "iu" else np.float32)
    return [kept.dtype.str, list(kept.shape), base64.b64encode(kept.tobytes()).decode()]


def unpacked(kept: list[Any]) -> NDArray[Any]:
    """What `packed` was given."""
    return np.frombuffer(base64.b64decode(kept[2]), np.dtype(kept[0])).reshape(kept[1])


# The tables -----------------------------------------------------------------------------------------------------------


def right(row: dict[str, Any]) -> NDArray[np.float64]:
    """(N,) 1 where the run was right."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(row["right"]), np.uint8), count=row["samples"]).astype(float)


@dataclass(frozen=True)
class Verdict:
    """What the advice was worth in one condition."""

    advised: list[str]
    accuracy: dict[str, float]
    best: str
    own: float
    error: float
    difference: tuple[float, float]

    @property
    def holds(self) -> bool:
        """By the standard error of the advised accuracy."""
        return self.difference[0] >= -self.error - 1e-12

    @property
    def holds_paired(self) -> bool:
        """By that of the difference."""
        return self.difference[0] >= -self.difference[1] - 1e-12


def advised(folds: list[dict[str, Any]]) -> str:
    """The candidate that the advice names, from what was judged in all folds."""
    classes = unpacked(next(iter(folds[0]["judged"]["alone"].values()))).shape[1]
    judged = [
        Judged(
            Classification(classes),
            one["metric"],
            unpacked(one["target"]),
            *({name: unpacked(kept).astype(float) for name, kept in one[kind].items()} for kind in ("alone", "found")),
        )
        for one in (row["judged"] for row in folds)
    ]
    return decide(judged).chosen


def verdict(name: str, cells: list[Cell]) -> Verdict | None:
    """Of one condition, over the seeds that were advised; None where a run is missing."""
    own = {cell.method: cell for cell in cells if cell.data == name}
    seeds = [seed for seed in range(own["joint"].seeds) if all((0, seed) in cell.rows for cell in own.values())]
    if not seeds:
        return None
    chosen = [advised([own[fold].rows[0, seed] for fold in ADVICE]) for seed in seeds]
    scores = {
        method: np.stack([right(cell.rows[0, seed]) for seed in seeds])
        for method, cell in own.items()
        if method not in ADVICE
    }
    accuracy = {method: float(one.mean()) for method, one in scores.items()}
    best = max(accuracy, key=lambda method: accuracy[method])
    taken = np.stack([scores[method][place] for place, method in enumerate(chosen)])
    return Verdict(chosen, accuracy, best, float(taken.mean()), own_error(taken), two_way(taken - scores[best])[:2])


def tables(verdicts: dict[str, Verdict | None]) -> str:
    """Markdown of what the advice was worth, of what it missed, and of all accuracies."""
    lines = []
    for name, one in verdicts.items():
        if one is None:
            lines.append([name, *[""] * 5, "not run to the end", ""])
            continue
        advised = ", ".join(f"{method} ({count})" for method, count in Counter(one.advised).most_common())
        known = [signed((one.own, one.error))[1:], one.best, f"{one.accuracy[one.best]:.3f}", signed(one.difference)]
        lines.append([name, advised, *known, *("yes" if good else "NO" for good in (one.holds, one.holds_paired))])
    heads = [
        "condition", "advised (seeds)", "its test (se)", "best by test", "its test", "difference (paired se)", "holds", "paired",
    ]  # fmt: skip
    done = {name: one for name, one in verdicts.items() if one is not None}
    missed = [name for name, one in done.items() if not one.holds]
    paired = sum(one.holds_paired for one in done.values())
    told = (
        f"It holds in {len(done) - len(missed)} of {len(verdicts)}, by the paired standard error in {paired}. Missed: "
        f"{', '.join(missed) or 'none'}."
    )
    methods = list(dict.fromkeys(method for one in done.values() for method in one.accuracy))
    every = [[name, *(f"{one.accuracy[method]:.3f}" for method in methods)] for name, one in done.items()]
    second = markdown(["condition", *methods], every) if done else "Nothing was run to the end."
    return "\n\n".join(
        ["### Advice", markdown(heads, lines), told, "### Test accuracy of every recipe, mean over seeds", second]
    )


def main() -> int:
    epochs = "of the uni-modal phase and of joint training, instead of 3 to 60"
    parser = command(__doc__, "advice", list(CONDITIONS), minutes=60, seeds=3, epochs=epochs)
    args = parser.parse_args()
    results = Results(args.cache / "runs.jsonl", source_digest(*ROOMS))
    cells = [
        Cell(name, method, [trial], args.seeds, args.epochs or CONDITIONS[name].epochs, results)
        for name in args.sets
        for method, trial in trials_of(name).items()
    ]
    for name in args.sets:
        if CONDITIONS[name].kind:
            table_of(name, args.data, args.cache)
    work(run, cells, results, args.data, None if args.full else args.minutes * 60)
    verdicts = {name: verdict(name, cells) for name in args.sets}
    held = sum(one is not None and one.holds for one in verdicts.values())
    note = f"{args.seeds} seeds; in brackets standard errors. Asked: {ASKED} of {len(CONDITIONS)}."
    write([tables(verdicts)], cells, note, args.out)
    return int(any(cell.failed for cell in cells) or (args.check and held < ASKED))


if __name__ == "__main__":
    sys.exit(main())
