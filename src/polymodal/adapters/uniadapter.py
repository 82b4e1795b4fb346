"""UniAdapter: bottlenecks beside the feed-forward steps of several encoders, whose way down is shared."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.adapters.anatomy import branches, token_width
from polymodal.adapters.injected import Injected
from polymodal.encoders.base import LayeredEncoder
from polymodal.errors import InputError

__all__ = ["Affine", "UniAdapter", "crossmodal_update", "narrowed", "unimodal_update"]


class Affine(NamedTuple):
    """A linear map x W^T + b: `weight` (out, in) and `bias` (out,)."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: nn.Module) -> Affine:
        """That of a linear layer, or the scale and shift of a norm."""
        return cls(cast(Tensor, layer.weight), cast(Tensor, layer.bias))


def narrowed(x: Tensor, down: Affine, norm: Affine | None = None) -> Tensor:
    """ReLU(D LN(x) + d): (..., D) to (..., r); `norm` holds scale and shift of the LayerNorm, none by default."""
    return F.relu(F.linear(F.layer_norm(x, x.shape[-1:], *(norm or (None, None))), *down))


def unimodal_update(z: Tensor, up: Affine, scale: float = 0.1) -> Tensor:
    """S (U_m z + u_m): what `narrowed` made, (..., r), to (..., D)."""
    return F.linear(z, *up) * scale


def crossmodal_update(z: Tensor, up: Affine, up_text: Affine, scale: float = 0.1, norm: Affine | None = None) -> Tensor:
    """S LN(U_x z + u_x + U_t z + u_t), for a layer of cross-attention; (..., r) to (..., D)."""
    both = F.linear(z, *up) + F.linear(z, *up_text)
    return F.layer_norm(both, both.shape[-1:], *(norm or (None, None))) * scale


class UniAdapter(Injected):
    """x + FFN(x) + 0.1 (U_m ReLU(D LN(x) + d) + u_m) in every layer of several frozen encoders of one width.

    x is the residual stream that the feed-forward step is added to. LayerNorm, D and d of layer k are the same for every
    modality, counted from the first layer; U_m and u_m are a modality's own. The path across modalities
    (`crossmodal_update`) belongs to layers of cross-attention, which separate encoders do not have. At first the encoders
    compute exactly what they did. Give it to the model as its `adapter`.

    Args:
        encoders: by modality; changed in place.
        down: r, 512 as published.
        scale: of the update.
        zero: modalities whose U_m and u_m begin at zero, all by default; only the text encoder's in the authors' code, where
            the other encoders change at once.

    Raises:
        InputError: fewer than two modalities, unequal widths, unknown layers or modalities, or an encoder with another
            adapter; the encoders are as they were.

    Source: Lu et al. 2024, section 3.2.
    Differs from the authors' code: stochastic depth, where an encoder has it, drops the update with the feed-forward step.

    Example:
        >>> from polymodal.encoders import SequenceTransformer
        >>> encoders = {m: SequenceTransformer(5, dim=8, depth=2, heads=2) for m in ("text", "image")}
        >>> UniAdapter(encoders, down=3).counts().trainable  # 2 layers of 16 + 8 x 3 + 3 and 2 times 3 x 8 + 8
        214
    """

    def __init__(
        self,
        encoders: Mapping[str, LayeredEncoder],
        down: int = 512,
        *,
        scale: float = 0.1,
        zero: Collection[str] | None = None,
    ) -> None:
        super().__init__(encoders)
        if down < 1:
            raise InputError(f"UniAdapter: down={down}; the width of a bottleneck is at least 1")
        unknown = sorted(set(zero or ()) - set(encoders))
        if unknown:
            raise InputError(f"UniAdapter: zero names {unknown}; the modalities are {list(encoders)}")
        width = common_width(encoders, "UniAdapter")
        places = {m: [branches(one, "UniAdapter") for one in encoder.layers] for m, encoder in encoders.items()}
        depth = max(map(len, places.values()))
        self.scale = scale
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.downs = nn.ModuleList(nn.Linear(width, down) for _ in range(depth))
        for layer in self.downs:
            nn.init.zeros_(cast(nn.Linear, layer).bias)
        self.ups = nn.ModuleDict({m: nn.ModuleList(nn.Linear(down, width) for _ in one) for m, one in places.items()})
        for m in encoders if zero is None else zero:
            for p in self.ups[m].parameters():
                nn.init.zeros_(p)
        self._seen: dict[tuple[str, int], Tensor] = {}
        """The residual stream of running layers."""
        for m, layers in places.items():
            for index, one in enumerate(layers):
                self._hooks.append(one.stream.register_forward_pre_hook(partial(self._see, m, index)))
                self._hooks.append(one.feed_forward.register_forward_hook(partial(self._add, m, index)))
        self._enter()

    def _see(self, m: str, index: int, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._seen[m, index] = args[0]

    def _add(self, m: str, index: int, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        x = self._seen.pop((m, index))
        z = narrowed(x, Affine.of(self.downs[index]), Affine.of(self.norms[index]))
        return out + unimodal_update(z, Affine.of(cast(nn.ModuleList, self.ups[m])[index]), self.scale)

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """The ways up of this modality."""
        return list(self.ups[modality].parameters())


def common_width(encoders: Mapping[str, LayeredEncoder], method: str) -> int:
    """The one width of the tokens between the layers of all encoders.

    Raises:
        InputError: they differ.
    """
    widths = {m: token_width(encoder) for m, encoder in encoders.items()}
    if len(set(widths.values())) > 1:
        raise InputError(
            f"{method}: tokens of widths {widths}, and it shares weights of one width among them; take encoders of equal width, "
            "or MaPLe, PMF or Wander, which join different ones"
        )
    return next(iter(widths.values()))
