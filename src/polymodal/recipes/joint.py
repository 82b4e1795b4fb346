"""Joint training: all encoders and the fusion at once, under a balancer."""

from __future__ import annotations

from polymodal.balancers import Balancer
from polymodal.model import MultimodalModel
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.over_experts import take_whole
from polymodal.recipes.transfer import StartFrom, started
from polymodal.tasks import Retrieval

__all__ = ["joint", "train_jointly"]


def joint(setup: Setup, start_from: StartFrom = None) -> Result:
    """Train encoders and fusion together on the fused loss, as the configured balancer changes it.

    Uni-modal heads exist where the balancer or the fusion trains them.

    Args:
        start_from: a run's folder or a file of weights (or one a modality), whose encoders' tensors are what the encoders begin
            with wherever the shapes agree; in retrieval all tensors of the model. Those that do not agree are named.

    Raises:
        InputError: no weights there, of none of the modalities, or for other encoders.
    """
    whole = isinstance(setup.task, Retrieval)
    begun = setup if whole else started(setup, start_from)[0]
    return train_jointly(begun, setup.make_balancer(), "joint", start_from if whole else None)


def train_jointly(setup: Setup, balancer: Balancer, stage: str, start_from: StartFrom = None) -> Result:
    """Joint training under a given balancer, as a stage of that name; `start_from` is what the whole model begins with."""
    part = setup.config.fusion.model_dump()

    def build() -> MultimodalModel:
        model = setup.model(setup.modalities, part, heads=balancer.needs_heads)
        if start_from is not None:
            take_whole(model, start_from, stage)
        return model

    model, history = setup.fit(stage, build, balancer)
    return Result(model, part, {setup.stage_name(stage): history.best_epoch})
