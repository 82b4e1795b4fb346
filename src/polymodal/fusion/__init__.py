"""Fusions: from the features of several modalities to fused logits."""

from polymodal.fusion.base import Fusion
from polymodal.fusion.concat import Concat
from polymodal.fusion.mixture import Mixture
from polymodal.fusion.sum import Sum

__all__ = ["Concat", "Fusion", "Mixture", "Sum"]
