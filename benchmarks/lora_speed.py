"""What LoRA and the feature cache save and cost: epochs of MMLoRA's second stage and of linear evaluation, steps, inference.

    python benchmarks/lora_speed.py [--rounds 5] [--only epochs layers] [--check]

Candidates take turns in one process and are told by their smallest time. *Epochs*: two equal ViT encoders, one of them
adapted, with the other's features from the cache or from the encoder; linear evaluation from the cache or through the encoder.
*Layers*: ViT-B/16 and BERT-base of random weights: inference of the merged model beside the plain one's, a LoRA training
step beside HF peft's. With `--check` the exit code is 1 where a bar does not hold. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import polymodal as pm
from polymodal.adapters.lora import inject_lora
from polymodal.data.features import FeatureCache
from polymodal.data.synthetic import ArrayLoader, Arrays
from polymodal.encoders import ViT, linear_heads
from polymodal.fit import fit
from polymodal.fusion import Mixture

CLASSES = 10
Bar = tuple[str, float]


def smallest(runs: Mapping[str, Callable[[], float | None]], rounds: int) -> dict[str, float]:
    """Smallest seconds of each candidate over rounds in which they take turns; the first round warms up.

    A candidate that returns a number has timed itself.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            own = run()
            if turn:
                times[name].append(time.perf_counter() - began if own is None else own)
    return {name: min(found) for name, found in times.items()}


# Epochs ---------------------------------------------------------------------------------------------------------------


def images(count: int, side: int) -> ArrayLoader:
    random = torch.Generator().manual_seed(0)
    inputs = {m: torch.randn(count, 3, side, side, generator=random) for m in ("left", "right")}
    return ArrayLoader(Arrays(inputs, torch.arange(count) % CLASSES), 16, shuffle=True)


def only(loader: ArrayLoader, modality: str) -> ArrayLoader:
    one = copy.copy(loader)
    one.data = loader.data._replace(inputs={modality: loader.data.inputs[modality]})
    return one


def vit(side: int) -> ViT:
    return ViT("vit_small_patch16_224", height=side, width_pixels=side, depth=12)


def epoch(model: pm.MultimodalModel, loader: ArrayLoader) -> float:
    """Seconds between the first batch of a one-epoch fit and its last step, with AdamW as everywhere."""
    marks: list[float] = []

    class Marked(ArrayLoader):
        def __iter__(self) -> Any:
            marks.append(time.perf_counter())
            yield from super().__iter__()
            marks.append(time.perf_counter())

    marked = copy.copy(loader)
    marked.__class__ = Marked
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    fit(
        model, marked, None, task=pm.tasks.Classification(CLASSES), epochs=1, optimizer=optimizer, device="cpu", show=False
    )  # fmt: skip
    return marks[-1] - marks[0]


def epochs(rounds: int, count: int, side: int) -> tuple[list[list[str]], list[Bar]]:
    """Rows of the table and the ratios that have a bar."""
    torch.manual_seed(0)
    loader = images(count, side)
    encoders = {m: vit(side).requires_grad_(False) for m in ("left", "right")}
    heads = linear_heads(encoders, CLASSES).requires_grad_(False)
    inject_lora(encoders["left"], 1)
    model = pm.MultimodalModel(encoders, Mixture(dict.fromkeys(encoders, 0), CLASSES), heads)
    cached = FeatureCache(show=False).loader(loader, {"right": encoders["right"]})
    single = {"right": encoders["right"]}
    linear = pm.MultimodalModel(single, Mixture({"right": 0}, CLASSES), linear_heads(single, CLASSES))
    alone = only(loader, "right")
    alone_cached = FeatureCache(show=False).loader(alone, single)

    def forward(m: str) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                for batch in loader:
                    encoders[m].eval()(batch.inputs[m])

        return run

    found = smallest(
        {
            "forward, adapted encoder": forward("left"),
            "forward, frozen encoder": forward("right"),
            "MMLoRA stage 2, no cache": lambda: epoch(model, loader),
            "MMLoRA stage 2, cache warm": lambda: epoch(model, cached),
            "linear evaluation, no cache": lambda: epoch(linear, alone),
            "linear evaluation, cache warm": lambda: epoch(linear, alone_cached),
        },
        rounds,
    )
    stage = found["MMLoRA stage 2, no cache"] / found["MMLoRA stage 2, cache warm"]
    straight = found["linear evaluation, no cache"] / found["linear evaluation, cache warm"]
    rest = found["MMLoRA stage 2, no cache"] - found["forward, frozen encoder"]
    rows = [[name, f"{1e3 * seconds:.1f} ms"] for name, seconds in found.items()]
    rows.append(
        ["bound of the speed-up, no cache / (no cache - forward)", f"{found['MMLoRA stage 2, no cache'] / rest:.2f}"]
    )
    return rows, [
        ("MMLoRA's second stage: cache over none >= 1.3", stage),
        ("linear evaluation: cache over none >= 20", straight),
    ]


# Layers ---------------------------------------------------------------------------------------------------------------


class BertNet(nn.Module):
    """BERT-base without its pooler, which would train nothing."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.bert = BertModel(BertConfig(), add_pooling_layer=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.bert(input_ids=x).last_hidden_state
        return hidden[:, 0]


def hosts() -> dict[str, tuple[Callable[[], nn.Module], Tensor, list[str]]]:
    """Name -> how to make the network, its input, and peft's names of the layers that project to Q, K and V."""
    import timm

    random = torch.Generator().manual_seed(0)
    return {
        "ViT-B/16": (
            lambda: timm.create_model("vit_base_patch16_224", num_classes=0),
            torch.randn(2, 3, 224, 224, generator=random),
            ["qkv"],
        ),
        "BERT-base": (BertNet, torch.randint(0, 30000, (2, 128), generator=random), ["query", "key", "value"]),
    }


def step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """A training step of what trains in the model."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    model.train()

    def run() -> None:
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def inference(model: nn.Module, x: Tensor) -> Callable[[], None]:
    model.eval()

    def run() -> None:
        with torch.no_grad():
            model(x)

    return run


def layers(rounds: int, rank: int) -> tuple[list[list[str]], list[Bar]]:
    """Rows of the table and the ratios that have a bar."""
    from peft import LoraConfig, inject_adapter_in_model

    rows, bars = [], []
    for name, (make, x, targets) in hosts().items():
        torch.manual_seed(0)
        plain, merged, ours, theirs = (make() for _ in range(4))
        merged.load_state_dict(plain.state_dict())
        inject_lora(merged, rank).remove(merge=True)
        inject_lora(ours, rank)
        theirs = inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), theirs)
        runs = {"plain inference": inference(plain, x), "merged inference": inference(merged, x)}
        found = smallest(runs, rounds) | smallest(
            {"our LoRA step": step(ours, x), "peft's LoRA step": step(theirs, x)}, rounds
        )
        rows += [[f"{name}, {what}", f"{1e3 * seconds:.1f} ms"] for what, seconds in found.items()]
        bars += [
            (f"{name}: merged over plain inference <= 1.03", found["merged inference"] / found["plain inference"]),
            (f"{name}: our LoRA step over peft's <= 1.03", found["our LoRA step"] / found["peft's LoRA step"]),
        ]
    return rows, bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=["epochs", "layers"], default=["epochs", "layers"])
    parser.add_argument("--samples", type=int, default=64, help="of an epoch")
    parser.add_argument("--side", type=int, default=96, help="of the pictures, in pixels")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    rows: list[list[str]] = []
    bars: list[Bar] = []
    if "epochs" in args.only:
        one, two = epochs(args.rounds, args.samples, args.side)
        rows, bars = rows + one, bars + two
    if "layers" in args.only:
        one, two = layers(args.rounds, 1)
        rows, bars = rows + one, bars + two
    print(
        f"torch {torch.__version__}, numpy {np.__version__}, {torch.get_num_threads()} threads, {args.rounds} rounds, minima\n"
    )
    print("| what | smallest |\n|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    print("\n| ratio and bar | measured | holds |\n|---|---|---|")
    failed = []
    for name, ratio in bars:
        limit = float(name.split()[-1])
        holds = ratio >= limit if ">=" in name else ratio <= limit
        failed += [] if holds else [name]
        print(f"| {name} | {ratio:.3f} | {'yes' if holds else 'NO'} |")
    return int(bool(args.check and failed))


if __name__ == "__main__":
    sys.exit(main())
