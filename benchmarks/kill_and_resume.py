"""Kills runs with SIGKILL at random moments, resumes them, and compares every byte with runs that were left alone.

    python benchmarks/kill_and_resume.py [--check] [--kills 20] [--seed 0] [--recipes joint ume auto]

Small tables of numbers, dropout encoders, a resume point after every step. A part of the kills hits the resumed run too. As
root it also mounts a tmpfs of 1 MB, lets the disk run full while a resume point is written, and resumes from the one before.
With --check the exit code is 1 where a run differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FILES = ("model.safetensors", "metrics.json", "predictions/valid.csv", "predictions/test.csv")
METHODS = {"joint": ["--balancer", "mlb"], "ume": ["--recipe", "ume"], "auto": ["--recipe", "auto"]}


def write_table(path: Path, rows: int = 400) -> Path:
    rng = np.random.default_rng(0)
    lines = ["id,a1,a2,b1,b2,label"]
    for i in range(rows):
        c = i % 3
        a, b = c + 0.5 * rng.normal(size=2), c + rng.normal(size=2)
        lines.append(f"{i:04d},{a[0]:.4f},{a[1]:.4f},{b[0]:.4f},{b[1]:.4f},{'xyz'[c]}")
    path.write_text("\n".join(lines) + "\n")
    return path


def command(table: Path, run: Path, method: str, epochs: int) -> list[str]:
    own = [f"encoders.{m}.{setting}" for m in "ab" for setting in ("name=mlp", "dropout=0.3")]
    return [
        *("fit", str(table), "--label", "label", "--modality", "a=a1,a2:numeric", "--modality", "b=b1,b2:numeric"),
        *("--epochs", str(epochs), "--batch-size", "16", "--device", "cpu", "--out", str(run), *METHODS[method]),
        *("train.checkpoint_every=1", *own),
    ]


def child(arguments: list[str], log: Path) -> int:
    """Start the command line in a fork of this process, which has imported everything but computed nothing."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        import torch

        torch.set_num_threads(1)
        from polymodal.cli import main

        try:
            main(arguments)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    finally:
        os._exit(code)


def finish(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_after(pid: int, seconds: float) -> bool:
    """Whether the process was still running when it was killed."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status):
                raise RuntimeError(f"the run failed by itself with exit code {os.waitstatus_to_exitcode(status)}")
            return False
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    finish(pid)
    return True


def same(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def where(run: Path) -> str:
    """How far a killed run had come."""
    stages = run / "stages"
    done = [one.name for one in sorted(stages.iterdir()) if (one / "done.json").exists()] if stages.exists() else []
    running = [one.name for one in sorted(stages.iterdir()) if (one / "checkpoint").exists()] if stages.exists() else []
    return f"{len(done)} stages done, {running[0] if running else 'none'} running"


def kills(folder: Path, recipes: list[str], count: int, epochs: int, rng: random.Random) -> int:
    """Number of resumed runs that differ."""
    table, log, wrong = write_table(folder / "table.csv"), folder / "log.txt", 0
    seconds = {}
    for method in recipes:
        began = time.perf_counter()
        if finish(child(command(table, folder / method, method, epochs), log)):
            raise RuntimeError(log.read_text()[-2000:])
        seconds[method] = time.perf_counter() - began
    number = total = 0
    while total < count:
        method = recipes[number % len(recipes)]
        run = folder / f"killed-{number}"
        number += 1
        pid, hits, moments = child(command(table, run, method, epochs), log), 0, []
        while True:
            # At most three kills a run; what is left to do shrinks.
            moment = rng.uniform(0.02, 1.0) * seconds[method] / (1 + hits)
            if hits == 3 or (hits and rng.random() < 0.4):
                if finish(pid):
                    raise RuntimeError(log.read_text()[-2000:])
                break
            if not killed_after(pid, moment):
                break
            hits, total = hits + 1, total + 1
            moments.append(f"{moment:.2f} s ({where(run)})")
            started = (run / "config.yaml").exists()
            if not started:  # killed before anything was written: begin again
                shutil.rmtree(run, ignore_errors=True)
            pid = child(["fit", "--resume", str(run)] if started else command(table, run, method, epochs), log)
        if hits:
            equal = same(run, folder / method)
            wrong += not equal
            print(f"{method:6} killed at {', '.join(moments)}: {'equal' if equal else 'DIFFERS'}", flush=True)
        shutil.rmtree(run)
    return wrong


def full_disk(folder: Path) -> bool | None:
    """Whether a run on a disk that fills up goes on from its last resume point; None where mounting is not allowed."""
    if os.geteuid() != 0:
        return None
    disk, log = folder / "disk", folder / "full.txt"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False).returncode:
        return None
    try:
        table = write_table(folder / "full.csv")
        arguments = command(table, disk / "run", "joint", 4)
        pid = child(arguments, log)
        point = disk / "run" / "stages" / "joint" / "checkpoint" / "last.pt"
        while not point.exists():
            time.sleep(0.001)
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        code = finish(pid)
        message = log.read_text().strip().splitlines()[-1]
        print(f"full disk: exit code {code}: {message}")
        ballast.unlink()
        resumed = finish(child(["fit", "--resume", str(disk / "run")], log))
        whole = finish(child(command(table, folder / "whole", "joint", 4), log))
        return code == 2 and "kept" in message and not resumed and not whole and same(disk / "run", folder / "whole")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipes", nargs="+", default=list(METHODS), choices=METHODS)
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    # Imported once; nothing is computed here, so that forks have no threads to miss.
    import torch._dynamo  # noqa: F401

    import polymodal.cli
    import polymodal.predictor  # noqa: F401

    with tempfile.TemporaryDirectory() as name:
        wrong = kills(Path(name), asked.recipes, asked.kills, asked.epochs, random.Random(asked.seed))
        kept = full_disk(Path(name))
    disk = {None: "not tried", True: "kept", False: "LOST"}[kept]
    print(f"{asked.kills} kills or a few more, {wrong} resumed runs differ; full disk: {disk}")
    if asked.check and (wrong or kept is False):
        sys.exit(1)


if __name__ == "__main__":
    main()
