"""A small run of a recipe on two synthetic token sequences, by Transformers of different width and depth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from polymodal.balancers import Balancer
from polymodal.config import load_config
from polymodal.data.synthetic import ArrayLoader, d4
from polymodal.encoders import SequenceTransformer
from polymodal.recipes.base import Setup
from polymodal.run import RunFolder
from polymodal.tasks import Classification

SHAPES: Mapping[str, tuple[int, int]] = {"x1": (8, 2), "x2": (8, 3)}
"""Width and depth of each modality's encoder."""


def make_setup(
    run: Path | None = None,
    *,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    width: int = 16,
    dropout: float = 0.0,
    overrides: tuple[str, ...] = (),
) -> Setup:
    """96 training and 48 validation samples of D4 (6 and 8 tokens of that width), two epochs at rate 0.01."""
    config = load_config(
        {"label": "y", "train": {"epochs": 2, "batch_size": 32, "device": "cpu"}, "optimizer": {"lr": 0.01}}, overrides
    )
    data = {part: d4(count, seed, width=width) for part, count, seed in (("train", 96, 0), ("valid", 48, 1))}
    some = {part: one._replace(inputs={m: one.inputs[m] for m in shapes}) for part, one in data.items()}

    def make_encoder(modality: str) -> Any:
        dim, depth = shapes[modality]
        return SequenceTransformer(width, dim=dim, depth=depth, heads=2, dropout=dropout)

    return Setup(
        modalities=tuple(shapes),
        task=Classification(6),
        config=config,
        train=ArrayLoader(some["train"], 32, shuffle=True),
        valid=ArrayLoader(some["valid"], 48),
        make_encoder=make_encoder,
        make_balancer=Balancer,
        run=None if run is None else RunFolder(run, resume=True),
        show=False,
    )
