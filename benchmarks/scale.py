"""What the switches of scale cost and save: accumulation, bf16, activation checkpoints, torch.compile, two processes, sharding.

    python benchmarks/scale.py [--rounds 12] [--steps 1] [--size 16] [--only NAME ...] [--tiny] [--check]

A ViT and a BERT of random weights under MLB, random input. Each candidate lives in a process of its own (two for the last two),
of one thread; they take turns, one round of `fit` each, and are told by their smallest seconds a sample. Memory is what the
process grows by, at its largest, over what it holds after a step on one sample: activations, in the main (Linux only). With
`--check` the exit code is 1 where a bar does not hold. Run it on an idle machine with two cores or more; `--tiny` only shows
that it runs.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from _common import circumstances, markdown
from mmlora import _resident

PLAIN = "one batch"
SIZES = {"image": 96, "width": 192, "depth": 8, "heads": 4, "length": 64}
TINY = {"image": 32, "width": 24, "depth": 2, "heads": 2, "length": 8}
CLASSES, WORDS = 10, 500


class Candidate(NamedTuple):
    """Options of `fit`, number of processes, bars on time and memory as multiples of the plain run's."""

    options: dict[str, Any]
    processes: int = 1
    slowest: float | None = None
    largest: float | None = None


CANDIDATES = {
    PLAIN: Candidate({}),
    "two micro-batches": Candidate({"accumulate": 2}, slowest=1.10, largest=1.0),
    "bf16": Candidate({"precision": "bf16"}),
    "checkpointing": Candidate({"checkpointing": True}, slowest=1.5, largest=0.75),
    "compile": Candidate({"compile": True}),
    "two processes": Candidate({}, 2, slowest=1 / 1.5),
    "two processes, sharded": Candidate({"shard": True}, 2),
}


class Timed:
    """A loader that notes when each batch is asked for; a batch lasts from one request to the next."""

    def __init__(self, items: list[Any]) -> None:
        self.items, self.times = items, list[float]()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        self.times, asked = [], time.perf_counter()
        for item in self.items:
            yield item
            now = time.perf_counter()
            self.times.append(now - asked)
            asked = now


class Runner:
    """One candidate's model, which `fit` goes on with in every round."""

    def __init__(self, candidate: Candidate, sizes: dict[str, int], samples: int, steps: int) -> None:
        import torch

        import polymodal as pm
        from polymodal.encoders import Bert, ViT, linear_heads
        from polymodal.fusion import Concat

        torch.manual_seed(0)
        width, depth, heads, side = (sizes[name] for name in ("width", "depth", "heads", "image"))
        config = {
            "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "vocab_size": WORDS,
            "intermediate_size": 4 * width,
        }  # fmt: skip
        net: dict[str, Any] = {"width": width, "depth": depth, "heads": heads}
        encoders = {
            "image": ViT("vit_tiny_patch16_224", height=side, width_pixels=side, **net),
            "text": Bert(config=config),
        }
        self.model = pm.MultimodalModel(
            encoders, Concat(dict.fromkeys(encoders, width), CLASSES), linear_heads(encoders, CLASSES)
        )
        self.optimizer = torch.optim.SGD(self.model.param_groups(1e-3), momentum=0.9)
        self.task, self.options = pm.tasks.Classification(CLASSES), candidate.options
        self.window = candidate.options.get("accumulate", 1)

        def batch(count: int) -> Any:
            inputs = {
                "image": torch.randn(count, 3, side, side),
                "text": torch.randint(1, WORDS, (count, sizes["length"])),
            }
            return pm.Batch(inputs, torch.randint(0, CLASSES, (count,)))

        self.samples = samples
        self.items = [batch(samples // self.window) for _ in range(steps * self.window)]
        self.fit([batch(1)])
        gc.collect()
        self.before = _resident("VmRSS")

    def fit(self, items: list[Any]) -> list[float]:
        """Seconds of each optimiser step."""
        from polymodal.balancers import MLB
        from polymodal.fit import fit

        loader = Timed(items)
        fit(
            self.model, loader, None, task=self.task, epochs=1, balancer=MLB(), optimizer=self.optimizer,
            schedule="constant", device="cpu", show=False, **self.options,
        )  # fmt: skip
        return [sum(loader.times[i : i + self.window]) for i in range(0, len(loader.times), self.window)]

    def round(self) -> tuple[float, float]:
        """Smallest seconds of a sample, and MiB."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return min(self.fit(self.items)) / self.samples, float("nan")
        return min(self.fit(self.items)) / self.samples, _resident("VmHWM") - self.before


def work(pipe: Connection, number: int, store: str, *arguments: Any) -> None:
    """What a process of a candidate does: a round whenever it is asked to."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    candidate: Candidate = arguments[0]
    if candidate.processes > 1:
        count = candidate.processes
        os.environ |= {"RANK": f"{number}", "LOCAL_RANK": f"{number}", "WORLD_SIZE": f"{count}"}
        os.environ |= {"LOCAL_WORLD_SIZE": f"{count}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        limit = timedelta(hours=12)  # it waits for its turn
        dist.init_process_group("gloo", f"file://{store}", timeout=limit, world_size=count, rank=number)
    runner = Runner(*arguments)
    pipe.send("ready")
    while pipe.recv():
        pipe.send(runner.round())
    if candidate.processes > 1:
        dist.destroy_process_group()


class Team:
    """The processes of one candidate."""

    def __init__(self, candidate: Candidate, store: Path, *arguments: Any) -> None:
        context = get_context("spawn")
        self.count, self.pipes, self.processes = candidate.processes, list[Connection](), list[Any]()
        for number in range(self.count):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=work, args=(theirs, number, str(store), candidate, *arguments), daemon=True
            )
            process.start()
            theirs.close()  # so that a worker that dies is an end of file here
            self.pipes.append(mine)
            self.processes.append(process)
        for pipe in self.pipes:
            pipe.recv()

    def round(self) -> tuple[float, float]:
        """Seconds a sample of all processes together, and the MiB of the largest."""
        for pipe in self.pipes:
            pipe.send(True)
        found = [pipe.recv() for pipe in self.pipes]
        return max(one[0] for one in found) / self.count, max(one[1] for one in found)

    def end(self) -> None:
        for pipe in self.pipes:
            pipe.send(False)
        for process in self.processes:
            process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=1, help="steps a candidate and round")
    parser.add_argument("--size", type=int, default=16, help="samples of a step and process")
    parser.add_argument("--only", nargs="*", help="names of candidates")
    parser.add_argument("--tiny", action="store_true", help="networks too small to tell anything")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    chosen = {name: one for name, one in CANDIDATES.items() if not args.only or name in {PLAIN, *args.only}}
    times: dict[str, list[float]] = {name: [] for name in chosen}
    memory: dict[str, list[float]] = {name: [] for name in chosen}
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        sizes = TINY if args.tiny else SIZES
        teams = {
            name: Team(one, Path(folder) / str(i), sizes, args.size, args.steps)
            for i, (name, one) in enumerate(chosen.items())
        }
        for turn in range(args.rounds + 1):
            for name, team in teams.items():
                seconds, grown = team.round()
                print(
                    f"round {turn} of {args.rounds}, {name}: {1e3 * seconds:.1f} ms a sample",
                    file=sys.stderr,
                    flush=True,
                )
                if turn:  # the first round warms up
                    times[name].append(seconds)
                    memory[name].append(grown)
        for team in teams.values():
            team.end()
    failed, rows = [], []
    for name, one in chosen.items():
        slower = min(times[name]) / min(times[PLAIN])
        larger = max(memory[name]) / max(memory[PLAIN])
        bars = []
        for ratio, bar, what in ((slower, one.slowest, "time"), (larger, one.largest, "memory")):
            if bar is not None:
                bars.append(f"{what} <= {bar:.2f}")
                failed += [f"{name} ({what})"] if ratio > bar else []
        figures = [f"{1e3 * min(times[name]):.2f}", f"{slower:.2f}", f"{max(memory[name]):.0f}", f"{larger:.2f}"]
        rows.append([name, *figures, ", ".join(bars)])
    print(f"{args.rounds} rounds of {args.steps} steps of {args.size} samples a process, one thread a process\n")
    print(markdown(["", "ms a sample", "ratio", "MiB a process", "ratio", "bar"], rows))
    print(f"\n{circumstances()}")
    if failed:
        print(f"\nabove its bar: {', '.join(failed)}")
    return int(bool(args.check and failed))


if __name__ == "__main__":
    sys.exit(main())
