"""Recipes: methods that change the order of training, by calling `fit` several times."""

from polymodal.recipes.adapter import adapter
from polymodal.recipes.auto import auto
from polymodal.recipes.frozen import frozen_features, linear_eval
from polymodal.recipes.gblend import gblend
from polymodal.recipes.joint import joint
from polymodal.recipes.mmbt import mmbt
from polymodal.recipes.mmlora import full_ume, mmlora
from polymodal.recipes.ume import ume
from polymodal.recipes.umt import umt
from polymodal.recipes.unimodal import unimodal
from polymodal.recipes.wander import wander

__all__ = [
    "adapter",
    "auto",
    "frozen_features",
    "full_ume",
    "gblend",
    "joint",
    "linear_eval",
    "mmbt",
    "mmlora",
    "ume",
    "umt",
    "unimodal",
    "wander",
]
