"""Fusions: from the features of several modalities to fused logits."""

from polymodal.fusion.base import Fusion
from polymodal.fusion.concat import Concat
from polymodal.fusion.conformer import Conformer
from polymodal.fusion.cosine import MMCosine
from polymodal.fusion.film import FiLM
from polymodal.fusion.gated import Gated
from polymodal.fusion.low_rank import LMF
from polymodal.fusion.mixture import Mixture
from polymodal.fusion.mlp import MLP
from polymodal.fusion.sum import Sum
from polymodal.fusion.tensor import TFN
from polymodal.fusion.transformer import Transformer

__all__ = [
    "LMF",
    "MLP",
    "TFN",
    "Concat",
    "Conformer",
    "FiLM",
    "Fusion",
    "Gated",
    "MMCosine",
    "Mixture",
    "Sum",
    "Transformer",
]
