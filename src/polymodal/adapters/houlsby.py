"""Houlsby's adapters: two small bottlenecks in every layer of one encoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.adapters.anatomy import branches, layer_norms, token_width
from polymodal.adapters.injected import Injected
from polymodal.encoders.base import LayeredEncoder
from polymodal.errors import InputError
from polymodal.names import nearest

__all__ = ["Houlsby", "HoulsbyLayer"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": partial(F.gelu, approximate="tanh"), "relu": F.relu}
STD = 1e-3


class HoulsbyLayer(nn.Module):
    """x + U g(D x + d) + u: (..., width) to the same shape, nearly x at first.

    D (down, width) and U (width, down) are drawn from a normal distribution of deviation 1e-3, cut at two deviations; the
    biases are zero.

    Args:
        width: of x.
        down: width behind D.
        activation: g, "gelu" (in its tanh form) or "relu".

    Source: Houlsby et al. 2019, section 2.1.

    Example:
        >>> sum(p.numel() for p in HoulsbyLayer(768, 64).parameters())
        99136
    """

    def __init__(self, width: int, down: int, activation: str = "gelu") -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, down), nn.Linear(down, width)
        for layer in (self.down, self.up):
            nn.init.trunc_normal_(layer.weight, std=STD, a=-2 * STD, b=2 * STD)
            nn.init.zeros_(layer.bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.up(self.activation(self.down(x)))
        return out


class Houlsby(Injected):
    """A bottleneck behind the attention and one behind the feed-forward step of every layer, before their residuals are added.

    The encoder is frozen but for the LayerNorms of its layers. At first it computes what it did to within about 1e-5 of its
    activations, since neither factor begins at zero. The adapter is `encoder.houlsby`.

    Args:
        encoder: any of layers that `anatomy.FAMILIES` knows; changed in place.
        down: width of the bottlenecks.
        activation: "gelu" or "relu".
        norms: let the LayerNorms of the layers train; `remove` puts their values of before back.

    Raises:
        InputError: a setting out of its range, or an encoder with unknown layers or another adapter; it is as it was.

    Source: Houlsby et al. 2019, figure 2 and section 3.1.
    Differs from the authors' code: LayerNorms outside of the layers (of embeddings, behind the last) stay frozen.

    Example:
        >>> from polymodal.encoders import SequenceTransformer
        >>> adapter = Houlsby(SequenceTransformer(in_dim=5, dim=16, depth=2, heads=2), down=4)
        >>> adapter.counts().trainable  # 4 bottlenecks of 2 x 16 x 4 + 4 + 16, 4 LayerNorms of 2 x 16
        720
    """

    def __init__(
        self, encoder: LayeredEncoder, down: int = 64, *, activation: str = "gelu", norms: bool = True
    ) -> None:
        super().__init__({"": encoder})
        if down < 1:
            raise InputError(f"Houlsby: down={down}; the width of a bottleneck is at least 1")
        if activation not in ACTIVATIONS:
            raise InputError(
                f"Houlsby: activation={activation!r}; one of {list(ACTIVATIONS)}{nearest(activation, ACTIVATIONS)}"
            )
        places = [one for layer in encoder.layers for one in branches(layer, "Houlsby")[:2]]
        width = token_width(encoder)
        self.layers = nn.ModuleList(HoulsbyLayer(width, down, activation) for _ in places)
        for index, place in enumerate(places):
            self._hooks.append(place.register_forward_hook(partial(self._adapt, index)))
        trained = [norm for layer in encoder.layers for norm in layer_norms(layer).values()] if norms else []
        self._enter(trained, "houlsby")

    def _adapt(self, index: int, module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        """Forward hook; attention modules yield a tuple of outputs and weights."""
        layer = self.layers[index]
        return (layer(out[0]), *out[1:]) if isinstance(out, tuple) else layer(out)
