"""Joint training: all encoders and the fusion at once, under a balancer."""

from __future__ import annotations

from polymodal.balancers import Balancer
from polymodal.recipes.base import Result, Setup

__all__ = ["joint", "train_jointly"]


def joint(setup: Setup) -> Result:
    """Train encoders and fusion together on the fused loss, as the configured balancer changes it.

    Uni-modal heads exist where the balancer or the fusion trains them.
    """
    return train_jointly(setup, setup.make_balancer(), "joint")


def train_jointly(setup: Setup, balancer: Balancer, stage: str) -> Result:
    """Joint training under a given balancer, as a stage of that name."""
    part = setup.config.fusion.model_dump()
    model, history = setup.fit(stage, lambda: setup.model(setup.modalities, part, heads=balancer.needs_heads), balancer)
    return Result(model, part, {setup.stage_name(stage): history.best_epoch})
