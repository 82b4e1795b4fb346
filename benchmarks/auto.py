"""Does recipe `auto` ever lose by choosing? Its pick on test beside the best single modality and beside joint training.

    python benchmarks/auto.py ../shared/data [--seeds 5] [--sets mosi_utt noisy_digits d3] [--check] [--cache FOLDER] [--out FILE]

`mosi_utt` and the noisy `grid_digits` are expanded by DATA/expand.py; D3 is the synthetic set of that name. The choice is made
on validation; test is read once a run, for this table. With `--check` the exit code is 1 where the mean of what `auto` picks is
below the best single modality's or below joint training's by more than one standard error of the test accuracy. Finished runs
are kept in the cache with their leaderboards: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import Results, Settings, circumstances, expanded, markdown, source_digest

import polymodal as pm
from polymodal.data.synthetic import D3, d1
from polymodal.evaluate import evaluate
from polymodal.recipes.auto import auto
from polymodal.recipes.base import Only

SETS = ("mosi_utt", "noisy_digits", "d3")
FILES: dict[str, tuple[str, tuple[str, ...], list[str]]] = {
    "mosi_utt": ("mosi_utt", (), []),
    "noisy_digits": ("grid_digits", ("--snr", "-5"), ["video=video:video", "audio=audio:audio"]),
}
"""What expand.py is asked for, and the columns; all of them where none is named."""


def d3(seed: int) -> pd.DataFrame:
    """D3 (`polymodal.data.synthetic`): one modality fast, one slow, as vector columns with a split."""
    parts = []
    for number, (part, count) in enumerate((("train", D3["n"]), ("valid", 400), ("test", 4000))):
        sample = d1(**(D3 | {"n": count}), seed=3 * seed + number)
        frame = pd.DataFrame({m: list(x.numpy()) for m, x in sample.inputs.items()})
        parts.append(frame.assign(label=sample.target.numpy(), split=part))
    return pd.concat(parts, ignore_index=True)


def table(cache: Path, data: Path, name: str) -> Path:
    """The table of a set of files."""
    kind, options, _ = FILES[name]
    return expanded(data, kind, cache, *options)


def run(cache: Path, data: Path, job: Settings) -> dict[str, Any]:
    """One automatic choice, and the test accuracy of what was and was not chosen."""
    began = time.perf_counter()
    source: Any = d3(job["seed"]) if job["set"] == "d3" else str(table(cache, data, job["set"]))
    modalities = FILES[job["set"]][2] if job["set"] in FILES else []
    predictor = pm.Predictor(label="label", modalities=modalities, recipe="auto", seed=job["seed"], show=False)
    parts = predictor._assemble(source, None)
    setup = predictor._setup(parts, None)
    result = auto(setup)
    loader = predictor._loader(parts.samples["test"], 256)

    def test(model: pm.MultimodalModel) -> float:
        return evaluate(model, Only(loader, model.modalities), setup.task).metrics["accuracy"]

    return {
        "chosen": result.chosen,
        "auto": test(result.model),
        "single": {m: test(model) for m, model in result.unimodal.items()},
        "joint": test(setup.finished["joint"][0]),
        "leaderboard": setup.leaderboard,
        "trials": len(setup.leaderboard),
        "seconds": time.perf_counter() - began,
        "n": len(parts.samples["test"]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("build/auto"), help="expanded sets and finished runs")
    parser.add_argument("--out", type=Path, help="file for the table")
    args = parser.parse_args()
    cache = args.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    for name in args.sets:
        if name in FILES:
            table(cache, args.data, name)
    results = Results(cache / "runs.jsonl", source_digest("."))
    jobs = {name: [{"set": name, "seed": seed} for seed in range(args.seeds)] for name in args.sets}
    every = [job for name in args.sets for job in jobs[name]]
    results.run(every, functools.partial(run, cache, args.data.resolve()), title="choices", workers=2)
    failed, rows = [], []
    for name in args.sets:
        found = [results[job] for job in jobs[name]]
        picked, joint = (float(np.mean([f[key] for f in found])) for key in ("auto", "joint"))
        singles = {m: float(np.mean([f["single"][m] for f in found])) for m in found[0]["single"]}
        best = max(singles, key=lambda m: singles[m])
        error = math.sqrt(picked * (1 - picked) / found[0]["n"])
        chosen = ", ".join(f["chosen"] for f in found)
        trials, seconds = sum(f["trials"] for f in found), sum(f["seconds"] for f in found)
        told = [
            f"{picked:.3f}",
            f"{best} {singles[best]:.3f}",
            f"{joint:.3f}",
            f"{error:.3f}",
            str(trials),
            f"{seconds:.0f}",
        ]
        rows.append([name, chosen, *told])
        if picked < max(singles[best], joint) - error:
            failed.append(name)
    heads = [
        "set",
        "chosen by seed",
        "auto",
        "best single modality",
        "joint",
        "one standard error",
        "trials",
        "seconds",
    ]
    text = f"{markdown(heads, rows)}\n\n{circumstances()}\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    if failed:
        print(f"auto lost by its choice on: {', '.join(failed)}", file=sys.stderr)
    return int(bool(args.check and failed))


if __name__ == "__main__":
    sys.exit(main())
