"""A run's data and building blocks without any file."""

from __future__ import annotations

from typing import Any

from polymodal.balancers import Balancer, MultiLoss
from polymodal.config import load_config
from polymodal.encoders import MLP
from polymodal.recipes.base import Setup
from polymodal.run import RunFolder
from polymodal.tasks import Task
from polymodal.types import Batch
from tests.builders import TASKS, WIDTH, make_batch, names


class Batches(list[Batch]):
    """Batches with the verbs of a loader."""

    def set_epoch(self, epoch: int) -> None:
        pass


def make_setup(
    count: int = 2,
    task: str = "classification",
    *,
    run: RunFolder | None = None,
    balancer: type[Balancer] = MultiLoss,
    valid: bool = True,
    overrides: tuple[str, ...] = (),
) -> Setup:
    it: Task = TASKS[task]
    config = load_config({"label": "y", "train": {"epochs": 3, "device": "cpu"}, "optimizer": {"lr": 0.02}}, overrides)

    def batches(*seeds: int) -> Batches:
        return Batches(make_batch(count, it, seed=seed) for seed in seeds)

    def make_encoder(modality: str) -> Any:
        return MLP(3 + int(modality[1:]), dim=WIDTH, hidden=[6], dropout=0.2).double()

    setup = Setup(
        tuple(names(count)), it, config, batches(0, 1, 2), batches(3) if valid else None, make_encoder, balancer, run
    )
    setup.show = False
    build = setup.model
    setup.model = lambda *args, **kwargs: build(*args, **kwargs).double()  # type: ignore[method-assign]
    return setup
