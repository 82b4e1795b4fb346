"""UMT: joint training under uni-modal teachers (Du et al. 2023)."""

from __future__ import annotations

from torch import nn

from polymodal.balancers import UMT
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.joint import train_jointly
from polymodal.recipes.unimodal import train_each

__all__ = ["umt"]


def umt(setup: Setup, weight: float = 10.0) -> Result:
    """Train each modality alone, then all jointly from fresh encoders that imitate the finished ones (`balancers.UMT`).

    The teachers are the encoders of the stages `unimodal_<modality>`, frozen; a resumed run reads them from there. The
    students have the same architecture and start from their own initialisation. The configured balancer plays no part.

    Args:
        weight: lambda of the distance between the features of student and teacher, >= 0 (10 in a public benchmark).

    Raises:
        InputError: a weight below 0 (before anything is trained).

    Source: Du et al. 2023, section 4.2 and eq. 3.
    """
    UMT(dict.fromkeys(setup.modalities, nn.Identity()), weight)  # wrong settings must not cost the training
    models, epochs = train_each(setup)
    balancer = UMT({m: one.encoders[m] for m, one in models.items()}, weight)
    result = train_jointly(setup, balancer, "umt")
    return Result(result.model, result.fusion, epochs | result.best_epoch, models)
