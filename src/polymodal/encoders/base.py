"""What an encoder is, and the layered kind that can be run side by side with others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from polymodal.types import Features, Padded

__all__ = [
    "Encoder",
    "LayeredEncoder",
    "State",
    "additive_mask",
    "each_part",
    "linear_heads",
    "masked_mean",
    "split_padded",
]


class Encoder(nn.Module):
    """From the input of one modality to its `Features`; `dim` is the width D of both pooled features and tokens.

    Any `nn.Module` with `dim` will do; this base only names the contract.
    """

    dim: int
    kinds: ClassVar[frozenset[str]] = frozenset()
    """Kinds of input it reads; empty where it does not say."""
    rebuild: Mapping[str, Any] = {}
    """Settings (plain JSON values) that replace the constructor's when a saved model is built again, so that no file of
    pre-trained weights is needed then."""

    @classmethod
    def preprocessing(cls, kind: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the input that this encoder calls for, such as pixels and their mean, or a tokenizer.

        Args:
            kind: of the modality.
            settings: of the constructor.
            given: options of the input that the user set, which win over what is returned.
        """
        return {}

    def forward(self, x: Any) -> Features:
        """Encode one batch."""
        raise NotImplementedError


class State(NamedTuple):
    """Tokens between two layers.

    `tokens` (B, extra + L, D) with `extra` foreign tokens **in front**, where padding cannot move them; `mask`
    (B, extra + L) bool or None where all are real; `aux` is written by `embed` and left alone by adapters.
    """

    tokens: Tensor
    mask: Tensor | None = None
    extra: int = 0
    aux: Mapping[str, Any] = {}

    def add(self, new: Tensor, mask: Tensor | None = None) -> State:
        """Put tokens (B, E, D) in front; `mask` (B, E) tells which are real (all by default)."""
        tokens = torch.cat([new, self.tokens], 1)
        joined = None
        if mask is not None or self.mask is not None:
            own = self.mask if self.mask is not None else _all_real(self.tokens)
            joined = torch.cat([mask if mask is not None else _all_real(new), own], 1)
        return self._replace(tokens=tokens, mask=joined, extra=self.extra + new.shape[1])

    def extras(self) -> Tensor:
        """The foreign tokens (B, extra, D)."""
        return self.tokens[:, : self.extra]

    def drop(self) -> State:
        """Without the foreign tokens."""
        mask = None if self.mask is None else self.mask[:, self.extra :]
        return self._replace(tokens=self.tokens[:, self.extra :], mask=mask, extra=0)


class LayeredEncoder(Encoder):
    """An encoder that can be run layer by layer, so that an adapter may act between its layers.

    `forward` is embed, every layer, finish. Masks and position tables of length extra + L are rebuilt inside `run_layer`,
    because an adapter may add tokens in mid-stack.
    """

    layers: nn.ModuleList

    def embed(self, x: Any) -> State:
        """Input to the tokens before the first layer."""
        raise NotImplementedError

    def run_layer(self, index: int, state: State) -> State:
        """Tokens through layer `index`."""
        raise NotImplementedError

    def finish(self, state: State) -> Features:
        """Tokens after the last layer to features; drops foreign tokens."""
        raise NotImplementedError

    def forward(self, x: Any) -> Features:
        state = self.embed(x)
        for index in range(len(self.layers)):
            state = self.run_layer(index, state)
        return self.finish(state)


def split_padded(x: Tensor | Padded) -> tuple[Tensor, Tensor | None]:
    """Values and mask of an input that may or may not be padded."""
    return (x.values, x.mask) if isinstance(x, Padded) else (x, None)


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of (B, L, D) over the tokens that `mask` (B, L) calls real; zeros for a sample without any."""
    if mask is None:
        return tokens.mean(1)
    weight = mask.to(tokens.dtype)[..., None]
    return (tokens * weight).sum(1) / weight.sum(1).clamp_min(1)


def additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What attention scores (B, H, L, L) are added to by `mask` (B, L): 0 at real tokens, the least number elsewhere.

    The result is (B, 1, 1, L), or None without a mask. A sample without any real token sees all of its tokens: a softmax
    over nothing would be NaN.
    """
    if mask is None:
        return None
    visible = mask | ~mask.any(1, keepdim=True)
    least = torch.zeros(visible.shape, dtype=dtype, device=mask.device).masked_fill(~visible, torch.finfo(dtype).min)
    return least[:, None, None]


def each_part(state: State, parts: int, layer: Callable[[Tensor, Tensor | None], Tensor]) -> State:
    """Tokens of `parts` frames or clips side by side, (B, extra + parts L, D), through a layer that sees one at a time.

    `layer` maps tokens (B parts, extra + L, D) and their mask to tokens. Every part sees the foreign tokens in front, and
    what they become is averaged over the parts.
    """
    if parts == 1:
        return state._replace(tokens=layer(state.tokens, state.mask))
    extra = state.extra

    def apart(x: Tensor) -> Tensor:
        front = x[:, None, :extra].expand(-1, parts, *([-1] * (x.ndim - 1)))
        return torch.cat([front, x[:, extra:].unflatten(1, (parts, -1))], 2).flatten(0, 1)  # type: ignore[no-untyped-call]

    found = layer(apart(state.tokens), None if state.mask is None else apart(state.mask)).unflatten(0, (-1, parts))  # type: ignore[no-untyped-call]
    return state._replace(tokens=torch.cat([found[:, :, :extra].mean(1), found[:, :, extra:].flatten(1, 2)], 1))


def linear_heads(encoders: Mapping[str, nn.Module], outputs: int) -> nn.ModuleDict:
    """A linear uni-modal head on the pooled features of each encoder.

    Example:
        >>> from polymodal.encoders import MLP
        >>> linear_heads({"audio": MLP(8, dim=16)}, outputs=3)["audio"]
        Linear(in_features=16, out_features=3, bias=True)
    """
    return nn.ModuleDict({m: nn.Linear(width(encoder), outputs) for m, encoder in encoders.items()})


def width(encoder: nn.Module) -> int:
    """`encoder.dim`, with an error that says what an encoder must have."""
    dim = getattr(encoder, "dim", None)
    if not isinstance(dim, int):
        raise TypeError(
            f"{type(encoder).__name__} has no integer `dim`: an encoder tells the width of its pooled features"
        )
    return dim


def _all_real(tokens: Tensor) -> Tensor:
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
