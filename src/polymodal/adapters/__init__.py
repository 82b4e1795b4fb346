"""Adapters: trainable parts put into or between frozen encoders."""

from polymodal.adapters.base import Adapter

__all__ = ["Adapter"]
