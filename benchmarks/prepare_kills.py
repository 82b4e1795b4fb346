"""Kill `data prepare` at random moments and run it again: equal to an uninterrupted one, and never anything half-written.

Each call runs in a fork of this process and is killed with SIGKILL after a random share of the time that a whole call takes.
After each kill every file that is in its place is compared with the uninterrupted result; after the last one the call is run to
its end, and both folders are compared byte for byte.

    python benchmarks/prepare_kills.py [--kills 10] [--dataset cremad/ogm] [--sound spectrogram] [--seed 0] [--check]
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

from polymodal.data.miniature import make
from polymodal.datasets import Source, find, parse
from polymodal.datasets.plan import Wanted
from polymodal.datasets.prepare import UNFINISHED, prepare


def child(source: Source, out: Path, wanted: Wanted) -> int:
    """Start a call in a fork of this process, which has imported everything but computed nothing."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        prepare(source, out, wanted, workers=2, show=False)
        code = 0
    finally:
        os._exit(code)


def finish(pid: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise RuntimeError(f"a call that was not killed ended with exit code {code}")


def killed_after(pid: int, seconds: float) -> bool:
    """Whether the process was still running when it was killed."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status):
                raise RuntimeError("a call failed by itself")
            return False
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def tree(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--dataset", default="cremad/ogm")
    parser.add_argument("--sound", default="spectrogram", choices=["wav", "spectrogram"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    rng, kills, rounds, half, wrong = random.Random(asked.seed), 0, 0, 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = make(asked.dataset.partition("/")[0], folder / "root")
        source = parse(f"{asked.dataset}:{root}")
        assert source is not None
        find(source.name)
        began = time.perf_counter()
        finish(child(source, folder / "whole", Wanted(asked.sound)))
        seconds = time.perf_counter() - began
        whole = tree(folder / "whole")
        while kills < asked.kills:
            out, rounds = folder / "killed", rounds + 1
            for hit in range(3):  # at most three kills a folder; what is left to do shrinks
                moment = rng.uniform(0.05, 1.0) * seconds / (1 + hit)
                if kills == asked.kills or not killed_after(child(source, out, Wanted(asked.sound)), moment):
                    break
                kills += 1
                found = tree(out) if out.exists() else {}
                unfinished = [one for one in found if one.startswith(UNFINISHED)]
                half += bool(unfinished)
                placed = {one: found[one] for one in found if one not in unfinished}
                wrong += [f"{one} is half-written" for one, data in placed.items() if data != whole.get(one)]
                print(f"killed after {moment:.2f} s: {len(placed)} of {len(whole)} files in place", flush=True)
            finish(child(source, out, Wanted(asked.sound)))
            if tree(out) != whole:
                wrong.append(f"folder {rounds} differs from the uninterrupted one")
            shutil.rmtree(out)
    print(
        f"{kills} kills in {rounds} folders ({seconds:.1f} s when uninterrupted), {half} of them amid a file: ", end=""
    )
    print(
        "; ".join(wrong) or "every resumed folder equals the uninterrupted one, and nothing half-written was in place"
    )
    if asked.check and wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
