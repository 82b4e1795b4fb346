"""What a training step costs beside a plain torch loop: two ResNet-18, sound 1 x 128 x 128, video 3 frames of 3 x 112 x 112.

    python benchmarks/step_overhead.py [--rounds 6] [--steps 4] [--check]

All candidates take turns in one process; each is told by the smallest time of a step over all rounds. With `--check` the exit
code is 1 where a bar does not hold. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import polymodal as pm
from polymodal.balancers import Balancer
from polymodal.encoders import ResNet18, linear_heads
from polymodal.fit import fit
from polymodal.fusion import Concat

CLASSES, SIZE = 10, 16
TEACHERS = "umt's teachers, forward"


def batches(count: int) -> list[pm.Batch]:
    generator = torch.Generator().manual_seed(0)
    return [
        pm.Batch(
            {
                "audio": torch.randn(SIZE, 1, 128, 128, generator=generator),
                "video": torch.randn(SIZE, 3, 3, 112, 112, generator=generator),
            },
            torch.randint(0, CLASSES, (SIZE,), generator=generator),
        )
        for _ in range(count)
    ]


def small(batch: pm.Batch) -> pm.Batch:
    """Two samples, for the validation that MSLR asks for after the timed steps."""
    return pm.Batch({m: x[:2] for m, x in batch.inputs.items()}, batch.target[:2])


class Timed:
    """A loader that notes when each batch is asked for; a step lasts from one request to the next."""

    def __init__(self, items: list[pm.Batch]) -> None:
        self.items, self.times = items, list[float]()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[pm.Batch]:
        self.times = []  # the last pass is the training one; PMR looks through the batches before it
        asked = time.perf_counter()
        for item in self.items:
            yield item
            now = time.perf_counter()
            self.times.append(now - asked)
            asked = now


def model(heads: bool) -> pm.MultimodalModel:
    torch.manual_seed(0)
    encoders = {"audio": ResNet18(channels=1), "video": ResNet18(channels=3)}
    fusion = Concat({m: 512 for m in encoders}, CLASSES)
    return pm.MultimodalModel(encoders, fusion, linear_heads(encoders, CLASSES) if heads else None)


class PlainLoop:
    """What one would write without polymodal: two timm networks, a linear layer, a loss, SGD."""

    def __init__(self) -> None:
        import timm

        torch.manual_seed(0)
        self.audio: Any = timm.create_model("resnet18", in_chans=1, num_classes=0)
        self.video: Any = timm.create_model("resnet18", in_chans=3, num_classes=0)
        self.head = nn.Linear(1024, CLASSES)
        self.modules = nn.ModuleList([self.audio, self.video, self.head]).train()
        self.optimizer = torch.optim.SGD(self.modules.parameters(), lr=1e-3, momentum=0.9)

    def __call__(self, items: list[pm.Batch]) -> list[float]:
        times = []
        for batch in items:
            begun = time.perf_counter()
            sound = self.audio.forward_features(batch.inputs["audio"]).mean((2, 3))
            frames = self.video.forward_features(batch.inputs["video"].flatten(0, 1)).mean((2, 3))
            features = torch.cat([sound, frames.view(SIZE, 3, 512).mean(1)], 1)
            loss = F.cross_entropy(self.head(features), batch.target)
            torch.autograd.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            loss.item()
            times.append(time.perf_counter() - begun)
        return times


class Fitted:
    """`fit` with one balancer."""

    def __init__(self, balancer: Balancer) -> None:
        self.balancer, self.model = balancer, model(balancer.needs_heads)
        self.optimizer = torch.optim.SGD(self.model.param_groups(1e-3), momentum=0.9)

    def __call__(self, items: list[pm.Batch]) -> list[float]:
        loader = Timed(items)
        fit(
            self.model,
            loader,
            [small(items[0])],
            task=pm.tasks.Classification(CLASSES),
            epochs=1,
            balancer=self.balancer,
            optimizer=self.optimizer,
            schedule="constant",
            device="cpu",
            show=False,
        )
        return loader.times


class Teachers:
    """The forward pass of UMT's two frozen teachers alone, which is allowed to it on top of its bar."""

    def __init__(self) -> None:
        self.encoders = model(False).encoders.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, items: list[pm.Batch]) -> list[float]:
        times = []
        for batch in items:
            begun = time.perf_counter()
            for m, encoder in self.encoders.items():
                encoder(batch.inputs[m])
            times.append(time.perf_counter() - begun)
        return times


def candidates() -> dict[str, tuple[Callable[[], Callable[[list[pm.Batch]], list[float]]], float]]:
    """Name -> how to make it, and the bar of its issue."""
    b = pm.balancers
    return {
        "plain torch loop": (PlainLoop, 1.0),
        "joint": (lambda: Fitted(b.Joint()), 1.03),
        "multi_loss": (lambda: Fitted(b.MultiLoss()), 1.05),
        "mlb": (lambda: Fitted(b.MLB()), 1.05),
        "ogm_ge": (lambda: Fitted(b.OGM_GE()), 1.10),
        "agm, features zeroed": (lambda: Fitted(b.AGM(zero="features")), 1.5),
        "agm, input zeroed": (lambda: Fitted(b.AGM(zero="input")), 2.2),
        "pmr": (lambda: Fitted(b.PMR()), 1.10),
        "mslr": (lambda: Fitted(b.MSLR()), 1.03),
        TEACHERS: (Teachers, math.inf),
        "umt": (lambda: Fitted(b.UMT(dict(model(False).encoders))), 1.05),
    }


def starts(rounds: int = 5) -> dict[str, float]:
    """Seconds, smallest of some rounds, that a fresh interpreter takes."""
    commands = {"polymodal --help": ["-m", "polymodal", "--help"], "import polymodal": ["-c", "import polymodal"]}
    found = {}
    for name, arguments in commands.items():
        times = []
        for _ in range(rounds):
            begun = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - begun)
        found[name] = min(times)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4, help="steps a candidate and round")
    parser.add_argument("--only", nargs="*", help="names of candidates")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    always = {"plain torch loop", *([TEACHERS] if "umt" in (args.only or ()) else [])}
    chosen = {n: c for n, c in candidates().items() if not args.only or n in args.only or n in always}
    runs = {name: make() for name, (make, _) in chosen.items()}
    items = batches(args.steps)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.rounds + 1):
        for name, run in runs.items():
            found = run(items)
            times[name] += found if turn else []  # the first round warms up
    base = min(times["plain torch loop"])
    failed = []
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds of {args.steps} steps, minima\n"
    )
    print("| step | ms | ratio | bar |\n|---|---|---|---|")
    for name, found in times.items():
        ratio, bar = min(found) / base, chosen[name][1]
        if name == "umt":
            bar += min(times[TEACHERS]) / base
        failed += [name] if ratio > bar else []
        print(f"| {name} | {1e3 * min(found):.0f} | {ratio:.3f} | <= {bar:.2f} |")
    print("\n| start | s | bar |\n|---|---|---|")
    for name, seconds in starts().items():
        bar = 0.5 if "help" in name else 0.3
        failed += [name] if seconds > bar else []
        print(f"| {name} | {seconds:.2f} | <= {bar} |")
    if failed:
        print(f"\nabove its bar: {', '.join(failed)}")
    return int(bool(args.check and failed))


if __name__ == "__main__":
    sys.exit(main())
