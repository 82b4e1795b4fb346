"""The competition between modalities, measured: what joint training does to each encoder, and what gives it back.

    python benchmarks/competition.py ../shared/data [--check] [--seeds 5] [--out FILE] [--cache build/competition]

Noisy (DATA/expand.py grid_digits --snr -5) and clean digits, SGD and Adam; three trials a method on two seeds, chosen on
validation, then every seed; figures of the last epoch on test. Then D1 and D3 of `polymodal.data.synthetic`. Within a seed
all methods start from the same encoders and see the same batches, so differences are paired. Finished runs are kept in the
cache: a run that was stopped goes on where it stood. With `--check` the exit code is 1 where a bar does not hold.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import Results, Settings, circumstances, expanded, markdown, mean_sd, paired, signed, source_digest
from safetensors.torch import load_file, save_file

import polymodal as pm
from polymodal.analysis.linear_probe import probe_encoders
from polymodal.balancers import MLB, OGM_GE, Balancer, MultiLoss
from polymodal.config import load_config
from polymodal.data.parts import assemble
from polymodal.data.synthetic import D1A, D1B, D3, ArrayLoader, Arrays, D1Settings, d1
from polymodal.encoders import MLP, FrameCNN, SpectrogramCNN, linear_heads
from polymodal.fit import fit
from polymodal.fusion import Concat, Mixture
from polymodal.tasks import Classification

DIGITS = ("noisy", "clean")
SYNTHETIC: dict[str, D1Settings] = {"d1a": D1A, "d1b": D1B, "d3": D3}
RATES = {"sgd": (0.01, 0.03, 0.1), "adam": (6e-4, 2e-3, 6e-3)}
JOINT = ("joint", "multi_loss", "mlb_grad", "mlb_update", "ogm_ge")
STRONG = {"alpha": 0.5, "beta_max": 10}
WEIGHT_DECAY = 1e-4
BALANCERS: dict[str, Callable[..., Balancer]] = {
    "joint": Balancer,
    "multi_loss": MultiLoss,
    "mlb_grad": functools.partial(MLB, apply_to="grad"),
    "mlb_update": functools.partial(MLB, apply_to="update"),
    "ogm_ge": OGM_GE,
}
NAMES = {
    "joint": "joint", "multi_loss": "Multi-Loss", "mlb_grad": "MLB grad", "mlb_update": "MLB update", "ogm_ge": "OGM-GE",
    "ume_prob": "UME, averaged probabilities", "ume_logit": "UME, averaged logits",
}  # fmt: skip
ROOMS = (
    "adapters",
    "balancers",
    "encoders",
    "fusion",
    "data",
    "tasks",
    "model",
    "fit",
    "loop",
    "evaluate",
    "analysis/linear_probe",
)
"""Parts of the library whose change makes old results void."""


def modalities_of(data: str) -> tuple[str, str]:
    return ("sound", "video") if data in DIGITS else ("x1", "x2")


def trials(method: str, optimizer: str) -> list[Settings]:
    """The same number of trials for each method, written down before any was run."""
    low, middle, high = RATES[optimizer]
    if method.startswith("mlb"):
        return [
            {"lr": middle, "options": STRONG},
            {"lr": middle, "options": {"alpha": 2, "beta_max": 2}},
            {"lr": high, "options": STRONG},
        ]
    if method == "ogm_ge":
        return [
            {"lr": rate, "options": {"alpha": alpha}} for rate, alpha in ((middle, 0.3), (middle, 0.8), (high, 0.3))
        ]
    return [{"lr": rate, "options": {}} for rate in (low, middle, high)]


# One run --------------------------------------------------------------------------------------------------------------


def decode(data: Path, cache: Path, name: str) -> None:
    """Read the digits' media files once, by the library's own inputs, and keep the tensors."""
    path = cache / f"{name}-{source_digest('data')}.safetensors"
    if path.exists():
        return
    table = expanded(data, "grid_digits", cache, *(["--snr", "-5", "--seed", "0"] if name == "noisy" else []))
    settings = {"modalities": ["sound=audio:audio", "video=video:video"]}
    parts = assemble(load_config({"label": "label", "data": settings}), str(table))
    tensors: dict[str, torch.Tensor] = {}
    for part, samples in parts.samples.items():
        batch = samples.batch(np.arange(len(samples)))
        sound, mask = batch.inputs["sound"]
        assert bool(mask.all())  # all clips are equally long, so nothing is padded
        tensors |= {f"{part}.sound": sound, f"{part}.video": batch.inputs["video"], f"{part}.target": batch.target}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)


@functools.lru_cache(maxsize=4)
def arrays(cache: Path, name: str, seed: int) -> dict[str, Arrays]:
    """The parts of a data set, by "train", "valid" and "test"."""
    if name in SYNTHETIC:
        sizes = {"train": SYNTHETIC[name]["n"], "valid": 400, "test": 4000}
        shares = SYNTHETIC[name]
        return {
            part: d1(n, 3 * seed + i, e1=shares["e1"], e2=shares["e2"], nuisance=shares["nuisance"])
            for i, (part, n) in enumerate(sizes.items())
        }
    tensors = load_file(cache / f"{name}-{source_digest('data')}.safetensors")
    return {
        part: Arrays({m: tensors[f"{part}.{m}"] for m in ("sound", "video")}, tensors[f"{part}.target"])
        for part in ("train", "valid", "test")
    }


def encoder(modality: str, x: torch.Tensor) -> torch.nn.Module:
    """Three blocks of width 16 or 8 for video and sound, 64-64-32 for vectors."""
    if modality == "video":
        return FrameCNN(frames=x.shape[1], channels=x.shape[2], dim=64, width=16, depth=3, grid=4, dropout=0.0)
    if modality == "sound":
        return SpectrogramCNN(bins=x.shape[2], dim=64, width=8, depth=3, segments=4, dropout=0.0)
    return MLP(x.shape[1], dim=32, hidden=(64, 64), dropout=0.0)


def seeded(seed: int, what: str) -> None:
    torch.manual_seed(zlib.crc32(f"{seed} {what}".encode()))


def build(
    chosen: tuple[str, ...], inputs: dict[str, torch.Tensor], classes: int, seed: int, heads: bool
) -> pm.MultimodalModel:
    """Each part from a seed of its own, so that all methods of a seed start alike."""
    encoders = {}
    for m in chosen:
        seeded(seed, m)
        encoders[m] = encoder(m, inputs[m])
    seeded(seed, "fusion")
    fusion = Concat({m: encoders[m].dim for m in chosen}, classes)  # type: ignore[misc]
    seeded(seed, "heads")
    return pm.MultimodalModel(encoders, fusion, linear_heads(encoders, classes) if heads else None)


def train(cache: Path, settings: Settings) -> dict[str, Any]:
    """One training to its last epoch: figures on validation and test, a probe of each encoder, log-probabilities."""
    began = time.perf_counter()
    name, method, seed = settings["data"], settings["method"], settings["seed"]
    alone = method not in BALANCERS
    chosen = (method,) if alone else modalities_of(name)
    parts = {
        part: Arrays({m: one.inputs[m] for m in chosen}, one.target)
        for part, one in arrays(cache, name, seed if name in SYNTHETIC else 0).items()
    }
    classes = 10 if name in DIGITS else 8
    options = dict(settings["options"])
    if method == "ogm_ge":
        options |= {"seed": seed} | ({} if name in DIGITS else {"param_filter": "weights"})
    balancer = BALANCERS["joint" if alone else method](**options)
    model = build(chosen, parts["train"].inputs, classes, seed, balancer.needs_heads)
    groups = model.param_groups(settings["lr"], balancer.scope or ("encoder", "head", "fusion"))
    optimizer: torch.optim.Optimizer
    if settings["optimizer"] == "sgd":
        optimizer = torch.optim.SGD(groups, lr=settings["lr"], momentum=0.9, weight_decay=WEIGHT_DECAY)
    else:
        optimizer = torch.optim.Adam(groups, lr=settings["lr"], weight_decay=WEIGHT_DECAY)
    task = Classification(classes)
    loader = ArrayLoader(parts["train"], settings["batch"], shuffle=True, seed=seed)
    fit(
        model, loader, None, task=task, balancer=balancer, optimizer=optimizer, epochs=settings["epochs"],
        select="last", device="cpu", show=False,
    )  # fmt: skip
    whole = {part: ArrayLoader(one, 500) for part, one in parts.items()}
    found = {part: pm.evaluate(model, whole[part], task) for part in ("valid", "test")}
    result: dict[str, Any] = {
        part: {k: one.metrics[k] for k in ("accuracy", "loss", "ece")} for part, one in found.items()
    }
    result["probe"] = probe_encoders(model, whole["train"], whole["test"])
    if alone:
        logs = np.log(found["test"].probabilities.clip(1e-30))
        result["log_probabilities"] = np.round(logs, 6).tolist()
        result["target"] = found["test"].target.tolist()
    return result | {"seconds": time.perf_counter() - began}


def ensemble(runs: list[dict[str, Any]], combine: str) -> dict[str, float]:
    """UME of separately trained uni-modal models. Log-probabilities are logits, up to what softmax does not see."""
    logits = {f"m{i}": torch.tensor(run["log_probabilities"], dtype=torch.float64) for i, run in enumerate(runs)}
    target = np.asarray(runs[0]["target"])
    classes = logits["m0"].shape[1]
    fused = Mixture(dict.fromkeys(logits, classes), classes, combine=combine)({}, logits)
    return Classification(classes).metrics(fused.softmax(-1).numpy(), target)


# All runs -------------------------------------------------------------------------------------------------------------


class Competition:
    """Settings of every run, and the figures by (data, optimiser, method)."""

    def __init__(self, results: Results, options: argparse.Namespace) -> None:
        self.results, self.options = results, options
        self.seeds = range(options.seeds)
        self.chosen: dict[tuple[str, str, str], Settings] = {}
        self.cells = [(d, o) for d in DIGITS if d in options.only for o in options.optimizers]
        synthetic = [
            ("d1b", "sgd", 0.03, ("x1", "x2", *JOINT)),
            ("d1a", "adam", 2e-3, ("x1", "x2", "joint", "multi_loss", "mlb_grad", "mlb_update")),
            ("d3", "sgd", 0.1, ("joint", "multi_loss", "mlb_grad")),
        ]
        for data, optimizer, rate, methods in synthetic if "synthetic" in options.only else []:
            for method in methods:
                settings = STRONG if method.startswith("mlb") else {"alpha": 0.3} if method == "ogm_ge" else {}
                self.chosen[data, optimizer, method] = {"lr": rate, "options": settings}

    def settings(self, data: str, optimizer: str, method: str, trial: Settings, seed: int) -> Settings:
        digits = data in DIGITS
        epochs = self.options.epochs or (25 if digits else 60)
        common = {"epochs": epochs, "batch": 32 if digits else 50, "seed": seed}
        return {"data": data, "optimizer": optimizer, "method": method, **trial, **common}

    def trial_runs(self) -> Iterator[tuple[tuple[str, str, str], Settings, list[Settings]]]:
        """Each trial of each method on digits, with its runs on two seeds."""
        for data, optimizer in self.cells:
            for method in (*modalities_of(data), *JOINT):
                for trial in trials(method, optimizer)[: self.options.trials]:
                    runs = [self.settings(data, optimizer, method, trial, seed) for seed in self.seeds[:2]]
                    yield (data, optimizer, method), trial, runs

    def choose(self) -> None:
        """The trial of the best mean validation accuracy at the last epoch; ties by the validation loss."""
        best: dict[tuple[str, str, str], tuple[float, float]] = {}
        for place, trial, runs in self.trial_runs():
            found = [self.results[run]["valid"] for run in runs]
            merit = (
                float(np.mean([one["accuracy"] for one in found])),
                -float(np.mean([one["loss"] for one in found])),
            )
            if place not in best or merit > best[place]:
                best[place], self.chosen[place] = merit, trial

    def final_runs(self) -> list[Settings]:
        return [self.settings(*place, trial, seed) for place, trial in self.chosen.items() for seed in self.seeds]

    def rows(self, data: str, optimizer: str, method: str) -> list[dict[str, Any]]:
        """The chosen trial's result for each seed; KeyError where the method was not run."""
        if method.startswith("ume"):
            single = [self.rows(data, optimizer, m) for m in modalities_of(data)]
            return [{"test": ensemble(list(runs), method[4:]), "probe": {}} for runs in zip(*single, strict=True)]
        trial = self.chosen[data, optimizer, method]
        return [self.results[self.settings(data, optimizer, method, trial, seed)] for seed in self.seeds]

    def test(self, data: str, optimizer: str, method: str, metric: str = "accuracy") -> list[float]:
        return [row["test"][metric] for row in self.rows(data, optimizer, method)]

    def probe(self, data: str, optimizer: str, method: str, modality: str) -> list[float]:
        return [row["probe"][modality] for row in self.rows(data, optimizer, method)]

    def table(self, data: str, optimizer: str) -> str:
        pair = modalities_of(data)
        rows = []
        for method in (*pair, "joint", "ume_prob", "ume_logit", *JOINT[1:]):
            try:
                runs = self.rows(data, optimizer, method)
                base = self.test(data, optimizer, "joint")
            except KeyError:
                continue
            accuracy = [one["test"]["accuracy"] for one in runs]
            probes = [mean_sd([one["probe"][m] for one in runs]) if m in runs[0]["probe"] else "" for m in pair]
            trial = self.chosen.get((data, optimizer, method))
            told = (
                ""
                if trial is None
                else ", ".join(f"{k} {v:g}" for k, v in ({"rate": trial["lr"]} | trial["options"]).items())
            )
            name = f"{method} alone" if method in pair else NAMES[method]
            gain = "" if method in (*pair, "joint") else signed(paired(accuracy, base))
            rows.append([name, told, mean_sd(accuracy), gain, *probes, mean_sd([one["test"]["ece"] for one in runs])])
        heads = ["method", "settings", "test", "over joint (se)", *(f"probe {m}" for m in pair), "ECE"]
        return f"### {data}, {optimizer.upper() if optimizer == 'sgd' else 'Adam'}\n\n{markdown(heads, rows)}"


# Bars -----------------------------------------------------------------------------------------------------------------

Measure = Callable[[Competition], tuple[float, float]]  # mean and standard error
THREE = ("multi_loss", "mlb_grad", "ume_logit")


def of_test(data: str, optimizer: str, one: str, other: str, metric: str = "accuracy") -> Measure:
    """Paired difference of two methods on test."""
    return lambda c: paired(c.test(data, optimizer, one, metric), c.test(data, optimizer, other, metric))


def of_probe(one: str, other: str) -> Measure:
    """Paired difference of two methods' sound probes on the noisy digits, SGD."""
    return lambda c: paired(c.probe("noisy", "sgd", one, "sound"), c.probe("noisy", "sgd", other, "sound"))


def mean_of(data: str, method: str) -> Measure:
    return lambda c: paired(c.test(data, "sgd", method), [0.0] * len(c.seeds))


def mean_gain(c: Competition) -> tuple[float, float]:
    """Gain of Multi-Loss, MLB and UME by logits over joint, averaged over the three within each seed."""
    three = np.mean([c.test("noisy", "sgd", method) for method in THREE], axis=0)
    return paired(three.tolist(), c.test("noisy", "sgd", "joint"))


BARS: list[tuple[str, Measure, str, float]] = [
    ("noisy, SGD, sound probe: joint - alone", of_probe("joint", "sound"), "<=", -0.12),
    ("noisy, SGD, sound probe: Multi-Loss - joint", of_probe("multi_loss", "joint"), ">=", 0.10),
    *((f"noisy, SGD, test: {NAMES[m]}", mean_of("noisy", m), ">=", 0.955) for m in THREE),
    *((f"noisy, SGD, test: {NAMES[m]} - joint", of_test("noisy", "sgd", m, "joint"), ">", 0.0) for m in THREE),
    ("noisy, SGD, test: mean gain of the three over joint", mean_gain, ">=", 0.008),
    ("noisy, SGD, test: MLB grad - Multi-Loss", of_test("noisy", "sgd", "mlb_grad", "multi_loss"), ">=", -0.015),
    *((f"clean, SGD, test: {NAMES[m]}", mean_of("clean", m), ">=", 0.975) for m in ("ume_logit", "multi_loss")),
    ("noisy, SGD, ECE: UME by probabilities - by logits", of_test("noisy", "sgd", "ume_prob", "ume_logit", "ece"), ">=", 0.05),
    ("D1b, SGD: UME - joint", of_test("d1b", "sgd", "ume_prob", "joint"), ">=", 0.07),
    ("D1b, SGD: Multi-Loss - joint", of_test("d1b", "sgd", "multi_loss", "joint"), ">=", 0.10),
    ("D1b, SGD: MLB update - Multi-Loss", of_test("d1b", "sgd", "mlb_update", "multi_loss"), ">=", 0.004),
    ("D1a, Adam: MLB grad - Multi-Loss", of_test("d1a", "adam", "mlb_grad", "multi_loss"), "<=", -0.008),
    ("D1a, Adam: MLB update - Multi-Loss", of_test("d1a", "adam", "mlb_update", "multi_loss"), ">=", -0.008),
    ("D3, SGD .1, beta_max 10: MLB grad - Multi-Loss", of_test("d3", "sgd", "mlb_grad", "multi_loss"), "<=", -0.15),
]  # fmt: skip


def check(competition: Competition) -> tuple[str, list[str]]:
    """Table of the bars, and the names of those that do not hold or were not measured."""
    rows, failed = [], []
    for name, measure, relation, limit in BARS:
        try:
            found = measure(competition)
        except KeyError:
            rows.append([name, "not measured", f"{relation} {limit:g}", ""])
            failed.append(f"{name}: not measured")
            continue
        value = found[0]
        holds = {"<=": value <= limit, ">=": value >= limit, ">": value > limit}[relation]
        rows.append([name, signed(found), f"{relation} {limit:g}", "yes" if holds else "NO"])
        if not holds:
            failed.append(f"{name}: {signed(found)}, asked {relation} {limit:g}")
    return "### Bars\n\n" + markdown(["check", "measured (se)", "asked", "holds"], rows), failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with expand.py")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a bar does not hold")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=3, help="first so many of each method's trials")
    parser.add_argument("--epochs", type=int, help="instead of 25 (digits) and 60 (synthetic)")
    parser.add_argument("--only", nargs="+", default=[*DIGITS, "synthetic"], choices=[*DIGITS, "synthetic"])
    parser.add_argument("--optimizers", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="file for the Markdown tables")
    parser.add_argument(
        "--cache", type=Path, default=Path("build/competition"), help="decoded digits and finished runs"
    )
    options = parser.parse_args()
    if not (options.data / "expand.py").is_file():
        parser.error(f"{options.data} has no expand.py")
    if min(options.seeds, options.trials, options.workers) < 1:
        parser.error("--seeds, --trials and --workers are 1 or more")
    began = time.perf_counter()
    options.cache.mkdir(parents=True, exist_ok=True)
    for name in DIGITS:
        if name in options.only:
            decode(options.data, options.cache, name)
    competition = Competition(Results(options.cache / "runs.jsonl", source_digest(*ROOMS)), options)
    work = functools.partial(train, options.cache.resolve())
    every = [run for _, _, runs in competition.trial_runs() for run in runs]
    competition.results.run([*every, *competition.final_runs()], work, title="trials", workers=options.workers)
    competition.choose()
    competition.results.run(competition.final_runs(), work, title="seeds", workers=options.workers)
    places = dict.fromkeys((data, optimizer) for data, optimizer, _ in competition.chosen)
    bars, failed = check(competition)
    tables = [competition.table(*place) for place in sorted(places, key=lambda p: [*DIGITS, *SYNTHETIC].index(p[0]))]
    note = (
        f"{options.seeds} seeds, mean ± standard deviation; differences paired by seed with their standard error. "
        f"{len(competition.results.rows)} runs in the cache, {(time.perf_counter() - began) / 60:.1f} min."
    )
    text = "\n\n".join([*tables, bars, note, circumstances()]) + "\n"
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    for one in failed if options.check else []:
        print(f"does not hold: {one}", file=sys.stderr)
    return int(bool(failed) and options.check)


if __name__ == "__main__":
    sys.exit(main())
