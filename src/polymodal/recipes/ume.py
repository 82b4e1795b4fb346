"""UME: the uni-modal ensemble of Du et al. 2023."""

from __future__ import annotations

from collections.abc import Mapping

from polymodal.model import MultimodalModel
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.unimodal import train_each

__all__ = ["ume"]


def ume(setup: Setup, combine: str = "prob", weights: Mapping[str, float] | None = None) -> Result:
    """Train each modality alone and average their predictions; nothing is trained jointly.

    Args:
        combine: "prob" averages probabilities, "logit" averages logits, which does better where modalities differ in
            strength and is better calibrated.
        weights: w_m >= 0 of each modality, summing to 1; equal by default.

    Source: Du et al. 2023, section 4 (whether outputs are probabilities or logits is left open there).
    """
    part = {"name": "mixture", "combine": combine} | ({"weights": dict(weights)} if weights else {})
    fusion = setup.fusion(dict.fromkeys(setup.modalities, 0), part)  # first: wrong settings must not cost the training
    models, epochs = train_each(setup)
    encoders = {m: model.encoders[m] for m, model in models.items()}
    model = MultimodalModel(encoders, fusion, {m: one.heads[m] for m, one in models.items()})
    return Result(model, part, epochs, models)
