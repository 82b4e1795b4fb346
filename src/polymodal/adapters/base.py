"""The seam for adapters that act across encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from polymodal.encoders.base import State
from polymodal.types import Features

__all__ = ["Adapter"]

Run = Callable[[str, State], State]


class Adapter(nn.Module):
    """Trainable parts put between encoders.

    With `last` = n > 0 the last n layers of all encoders run side by side: the model calls `start`, then `step` for
    j = 0 .. n - 1, then `end`. By default `step` runs every modality's layer and calls `between`; a method whose layers
    run more than once (PMF) overrides `step` itself. With `last` = 0 encoders run alone and only `after` is called.

    Args:
        last: number of layers run side by side, at most the depth of the shallowest encoder.
    """

    joins: bool = False
    """Whether `after` gives every modality the same features, those of all together."""

    def __init__(self, last: int = 0) -> None:
        super().__init__()
        self.last = last

    def dims_after(self, dims: Mapping[str, int]) -> dict[str, int]:
        """Widths of the features that `after` yields, from those of the encoders."""
        return dict(dims)

    def start(self, states: dict[str, State]) -> dict[str, State]:
        """States before the first shared layer."""
        return states

    def step(self, index: int, states: dict[str, State], run: Run) -> dict[str, State]:
        """One layer of every modality; `run(m, state)` runs that of modality m."""
        return self.between(index, {m: run(m, state) for m, state in states.items()})

    def between(self, index: int, states: dict[str, State]) -> dict[str, State]:
        """States after every modality's layer `index` of the shared ones."""
        return states

    def end(self, states: dict[str, State]) -> dict[str, State]:
        """States after the last shared layer."""
        return states

    def after(self, features: dict[str, Features]) -> dict[str, Features]:
        """Features after the encoders."""
        return features

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """Parameters that touch this modality alone; empty where all are shared."""
        return []
