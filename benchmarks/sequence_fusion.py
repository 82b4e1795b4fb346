"""What exact sequence fusion costs beside the references and the plain way: one thread, float32, forward and backward.

    python benchmarks/sequence_fusion.py [--seconds 60] [--only red10 MOSI ...] [--clock cpu] [--check]

Candidates take turns in one process; each is told by the smallest time of all rounds. Memory is the peak of tensor bytes
allocated in one forward and backward pass, without inputs and parameters, with their gradients. FLOPs are those of the forward
pass, additions and multiplications of the contraction order that is named. With `--check` the exit code is 1 where a bar does
not hold. Run it on an idle machine, or with `--clock cpu`, which counts the time of this process alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from _common import markdown
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from polymodal.adapters.sequence_fusion import sequence_fusion
from polymodal.adapters.sequence_fusion_forms import choose_form
from polymodal.adapters.sequence_fusion_reference import dense_weight, sf_op
from polymodal.experiment.costs import peak_bytes

Run = Callable[[], Sequence[Tensor]]


class Size(NamedTuple):
    lengths: tuple[int, ...]
    width: int
    tokens: int
    output: int
    batch: int
    rank: int = 8


SIZES = {
    "red10": Size((10,) * 3, 16, 8, 16, 24),
    "red20": Size((20,) * 3, 16, 8, 16, 24),
    "MOSI": Size((50,) * 3, 16, 16, 256, 24),
    "Food": Size((197, 50), 64, 16, 768, 16),
    "seven": Size((30,) * 7, 16, 16, 512, 16),
}
UNFITTED = {
    "2 x 32, d_h 128, R 4": Size((40, 40), 32, 8, 128, 16, 4),
    "2 x 96, d_h 256": Size((30, 30), 96, 8, 256, 8),
    "3 x 12, d_h 96, R 6": Size((25,) * 3, 12, 12, 96, 32, 6),
    "3 x 20, d_h 384": Size((25,) * 3, 20, 8, 384, 12),
    "3 x 28, d_h 192": Size((25,) * 3, 28, 16, 192, 16),
    "4 x 6, d_h 200": Size((20,) * 4, 6, 10, 200, 20),
    "4 x 9, d_h 320, R 5": Size((20,) * 4, 9, 16, 320, 16, 5),
    "5 x 4, d_h 128, R 4": Size((20,) * 5, 4, 8, 128, 24, 4),
}
"""Sizes that the rule which picks the form was not fitted to."""
SLACK = 1.35
"""How much slower than the faster form the picked one may be at a size that the rule was not fitted to."""

OURS, EINSUM = "ours", "plain einsum of the exact form"
OP, OP_BEST = "SF-OP literal (eq. 10)", "SF-OP best contraction order"
VF_LOOP, VF_ONCE = "SF-VF loop, a vector fusion a tuple (eq. 8)", "SF-VF loop, tokens projected once"
VF_BROADCAST, VF_BATCHED = "SF-VF broadcast", "SF-VF batched products"
PRINTED = "printed form (rank one, not exact)"

AT_LEAST = {  # size -> baseline -> (time, memory) of the baseline divided by ours, None where nothing is asked
    "red10": {OP: (200, 600), VF_LOOP: (30, 28), VF_BROADCAST: (3, 15)},
    "red20": {VF_BROADCAST: (40, 110)},
}
AT_MOST = {  # ours divided by the plain einsum
    "red10": (1.5, 0.35), "MOSI": (0.75, 0.08), "Food": (0.40, 0.10), "seven": (0.60, 0.05),
}  # fmt: skip


def inputs(size: Size) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Tokens, time factors and feature factors that want gradients."""
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).div_(shape[-1] ** 0.5).requires_grad_()

    h = [drawn(size.batch, length, size.width) for length in size.lengths]
    w_t = [drawn(size.rank, size.tokens, length) for length in size.lengths]
    return h, w_t, [drawn(size.rank, size.output, size.width) for _ in size.lengths]


def einsum(h: Sequence[Tensor], w_t: Sequence[Tensor], w_h: Sequence[Tensor]) -> Tensor:
    factors = [torch.einsum("rti,nij,skj->rsntk", t, x, f) for x, t, f in zip(h, w_t, w_h, strict=True)]
    whole = factors[0]
    for factor in factors[1:]:
        whole = whole * factor
    return whole.sum((0, 1))


def op_best(h: Sequence[Tensor], w_t: Tensor, w_h: Tensor) -> Tensor:
    """Three modalities: tokens of one after another into W_t, then W_h; the outer product is never formed."""
    one = torch.einsum("tabc,naj->ntjbc", w_t, h[0])
    two = torch.einsum("ntjbc,nbk->ntjkc", one, h[1])
    three = torch.einsum("ntjkc,ncl->ntjkl", two, h[2])
    return three.flatten(2) @ w_h.flatten(1).T


def projected(h: Sequence[Tensor], w_h: Sequence[Tensor]) -> list[Tensor]:
    """w_h h of every token, once: (B, l_m, R, d_h)."""
    return [torch.einsum("nij,skj->nisk", x, f) for x, f in zip(h, w_h, strict=True)]


def vf_loop(h: Sequence[Tensor], w_t: Tensor, w_h: Sequence[Tensor]) -> Tensor:
    flat = [f.flatten(0, 1).T for f in w_h]
    fused = []
    for places in product(*(range(x.shape[1]) for x in h)):
        a, b, c = (x[:, i] @ f for x, i, f in zip(h, places, flat, strict=True))
        fused.append((a * b * c).view(len(a), *w_h[0].shape[:2]).sum(1))
    return w_t.flatten(1) @ torch.stack(fused, 1)


def vf_once(h: Sequence[Tensor], w_t: Tensor, w_h: Sequence[Tensor]) -> Tensor:
    a, b, c = (x.unbind(1) for x in projected(h, w_h))
    fused = [(x * y * z).sum(1) for x, y, z in product(a, b, c)]
    return w_t.flatten(1) @ torch.stack(fused, 1)


def vf_broadcast(h: Sequence[Tensor], w_t: Tensor, w_h: Sequence[Tensor]) -> Tensor:
    a, b, c = projected(h, w_h)
    fused = (a[:, :, None, None] * b[:, None, :, None] * c[:, None, None]).sum(-2)
    return w_t.flatten(1) @ fused.flatten(1, 3)


def vf_batched(h: Sequence[Tensor], w_t: Tensor, w_h: Sequence[Tensor]) -> Tensor:
    """Ranks summed by one batched product a sample and output feature."""
    a, b, c = (x.permute(0, 3, 1, 2) for x in projected(h, w_h))  # (B, d_h, l, R)
    fused = (a[:, :, :, None] * b[:, :, None]).flatten(2, 3) @ c.mT
    return (fused.flatten(2) @ w_t.flatten(1).T).mT


def candidates(size: Size, small: bool, literal: bool) -> dict[str, tuple[Callable[[], Tensor], Sequence[Tensor]]]:
    """Name -> forward pass and the parameters it trains besides the tokens."""
    h, w_t, w_h = inputs(size)
    factors = [*w_t, *w_h]
    found: dict[str, tuple[Callable[[], Tensor], Sequence[Tensor]]] = {
        OURS: (lambda: sequence_fusion(h, w_t, w_h), [*h, *factors]),
        EINSUM: (lambda: einsum(h, w_t, w_h), [*h, *factors]),
        PRINTED: (lambda: sequence_fusion(h, w_t, w_h, rank_sum="inside"), [*h, *factors]),
    }
    if small:
        dense_t, dense_h = (dense_weight(w).detach().requires_grad_() for w in (w_t, w_h))
        if literal:
            found[OP] = (lambda: sf_op(h, dense_t, dense_h), [*h, dense_t, dense_h])
            found[VF_LOOP] = (lambda: vf_loop(h, dense_t, w_h), [*h, dense_t, *w_h])
            found[VF_ONCE] = (lambda: vf_once(h, dense_t, w_h), [*h, dense_t, *w_h])
        found[OP_BEST] = (lambda: op_best(h, dense_t, dense_h), [*h, dense_t, dense_h])
        found[VF_BROADCAST] = (lambda: vf_broadcast(h, dense_t, w_h), [*h, dense_t, *w_h])
        found[VF_BATCHED] = (lambda: vf_batched(h, dense_t, w_h), [*h, dense_t, *w_h])
    return found


def both_passes(forward: Callable[[], Tensor], wanted: Sequence[Tensor], size: Size) -> Run:
    upstream = torch.ones(size.batch, size.tokens, size.output)
    return lambda: torch.autograd.grad(forward(), wanted, upstream)


def fastest(runs: dict[str, Run], seconds: float, clock: Callable[[], float]) -> dict[str, float]:
    """Milliseconds of each, in turns, until the time is over; slow ones sit out most rounds."""
    best = dict.fromkeys(runs, float("inf"))
    end, turn = time.perf_counter() + seconds, 0
    while turn < 4 or time.perf_counter() < end:
        usual = sorted(best.values())[len(best) // 2]
        for name, run in runs.items():
            if turn > 3 and best[name] > 10 * usual and turn % 16:
                continue
            begun = clock()
            run()
            best[name] = min(best[name], 1e3 * (clock() - begun))
        turn += 1
    return best


def peak(run: Run) -> float:
    """MiB of tensors allocated at once."""
    return peak_bytes(run, torch.device("cpu")) / 2**20


def flops(name: str, forward: Callable[[], Tensor], size: Size) -> float:
    """Million additions and multiplications of the forward pass: matrix products as counted, others by their sizes."""

    def in_place(total: Sequence[int], left: Sequence[int], right: Sequence[int], **_: object) -> int:
        return 2 * left[0] * left[1] * right[1]  # the counter knows addmm alone

    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place}) as counter:
        forward()
    count, cells = len(size.lengths), size.batch * size.tokens * size.output
    tuples, others = prod(size.lengths), 0
    if name in (EINSUM, OURS):
        others = count * size.rank**2 * cells
    if name == OURS and picked(size) == "core":
        rows = size.batch * size.tokens + size.output
        others = size.rank * rows * size.width ** ((count + 1) // 2)
    if name in (VF_LOOP, VF_ONCE, VF_BROADCAST):
        others = count * size.batch * tuples * size.rank * size.output
    if name == VF_BATCHED:
        others = size.batch * size.rank * size.output * prod(size.lengths[:2])
    if name == OP:
        others = size.batch * tuples * size.width**count
    return float(counter.get_total_flops() + others) / 1e6


def picked(size: Size) -> str:
    return choose_form([size.width] * len(size.lengths), size.batch * size.tokens, size.output, size.rank, size.rank)


class Report:
    """Prints what was measured and remembers which bars it missed."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds, self.clock, self.missed = seconds, clock, list[str]()

    def bar(self, what: str, value: float, limit: float, at_least: bool = False) -> str:
        held = value >= limit if at_least else value <= limit
        self.missed += [] if held else [what]
        return f"{value:.3g} ({'>=' if at_least else '<='} {limit}{'' if held else ' MISSED'})"

    def size(self, name: str, size: Size) -> None:
        small = name in ("red10", "red20")
        made = candidates(size, small, literal=name == "red10")
        runs = {one: both_passes(forward, wanted, size) for one, (forward, wanted) in made.items()}
        times = fastest(runs, self.seconds, self.clock)
        memory = {one: peak(run) for one, run in runs.items()}
        rows = []
        for one, (forward, wanted) in made.items():
            cells = [f"{times[one]:.2f}", f"{memory[one]:.2f}", f"{flops(one, forward, size):.4g}"]
            cells.append(f"{sum(w.numel() for w in wanted[len(size.lengths) :]):,}")
            ratios = times[one] / times[OURS], memory[one] / memory[OURS]
            text = [f"{ratio:.3g}" for ratio in ratios]
            for i, kind in enumerate(("time", "memory")):
                if one in AT_LEAST.get(name, {}):
                    text[i] = self.bar(f"{name}: {one}, {kind}", ratios[i], AT_LEAST[name][one][i], at_least=True)
            rows.append([one, *cells, *text])
        print(f"\n### {name}: {size}, form {picked(size)}\n")
        heads = ["candidate", "ms", "MiB", "MFLOP forward", "parameters", "time / ours", "memory / ours"]
        print(markdown(heads, rows))
        if name in AT_MOST:
            limits = zip(("time", "memory"), (times, memory), AT_MOST[name], strict=True)
            told = [f"{kind} {self.bar(f'{name}: {kind}', f[OURS] / f[EINSUM], limit)}" for kind, f, limit in limits]
            print(f"\nours / {EINSUM}: {', '.join(told)}")

    def growth(self) -> None:
        base = SIZES["MOSI"]
        bounds = {
            "L 10 to 1000": ([base._replace(lengths=(n,) * 3) for n in (10, 1000)], "auto", 1.7),
            "R 8 to 32 at MOSI": ([base._replace(rank=rank) for rank in (8, 32)], "auto", 2.2),
            "M 2 to 7, stream forced": ([base._replace(lengths=(30,) * count) for count in (2, 7)], "stream", 4.5),
        }
        rows = []
        for what, (sizes, form, limit) in bounds.items():
            runs: dict[str, Run] = {}
            for index, size in enumerate(sizes):
                runs[str(index)] = self._ours(size, form)
            times = fastest(runs, self.seconds, self.clock)
            memory = [peak(run) for run in runs.values()]
            ratio = self.bar(f"growth of {what}", times["1"] / times["0"], limit)
            rows.append([what, f"{times['0']:.1f} to {times['1']:.1f}", ratio, f"{memory[0]:.1f} to {memory[1]:.1f}"])
        print("\n### Growth\n\n" + markdown(["from to", "ms", "time ratio", "MiB with gradients"], rows))

    def rule(self) -> None:
        """The picked form against both, at sizes that the rule was not fitted to."""
        rows = []
        for name, size in UNFITTED.items():
            times = fastest({form: self._ours(size, form) for form in ("stream", "core")}, self.seconds / 4, self.clock)
            ratio = times[picked(size)] / min(times.values())
            told = self.bar(f"form at {name}", ratio, SLACK)
            rows.append([name, f"{times['stream']:.1f}", f"{times['core']:.1f}", picked(size), told])
        print(
            "\n### The rule at sizes it was not fitted to\n\n"
            + markdown(["size", "stream ms", "core ms", "picked", "picked / faster"], rows)
        )

    def _ours(self, size: Size, form: str) -> Run:
        h, w_t, w_h = inputs(size)
        return both_passes(lambda: sequence_fusion(h, w_t, w_h, form=form), [*h, *w_t, *w_h], size)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="for each size")
    parser.add_argument("--only", nargs="*", choices=[*SIZES, "growth", "rule"], help="parts to run")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(args.seconds, time.perf_counter if args.clock == "wall" else time.process_time)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread, float32, {args.clock} clock, minima")
    parts = args.only or [*SIZES, "growth", "rule"]
    for name, size in SIZES.items():
        if name in parts:
            report.size(name, size)
    if "growth" in parts:
        report.growth()
    if "rule" in parts:
        report.rule()
    print(f"\nmissed: {'; '.join(report.missed)}" if report.missed else "\nall bars hold")
    return int(bool(args.check and report.missed))


if __name__ == "__main__":
    sys.exit(main())
