"""Joint training: all encoders and the fusion at once, under the configured balancer."""

from __future__ import annotations

from polymodal.recipes.base import Result, Setup

__all__ = ["joint"]


def joint(setup: Setup) -> Result:
    """Train encoders and fusion together on the fused loss, as the configured balancer changes it.

    Uni-modal heads exist where the balancer or the fusion trains them.
    """
    balancer = setup.make_balancer()
    part = setup.config.fusion.model_dump()
    model, history = setup.fit(
        "joint", lambda: setup.model(setup.modalities, part, heads=balancer.needs_heads), balancer
    )
    return Result(model, part, {"joint": history.best_epoch})
