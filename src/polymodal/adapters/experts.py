"""Adapters between the layers of a Transformer that all experts of a gallery share, such as MMT's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from polymodal.adapters.base import Adapter
from polymodal.adapters.injected import Injected
from polymodal.adapters.maple import MaPLe
from polymodal.blocks import visible
from polymodal.encoders.base import LayeredEncoder, State
from polymodal.errors import InputError
from polymodal.types import Features

__all__ = ["BetweenExperts", "ExpertLayers"]

OTHERS = "others"


class ExpertLayers(LayeredEncoder):
    """A joint Transformer as one expert meets it: of each layer the rows of this expert's tokens.

    The expert's tokens, foreign ones in front of them included, ask; they and the other experts' own tokens answer. So all
    experts together compute the joint layer, as long as nothing is put in front, and what an adapter puts in front of one
    expert is seen by that one alone.

    Args:
        layers: torch's Transformer layers, LayerNorm behind each step; those of the model, not copies.
        dim: width D.

    Raises:
        InputError: layers of another kind.
    """

    def __init__(self, layers: nn.ModuleList, dim: int) -> None:
        super().__init__()
        if any(not isinstance(one, nn.TransformerEncoderLayer) or one.norm_first for one in layers):
            raise InputError(
                f"experts share layers of type {type(layers[0]).__name__}; torch's, with norms behind, are known"
            )
        self.layers, self.dim = layers, dim

    def run_layer(self, index: int, state: State) -> State:
        layer: Any = self.layers[index]
        others, real = cast("tuple[Tensor, Tensor]", state.aux[OTHERS])
        x, mask = state.tokens, _real(state)
        seen, padding = torch.cat([x, others], 1), ~visible(torch.cat([mask, real], 1))
        asked = layer.self_attn(x, seen, seen, key_padding_mask=padding, need_weights=False)[0]
        x = layer.norm1(x + layer.dropout1(asked))
        x = layer.norm2(x + layer.dropout2(layer.linear2(layer.dropout(layer.activation(layer.linear1(x))))))
        return state._replace(tokens=x)


class BetweenExperts(Adapter):
    """An adapter between the layers that the experts share: `MaPLe`, or one of `last` layers, such as `PMF`.

    Args:
        adapter: made for `hosts`, or for their widths.
        hosts: the experts' view of the layers, by expert.

    Raises:
        InputError: an adapter that hangs inside of the layers, which are all experts' at once, or more layers than there are.

    Source: ours; Guo et al. 2025, section 4.1, compare with such prompts over MMT and do not say how.

    Example:
        >>> layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
        >>> hosts = {m: ExpertLayers(layers, 8) for m in ("face", "rgb")}
        >>> parts = {m: (torch.ones(3, 4, 8), torch.ones(3, 4, dtype=torch.bool)) for m in hosts}
        >>> BetweenExperts(MaPLe(hosts, depth=1), hosts).run_layers(parts)["rgb"].shape
        torch.Size([3, 4, 8])
    """

    def __init__(self, adapter: Adapter, hosts: Mapping[str, ExpertLayers]) -> None:
        super().__init__()
        depth = len(next(iter(hosts.values())).layers)
        if isinstance(adapter, Injected) and not isinstance(adapter, MaPLe):
            raise InputError(
                f"adapter {type(adapter).__name__} goes into layers, and those over the experts are all experts' at once; take "
                "maple, pmf or mbt, or wander behind them"
            )
        if adapter.last > depth:
            raise InputError(f"adapter {type(adapter).__name__}: last={adapter.last} layers over experts with {depth}")
        self.adapter = adapter
        self.hosts = dict(hosts)  # a plain dict: their layers are the model's
        self.dims = {m: host.dim for m, host in hosts.items()}

    def run_layers(self, parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """Tokens (B, L, D) of each expert behind the last layer, from those before the first and their masks (B, L)."""
        states = {m: State(tokens, mask) for m, (tokens, mask) in parts.items()}
        depth = len(next(iter(self.hosts.values())).layers)
        first = depth - self.adapter.last
        for index in range(depth):

            def run(m: str, state: State, index: int = index) -> State:
                return self.hosts[m].run_layer(index, state)

            if self.adapter.last and index == first:
                states = self.adapter.start(states)
            states = _told(states)
            if index >= first:
                states = self.adapter.step(index - first, states, run)
            else:
                states = {m: run(m, state) for m, state in states.items()}
        if self.adapter.last:
            states = self.adapter.end(states)
        return {m: state.drop().tokens for m, state in states.items()}

    def after(self, features: dict[str, Features]) -> dict[str, Features]:
        return self.adapter.after(features)

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        return self.adapter.parameters_of(modality)


def _told(states: Mapping[str, State]) -> dict[str, State]:
    """States that know the other experts' own tokens and which of these are real."""
    own = {m: state.drop() for m, state in states.items()}
    found = {}
    for m, state in states.items():
        rest = [one for other, one in own.items() if other != m]
        others = torch.cat([one.tokens for one in rest], 1), torch.cat([_real(one) for one in rest], 1)
        found[m] = state._replace(aux={**state.aux, OTHERS: others})
    return found


def _real(state: State) -> Tensor:
    if state.mask is not None:
        return state.mask
    return torch.ones(state.tokens.shape[:2], dtype=torch.bool, device=state.tokens.device)
