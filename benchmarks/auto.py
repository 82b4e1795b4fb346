"""Does recipe `auto` ever lose by choosing? Its pick on test beside the best single modality and beside joint training.

    python benchmarks/auto.py ../shared/data [--seeds 5] [--sets mosi_utt noisy_digits d3] [--check]

`mosi_utt` and the noisy `grid_digits` are expanded by DATA/expand.py; D3 is the synthetic set of that name. The choice is made
on validation; test is read once a run, for this table. With `--check` the exit code is 1 where the mean of what `auto` picks is
below the best single modality's or below joint training's by more than one standard error of the test accuracy.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import polymodal as pm
from polymodal.data.synthetic import D3, d1
from polymodal.evaluate import evaluate
from polymodal.recipes.auto import auto
from polymodal.recipes.base import Only


def expanded(data: Path, name: str, folder: Path, *options: str) -> str:
    """Path of the table that expand.py writes."""
    out = folder / "-".join([name, *options]).replace("--", "")
    if not out.exists():
        subprocess.run(
            [sys.executable, str(data / "expand.py"), name, str(out), *options], check=True, stdout=subprocess.DEVNULL
        )
    return str(next(out.glob("table.*")))


def d3(seed: int) -> pd.DataFrame:
    """D3 (`polymodal.data.synthetic`): one modality fast, one slow, as vector columns with a split."""
    parts = []
    for number, (part, count) in enumerate((("train", D3["n"]), ("valid", 400), ("test", 4000))):
        sample = d1(**{**D3, "n": count}, seed=3 * seed + number)
        frame = pd.DataFrame({m: list(x.numpy()) for m, x in sample.inputs.items()})
        parts.append(frame.assign(label=sample.target.numpy(), split=part))
    return pd.concat(parts, ignore_index=True)


def run(source: Any, modalities: list[str], seed: int, **settings: Any) -> dict[str, Any]:
    """One automatic choice, and the test accuracy of what was and was not chosen."""
    began = time.perf_counter()
    predictor = pm.Predictor(label="label", modalities=modalities, recipe="auto", seed=seed, show=False, **settings)
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
        "trials": len(setup.leaderboard),
        "seconds": time.perf_counter() - began,
        "n": len(parts.samples["test"]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="*", default=["mosi_utt", "noisy_digits", "d3"])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    failed = []
    columns = [
        "set",
        "chosen by seed",
        "auto",
        "best single modality",
        "joint",
        "one standard error",
        "trials",
        "seconds",
    ]
    rows = [f"| {' | '.join(columns)} |", "|" + "---|" * 8]
    with tempfile.TemporaryDirectory() as folder:
        for name in args.sets:
            found = []
            for seed in range(args.seeds):
                if name == "mosi_utt":
                    one = run(expanded(args.data, "mosi_utt", Path(folder)), [], seed)
                elif name == "noisy_digits":
                    table = expanded(args.data, "grid_digits", Path(folder), "--snr", "-5")
                    one = run(table, ["video=video:video", "audio=audio:audio"], seed)
                else:
                    one = run(d3(seed), [], seed)
                print(f"{name} seed {seed}: {one}", file=sys.stderr, flush=True)
                found.append(one)
            picked, joint = np.mean([f["auto"] for f in found]), np.mean([f["joint"] for f in found])
            singles = {m: float(np.mean([f["single"][m] for f in found])) for m in found[0]["single"]}
            best = max(singles, key=lambda m: singles[m])
            error = math.sqrt(picked * (1 - picked) / found[0]["n"])
            chosen = ", ".join(f["chosen"] for f in found)
            rows.append(
                f"| {name} | {chosen} | {picked:.3f} | {best} {singles[best]:.3f} | {joint:.3f} | {error:.3f} "
                f"| {sum(f['trials'] for f in found)} | {sum(f['seconds'] for f in found):.0f} |"
            )
            if picked < max(singles[best], joint) - error:
                failed.append(name)
    print("\n".join(rows))
    if failed:
        print(f"\nauto lost by its choice on: {', '.join(failed)}")
    return int(bool(args.check and failed))


if __name__ == "__main__":
    sys.exit(main())
