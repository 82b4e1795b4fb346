"""From settings and the parts of a table to what a recipe trains with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from polymodal import names
from polymodal.config import Config
from polymodal.data.parts import Parts
from polymodal.predictor.checks import check_queries, check_retrieval, check_settings
from polymodal.predictor.samples import make_loader
from polymodal.recipes.base import Setup
from polymodal.run import RunFolder
from polymodal.tasks import Retrieval, Task

__all__ = ["make_setup"]


def make_setup(
    config: Config,
    parts: Parts,
    task: Task,
    *,
    make_encoder: Callable[[str], nn.Module],
    run: RunFolder | None = None,
    show: bool | None = None,
    trust: Sequence[str] | None = None,
) -> Setup:
    """Loaders of training and validation, and makers of encoders and balancers, after the settings were checked.

    Raises:
        InputError: settings that do not go together, or not with this table.
    """
    check_settings(config, parts, task)
    fusion = names.resolve("fusion", config.fusion.name, bases=("Fusion",), trust=trust)
    check_retrieval(task, fusion, config)
    if isinstance(task, Retrieval):
        check_queries(parts, config)
    samples, batch = parts.samples, config.train.batch_size
    setup = Setup(
        modalities=tuple(parts.schema.modalities),
        task=task,
        config=config,
        train=make_loader(samples["train"], config, batch, shuffle=True),
        valid=make_loader(samples["valid"], config, batch) if "valid" in samples else None,
        make_encoder=make_encoder,
        make_balancer=lambda: setup.balancer(config.balancer.model_dump()),
        run=run,
        show=show,
        trust=trust,
    )
    setup.make_balancer()
    return setup
