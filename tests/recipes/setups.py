"""A small run of a recipe on two synthetic modalities, without any file but what `run` asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polymodal.balancers import Balancer
from polymodal.config import load_config
from polymodal.data.synthetic import ArrayLoader, Arrays, d1
from polymodal.encoders import MLP
from polymodal.recipes.base import Setup
from polymodal.run import RunFolder
from polymodal.tasks import Classification


def make_setup(
    run: Path | None = None, *, modalities: Sequence[str] = ("x1", "x2"), dropout: float = 0.0, valid: bool = True
) -> Setup:
    """128 training and 64 validation samples of D1, two epochs at rate 0.01."""
    config = load_config(
        {"label": "y", "train": {"epochs": 2, "batch_size": 32, "device": "cpu"}, "optimizer": {"lr": 0.01}}
    )

    def data(count: int, seed: int) -> Arrays:
        both = d1(count, seed, e1=0.3, e2=0.05, nuisance=2)
        return both._replace(inputs={m: both.inputs[m] for m in modalities})

    widths = {"x1": 8, "x2": 8}
    return Setup(
        modalities=tuple(modalities),
        task=Classification(8),
        config=config,
        train=ArrayLoader(data(128, 0), 32, shuffle=True),
        valid=ArrayLoader(data(64, 1), 64) if valid else None,
        make_encoder=lambda m: MLP(widths[m], dim=8, hidden=[16], dropout=dropout),
        make_balancer=Balancer,
        run=None if run is None else RunFolder(run, resume=True),
        show=False,
    )


def stages(run: Path) -> list[str]:
    """Names of the finished stages in a run's folder."""
    return sorted(file.parent.name for file in run.glob("stages/*/done.json"))
