"""Recipes: methods that change the order of training, by calling `fit` several times."""

from polymodal.recipes.auto import auto
from polymodal.recipes.gblend import gblend
from polymodal.recipes.joint import joint
from polymodal.recipes.ume import ume
from polymodal.recipes.umt import umt
from polymodal.recipes.unimodal import unimodal

__all__ = ["auto", "gblend", "joint", "ume", "umt", "unimodal"]
