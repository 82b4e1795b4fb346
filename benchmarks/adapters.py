"""Every adapter, a linear head and full fine-tuning on the same uni-modally trained encoders; Wander taken apart.

    python benchmarks/adapters.py ../shared/data [--minutes 90 | --full] [--check] [--out FILE] [--cache FOLDER]
    python benchmarks/adapters.py ../shared/data --sets mosi_utt --methods linear wander_d16 --seeds 1 --epochs 1 --limit 64

Sets: D4 (synthetic sequences of which only the pair tells the class); `mosi_utt`, five neighbouring utterances of one video,
labelled by the middle one; `mfeat6`, six views as sequences of length 1, which makes sequence fusion vector fusion;
`grid_digits`, 12 video and 48 sound frames; `emoji_groups` (names), MiniLM and a Transformer over the last map of a frozen
EfficientNet-Lite0, the same host for every row. All encoders are Transformers of one width a set, trained uni-modally first,
once a seed, and shared by all rows. Settings are fixed beforehand: every adapter trains with the linear head on the pooled
features, as many epochs and at the same rate; full fine-tuning at a tenth of it. The best epoch on validation is kept, test is
read once. Wander stands behind the encoders, on their cached tokens, and keeps each modality's sequence (`per_modality`) unless
its row says joint. An epoch is forward, backward and step over the training part, in the processor's seconds of one thread, which
other load hardly changes; memory is the growth of the process while the last stage trains. "speed" is one epoch of full
fine-tuning against one of Wander (joint, d = 16) on cached tokens, by turns in one process.

Runs are kept in FOLDER as soon as they end, so that the same command goes on where it was stopped. With a time limit a cell is
begun only if it should end in time. `--check` exits with 1 where a row of the table of claims does not hold.
"""

from __future__ import annotations

import argparse
import copy
import functools
import hashlib
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _cells import Cell, alone, command, work, write
from _common import Results, Settings, expanded, markdown, mean_sd, source_digest
from mmlora import peak_memory
from torch import Tensor, nn

from polymodal.balancers import Balancer
from polymodal.config import load_config
from polymodal.data.synthetic import ArrayLoader, Arrays, d4
from polymodal.encoders import Bert, Encoder, SequenceTransformer
from polymodal.evaluate import evaluate
from polymodal.model import MultimodalModel, forward
from polymodal.recipes import adapter, frozen_features, wander
from polymodal.recipes.adapter import train_adapter
from polymodal.recipes.base import Setup
from polymodal.recipes.unimodal import train_each
from polymodal.tasks import Classification
from polymodal.types import Features, Padded

ROOMS = (
    "adapters", "balancers", "encoders", "fusion", "recipes", "model", "fit", "loop", "evaluate", "tasks", "types", "metrics",
    "optim", "blocks",
)  # fmt: skip
Spec = dict[str, Any]


def _wander(**options: Any) -> Spec:
    return {"recipe": "wander", "output": "per_modality", "down": 16, **options}


MAIN: dict[str, Spec] = {
    "linear": {"recipe": "linear"},
    "wander_d16": _wander(),
    "wander_d8": _wander(down=8),
    "wander_d64": _wander(down=64),
    "lora": {"recipe": "adapter", "method": {"name": "lora", "rank": 4}},
    "houlsby": {"recipe": "adapter", "method": {"name": "houlsby", "down": 16}},
    "ptuning": {"recipe": "adapter", "method": {"name": "ptuning", "tokens": 8}},
    "ptuning_v2": {"recipe": "adapter", "method": {"name": "ptuning_v2", "tokens": 8}},
    "maple": {"recipe": "adapter", "method": {"name": "maple", "tokens": 2, "depth": 2}},
    "pmf": {"recipe": "adapter", "method": {"name": "pmf", "last": 2}},
    "mbt": {"recipe": "adapter", "method": {"name": "mbt", "last": 2}},
    "uniadapter": {"recipe": "adapter", "method": {"name": "uniadapter", "down": 32}},
    "aurora": {"recipe": "adapter", "method": {"name": "aurora", "rank": 16}},
    "full": {"recipe": "full"},
}
ABLATIONS: dict[str, Spec] = {
    "wander_inside": _wander(rank_sum="inside"),
    "wander_vector": _wander(fusion="vector"),
    "wander_no_activation": _wander(activation="none"),
    "wander_no_residual": _wander(residual="none"),
    "wander_joint": {"recipe": "wander", "down": 16},
    "wander_joint_no_residual": {"recipe": "wander", "down": 16, "residual": "none"},
    **{f"wander_rt{rank}": _wander(rank_t=rank) for rank in (1, 4, 16)},
    **{f"wander_rh{rank}": _wander(rank_h=rank) for rank in (1, 4, 16)},
}
"""Against `wander_d16`, whose ranks are 8 and 8."""
JOINT = {"down": 16, "tokens": 4, "fine_tune": False}
SYNTHETIC: dict[str, Spec] = {
    "linear": {"recipe": "linear", "fine_tune": False},
    "wander_r4": {"recipe": "wander", **JOINT, "rank_t": 4, "rank_h": 4},
    "wander_all_zero": {"recipe": "all_zero", **JOINT, "rank_t": 4, "rank_h": 4},
    "wander_r1": {"recipe": "wander", **JOINT, "rank_t": 1, "rank_h": 1},
    "wander_inside": {"recipe": "wander", **JOINT, "rank_t": 4, "rank_h": 4, "rank_sum": "inside"},
}
FEW = {name: spec for name, spec in MAIN.items() if name not in ("mbt", "ptuning_v2")}
"""Where a run takes minutes."""
METHODS = {"d4": SYNTHETIC} | {
    "mosi_utt": MAIN | ABLATIONS, "mfeat6": MAIN, "grid_digits": MAIN | ABLATIONS, "emoji_groups": FEW,
}  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Encoders and settings of a set.

    Attributes:
        width, depth, heads: of every Transformer of ours.
        classes: of the label.
        phase: epochs and rate of the uni-modal phase.
        epochs: of the last stage.
        batch: samples a batch.
        rate: of every adapter and head.
        dropout: of every Transformer of ours.
    """

    width: int
    depth: int
    heads: int
    classes: int
    phase: tuple[int, float]
    epochs: int
    batch: int = 32
    rate: float = 1e-3
    dropout: float = 0.0


SETS = {
    "d4": Data(16, 0, 0, 6, (0, 1.0), 30, 50, 5e-3),
    "mosi_utt": Data(64, 2, 4, 2, (10, 1e-3), 20, dropout=0.1),
    "mfeat6": Data(32, 2, 4, 10, (20, 1e-3), 10, 64, 2e-3),
    "grid_digits": Data(64, 4, 4, 10, (20, 1e-3), 8),
    "emoji_groups": Data(384, 4, 6, 8, (5, 2e-4), 3),
}
CLAIMS = (
    ("d4", "wander_r4", "accuracy", 0.75, 1.0),
    ("d4", "linear", "accuracy", 0.0, 0.22),
    ("d4", "wander_all_zero", "accuracy", 0.0, 0.22),
    ("emoji_groups", "speed", "ratio", 20.0, float("inf")),
    ("grid_digits", "speed", "ratio", 20.0, float("inf")),
)
"""Set, row, what of it, and the limits of the mean."""

# The sets --------------------------------------------------------------------------------------------------------------


class Ragged:
    """Sequences of unequal length as one column: values (N, L, ...) and mask (N, L)."""

    def __init__(self, values: Tensor, mask: Tensor) -> None:
        self.values, self.mask = values, mask

    def __getitem__(self, places: Tensor) -> Padded:
        mask = self.mask[places]
        longest = max(1, int((mask * torch.arange(1, mask.shape[1] + 1)).amax()))
        return Padded(self.values[places][:, :longest], mask[:, :longest])


class Sequences(ArrayLoader):
    """An `ArrayLoader` whose columns may be `Ragged`."""

    def sample_keys(self, modality: str) -> tuple[list[str], bool]:
        column: Any = self.data.inputs[modality]
        if not isinstance(column, Ragged):
            return super().sample_keys(modality)
        pairs = zip(column.values.numpy(), column.mask.numpy(), strict=True)
        return [hashlib.sha256(row.tobytes() + mask.tobytes()).hexdigest()[:32] for row, mask in pairs], False


class Raw(Encoder):
    """Sequences as they are, with their mean."""

    dim = SETS["d4"].width

    def forward(self, x: Tensor) -> Features:
        return Features(x.mean(1), x)


@functools.cache
def parts_of(name: str, data: str, folder: str) -> dict[str, Arrays]:
    """Train, valid and test part; decoded once and kept as tensors."""
    file = Path(folder) / "arrays" / f"{name}.pt"
    if not file.exists():
        found = {"mosi_utt": _mosi, "mfeat6": _mfeat, "grid_digits": _grid, "emoji_groups": _emoji}[name](data, folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        half = file.with_suffix(f".{os.getpid()}")
        torch.save(found, half)
        half.replace(file)
    kept = torch.load(file, weights_only=True)
    parts = {}
    for part, values in kept.items():
        target = values.pop("target")
        masks = {key.removeprefix("mask/"): values.pop(key) for key in list(values) if key.startswith("mask/")}
        columns: dict[str, Any] = {m: Ragged(x, masks[m]) if m in masks else x for m, x in values.items()}
        parts[part] = Arrays(columns, target)
    return parts


Kept = dict[str, dict[str, Tensor]]


def _decoded(
    name: str, data: str, folder: str, columns: list[str], inputs: Spec | None = None, **settings: Any
) -> Kept:
    """A set through the library's own reader, all batches of a part on end."""
    import polymodal as pm

    table = expanded(Path(data), name, Path(folder))
    config = load_config({"label": "label", "data": {"modalities": columns, "inputs": inputs or {}}, **settings})
    predictor = pm.Predictor(config=config, show=False)
    parts = predictor._assemble(str(table), None)
    found: Kept = {}
    for part, samples in parts.samples.items():
        batches = list(predictor._loader(samples, 256))
        one: dict[str, Tensor] = {"target": torch.cat([batch.target for batch in batches])}
        for m in parts.schema.modalities:
            rows = [batch.inputs[m] for batch in batches]
            if isinstance(rows[0], Padded) and rows[0].values.ndim == 2:  # token numbers of texts
                longest = max(row.mask.shape[1] for row in rows)
                one[m], one[f"mask/{m}"] = (
                    torch.cat([nn.functional.pad(row[i], (0, longest - row[i].shape[1])) for row in rows])
                    for i in (0, 1)
                )
            else:
                one[m] = torch.cat([row.values if isinstance(row, Padded) else row for row in rows])
        found[part] = one
    return found


def _grid(data: str, folder: str) -> Kept:
    found = _decoded("grid_digits", data, folder, ["video=video:video", "audio=audio:audio"])
    for one in found.values():
        one["video"] = one["video"].flatten(2)  # (N, 12, 1, 24, 36)
        one["audio"] = one["audio"][:, 0].transpose(1, 2).contiguous()  # (N, 1, 40, 48)
    return found


def _mfeat(data: str, folder: str) -> Kept:
    views = ["fou", "fac", "kar", "pix", "zer", "mor"]
    return _decoded("mfeat6", data, folder, [f"{m}={m}:vector" for m in views])


def _emoji(data: str, folder: str) -> Kept:
    """Token numbers of MiniLM, and the 4 x 4 cells of EfficientNet-Lite0's last map on pictures of 128 pixels."""
    from polymodal.encoders.cnn import EfficientNet
    from polymodal.encoders.presets import choose, expand

    columns, inputs = ["image=image:image", "name=name:text"], {"image": {"image_size": 128}}
    found = _decoded("emoji_groups", data, folder, columns, inputs, preset="small")
    net = EfficientNet(**expand(choose("image", "small"), "encoders.image").arguments).eval()
    with torch.no_grad():
        for one in found.values():
            one["image"] = torch.cat([net(rows).tokens for rows in torch.split(one["image"], 64)])
    return found


def _mosi(data: str, folder: str) -> Kept:
    """Each utterance of the clean split with two neighbours on either side, standardised by its training part."""
    with np.load(Path(data) / "mosi_utt" / "mosi_utt.npz", allow_pickle=False) as file:
        z = {key: file[key] for key in file.files}
    place = {(v, int(u)): i for i, (v, u) in enumerate(zip(z["video_id"], z["utt_index"], strict=True))}
    names = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}
    rows = {part: [i for i, s in enumerate(z["split_clean"]) if names.get(str(s)) == part] for part in names.values()}
    found: Kept = {}
    for part, own in rows.items():
        near = [[place.get((z["video_id"][i], int(z["utt_index"][i]) + k), -1) for k in range(-2, 3)] for i in own]
        index = torch.tensor(near)
        one = {"target": torch.from_numpy(z["label"][own])}
        for m in ("text", "audio", "video"):
            mean, std = z[m][rows["train"]].mean(0), z[m][rows["train"]].std(0) + 1e-6
            one[m] = torch.from_numpy((z[m] - mean) / std).float()[index.clamp_min(0)] * (index >= 0)[..., None]
            one[f"mask/{m}"] = index >= 0
        found[part] = one
    return found


def _first(part: Arrays, count: int) -> Arrays:
    """The first samples of a part."""
    columns: dict[str, Any] = dict(part.inputs)
    cut = {
        m: Ragged(x.values[:count], x.mask[:count]) if isinstance(x, Ragged) else x[:count] for m, x in columns.items()
    }
    return Arrays(cut, part.target[:count])  # type: ignore[arg-type]


# Runs -----------------------------------------------------------------------------------------------------------------


@dataclass
class Watched(Setup):
    """A setup that remembers its last stage: model as trained, loaders, parameters that train, memory."""

    def fit(self, stage: str, build: Any, balancer: Any = None, loaders: Any = None) -> Any:
        known = self.stage_name(stage) in self.finished
        with peak_memory() as peak:
            model, history = super().fit(stage, build, balancer, loaders)
        if not known:
            self.memory = peak[0]
            self.trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            self.epoch = epoch_of(model, (loaders or self.loaders(model.modalities))[0], self)
        return model, history


def epoch_of(model: MultimodalModel, loader: Any, setup: Setup) -> float:
    """Processor's seconds of one epoch: forward, backward and step on each batch, after a warm one; nothing is kept."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-6, fused=True)
    balancer, began = Balancer(), 0.0
    model.train()
    for number, batch in enumerate([next(iter(loader)), *loader]):
        if number == 1:
            began = time.process_time()
        balancer.backward(forward(model, batch, setup.task))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.process_time() - began
    model.load_state_dict(before)
    return seconds


def setup_of(job: Settings, data: str, folder: str) -> tuple[Watched, ArrayLoader]:
    """The setup of a run, and the loader of its test part."""
    name, seed = job["data"], job["seed"]
    one = SETS[name]
    if name == "d4":
        parts = {"train": d4(1500, seed), "valid": d4(500, 500 + seed), "test": d4(2000, 1000 + seed)}
    else:
        parts = parts_of(name, data, folder)
    if limit := job["trial"].get("limit"):
        parts = {part: _first(some, limit) for part, some in parts.items()}
    epochs, rate = one.phase
    quick = min(job["epochs"], one.epochs) if job["epochs"] else one.epochs
    phase = {"optimizer": {"lr": rate}, "train": {"epochs": min(job["epochs"] or epochs, epochs) or 1}}
    stages = {"unimodal_*": phase, "full": {"optimizer": {"lr": one.rate / 10}}}
    config = load_config(
        {
            "label": "label",
            "seed": seed,
            "train": {"epochs": quick, "batch_size": one.batch, "device": "cpu"},
            "optimizer": {"name": "adamw", "lr": one.rate},
            "stages": stages,
            "data": {"feature_cache": str(Path(folder) / "features") if name == "emoji_groups" else None},
        }
    )

    def make_encoder(m: str) -> nn.Module:
        if name == "d4":
            return Raw()
        if (name, m) == ("emoji_groups", "name"):
            from polymodal.encoders.presets import choose, expand

            return Bert(**expand(choose("text", "small"), "encoders.name").arguments)
        column: Any = parts["train"].inputs[m]
        width = (column.values if isinstance(column, Ragged) else column).shape[-1]
        return SequenceTransformer(width, dim=one.width, depth=one.depth, heads=one.heads, dropout=one.dropout)

    setup = Watched(
        modalities=tuple(parts["train"].inputs),
        task=Classification(one.classes),
        config=config,
        train=Sequences(parts["train"], one.batch, shuffle=True, seed=seed),
        valid=Sequences(parts["valid"], 256),
        make_encoder=make_encoder,
        make_balancer=Balancer,
        show=False,
    )
    return setup, Sequences(parts["test"], 256)


@functools.cache
def warm() -> None:
    """What is imported and taken once a process must not count as the memory of its first run."""
    some = d4(64, 0)
    config = load_config({"label": "label", "train": {"epochs": 1, "device": "cpu"}})
    loader = ArrayLoader(some, 32)
    one = Setup(("x1", "x2"), Classification(6), config, loader, loader, lambda m: Raw(), Balancer, show=False)
    one.fit("linear", lambda: _joined(one, {m: Raw() for m in one.modalities}))


def run(job: Settings, data: str, folder: str) -> dict[str, Any]:
    """One row: test and validation figures, parameters that train, seconds and peak memory of the last stage."""
    torch.set_num_threads(1)
    logging.getLogger("polymodal").setLevel(logging.ERROR)
    warm()
    spec = dict(job["trial"])
    limit = spec.pop("limit", 0)
    recipe, fine_tune = spec.pop("recipe"), spec.get("fine_tune", True)
    setup, test = setup_of(job, data, folder)
    if fine_tune:
        key = f"{job['data']}-{job['epochs']}-{limit}-{job['seed']}-{source_digest(*ROOMS)}"
        alone(setup, Path(folder) / "phases" / key)
    began = time.perf_counter()
    if recipe == "speed":
        return {"test": {"accuracy": float("nan")}, **speed(setup), "seconds": round(time.perf_counter() - began, 2)}
    if recipe == "wander":
        model = wander(setup, **spec).model
    elif recipe == "adapter":
        model = adapter(setup, **spec).model
    elif recipe == "linear" and fine_tune:
        model = frozen_features(setup).model
    else:
        model = {"linear": linear, "full": full, "all_zero": all_zero}[recipe](setup, spec)
    seconds = time.perf_counter() - began
    found = evaluate(model, test, setup.task).metrics
    return {
        "test": {"accuracy": found["accuracy"], "ece": found["ece"]},
        "valid": setup.evaluate(model).metrics,
        "trainable": setup.trained,
        "epoch": setup.epoch,
        "memory": setup.memory,
        "seconds": round(seconds, 2),
    }


def _joined(setup: Setup, encoders: dict[str, nn.Module]) -> MultimodalModel:
    dims = {m: encoder.dim for m, encoder in encoders.items()}
    return MultimodalModel(encoders, setup.fusion(dims, {"name": "concat"}))  # type: ignore[arg-type]


def linear(setup: Watched, spec: Spec) -> MultimodalModel:
    """A linear head on the mean of sequences as they are."""
    model: MultimodalModel = setup.fit("linear", lambda: _joined(setup, {m: Raw() for m in setup.modalities}))[0]
    return model


def full(setup: Watched, spec: Spec) -> MultimodalModel:
    """All weights of the uni-modal encoders, trained jointly."""
    models = train_each(setup)[0]

    def build() -> MultimodalModel:
        return _joined(setup, {m: copy.deepcopy(one.encoders[m]) for m, one in models.items()})

    found: MultimodalModel = setup.fit("full", build)[0]
    return found


def all_zero(setup: Watched, spec: Spec) -> MultimodalModel:
    """Wander with every time factor zero, as the copy of the authors' code begins."""
    inner = setup.fit

    def zeroed(stage: str, build: Any, balancer: Any = None, loaders: Any = None) -> Any:
        def empty() -> MultimodalModel:
            model: MultimodalModel = build()
            for name, p in model.named_parameters():
                if ".w_t." in name:
                    nn.init.zeros_(p)
            return model

        return inner(stage, empty, balancer, loaders)

    setup.fit = zeroed  # type: ignore[method-assign]
    return train_adapter(
        setup, "wander", {"name": "wander", **{k: v for k, v in spec.items() if k != "fine_tune"}}, fine_tune=False
    ).model


def speed(setup: Watched) -> dict[str, Any]:
    """Seconds of an epoch of full fine-tuning and of Wander on cached tokens, by turns; the least of three.

    The ratio is that of the joint output, the published form.
    """
    whole = _joined(setup, {m: setup.make_encoder(m) for m in setup.modalities})
    kept: dict[str, Any] = {}
    inner = setup.fit

    def caught(stage: str, build: Any, balancer: Any = None, loaders: Any = None) -> Any:
        if loaders is not None:
            kept["loader"] = loaders[0]
        return inner(stage, build, balancer, loaders)

    setup.fit = caught  # type: ignore[method-assign]
    setup.config.train.epochs = 1
    small = {}
    for output in ("joint", "per_modality"):
        setup.finished.clear()
        small[output] = wander(setup, output=output, down=16, fine_tune=False).model
    times: dict[str, list[float]] = {name: [] for name in ("full", *small)}
    for _ in range(3):
        times["full"].append(epoch_of(whole, setup.train, setup))
        for output, model in small.items():
            times[output].append(epoch_of(model, kept["loader"], setup))
    least = {name: min(values) for name, values in times.items()}
    return {"least": least, "ratio": least["full"] / least["joint"]}


# The tables -----------------------------------------------------------------------------------------------------------


def table(data: str, cells: list[Cell]) -> str:
    """Markdown of one set."""
    own = {
        cell.method: cell.result() for cell in cells if cell.data == data and cell.method != "speed" and cell.result()
    }
    lines = []
    for name, rows in own.items():
        middle = {key: float(np.median([row[key] for row in rows])) for key in ("epoch", "memory")}
        accuracy = mean_sd([row["test"]["accuracy"] for row in rows])
        figures = [f"{rows[0]['trainable']:,}", f"{middle['epoch']:.2f}", f"{middle['memory']:.0f}"]
        lines.append([name, accuracy, *figures])
    note = " (sequences of length 1: vector fusion)" if data == "mfeat6" else ""
    if not lines:
        return f"### {data}{note}\n\nNothing was run to the end."
    return f"### {data}{note}\n\n{markdown(['method', 'test', 'trainable', 's an epoch', 'MiB'], lines)}"


def claims(cells: list[Cell]) -> tuple[str, bool]:
    """Markdown of what must hold of the rows that were asked for, and whether all of it was measured and does."""
    asked = {(cell.data, cell.method): cell for cell in cells}
    lines, good = [], True
    for data, method, what, low, high in CLAIMS:
        if (data, method) not in asked:
            continue
        rows = asked[data, method].result()
        values = [row["ratio"] if what == "ratio" else row["test"][what] for row in rows]
        holds = bool(values) and low <= float(np.mean(values)) <= high
        good &= holds
        told = mean_sd(values, 1 if what == "ratio" else 3) if values else "not run"
        if what == "ratio" and rows:
            told += " (" + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in rows[0]["least"].items()) + ")"
        lines.append([data, method, told, f"{low:g} to {high:g}", "yes" if holds else "NO"])
    return "### Claims\n\n" + markdown(["set", "row", "measured", "asked", "holds"], lines), good


def cells_of(args: argparse.Namespace, results: Results) -> list[Cell]:
    """Cells in the order in which they are run: claims, then main rows set by set, then ablations."""
    limit: Spec = {"limit": args.limit} if args.limit else {}
    wanted: list[tuple[str, str, Spec]] = [("d4", name, spec) for name, spec in SYNTHETIC.items()]
    wanted += [(data, "speed", {"recipe": "speed", "fine_tune": False}) for data in ("emoji_groups", "grid_digits")]
    for rows in (MAIN, ABLATIONS):
        wanted += [
            (data, name, rows[name])
            for data, known in METHODS.items()
            if data != "d4"
            for name in known
            if name in rows
        ]
    return [
        Cell(data, name, [spec | limit], 1 if name == "speed" else args.seeds, args.epochs or 0, results)
        for data, name, spec in wanted
        if data in args.sets and (not args.methods or name in args.methods)
    ]


def main() -> int:
    parser = command(
        __doc__, "adapters", list(SETS), minutes=90, seeds=5, epochs="of every stage, at most; for a smoke test"
    )
    parser.add_argument("--limit", type=int, help="samples a part; for a smoke test")
    parser.add_argument("--methods", nargs="*")
    args = parser.parse_args()
    results = Results(args.cache / "runs.jsonl", source_digest(*ROOMS))
    cells = cells_of(args, results)
    for name in {cell.data for cell in cells if cell.data != "d4"}:
        expanded(args.data, name, args.cache)
        parts_of(name, str(args.data), str(args.cache))
    work(run, cells, results, args.data, None if args.full else args.minutes * 60)
    told, good = claims(cells)
    note = f"{args.seeds} seeds, mean ± standard deviation; seconds and MiB are medians over seeds."
    write([*(table(data, cells) for data in args.sets), told], cells, note, args.out)
    return int(any(cell.failed for cell in cells) or (args.check and not good))


if __name__ == "__main__":
    sys.exit(main())
