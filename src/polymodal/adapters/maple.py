"""MaPLe: learned tokens in the first layers of several encoders, those of one made from those of the one before."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from polymodal.adapters.anatomy import token_width
from polymodal.adapters.front import exchange, put
from polymodal.adapters.injected import Injected
from polymodal.encoders.base import LayeredEncoder, State
from polymodal.errors import InputError

__all__ = ["MaPLe"]

STD = 0.02


class MaPLe(Injected):
    r"""Context tokens in layers 1 to J of several frozen encoders, coupled by linear maps.

    The first modality, text in the paper, has n learned vectors a layer, P_j (n, D_1) from N(0, 0.02^2); those of the second
    are W_2j P_j + b_2j, those of the third W_3j (W_2j P_j + b_2j) + b_3j and so on, a cascade. They stand in front of the
    tokens of layer 1; at layers 2 to J what they became is replaced by the vectors of that layer, and they go on as they are
    behind. `finish` drops them. The encoders never compute what they did without them.

    Give it to the model as its `adapter`. Two modalities, text first, are the published method.

    Args:
        encoders: by modality, that which drives the others first; changed in place.
        tokens: n.
        depth: J, at most the layers of the shallowest.
        first: vectors (n, D_1) of layer 1 to begin with, such as the embeddings of "a photo of a"; drawn by default.

    Raises:
        InputError: fewer than two modalities, no token, a depth that an encoder has not, other sizes of `first`, or an encoder
            with another adapter; the encoders are as they were.

    Source: Khattak et al. 2023, section 3.2; the cascade: Guo et al. 2025 ("Wander"), section 4.1.
    Differs from the authors' code: all contexts stand in front and have no positions, where theirs follow the first token of
        the text, with the positions of words, and the last patch of the picture.

    Example:
        >>> from polymodal.encoders import SequenceTransformer
        >>> encoders = {m: SequenceTransformer(5, dim=d, depth=3, heads=2) for m, d in {"text": 8, "image": 12}.items()}
        >>> MaPLe(encoders, depth=3).counts().trainable  # 3 layers of 2 x 8 numbers and a map from 8 to 12
        372
    """

    def __init__(
        self,
        encoders: Mapping[str, LayeredEncoder],
        tokens: int = 2,
        depth: int = 9,
        *,
        first: Tensor | None = None,
    ) -> None:
        super().__init__(encoders)
        depths = {m: len(encoder.layers) for m, encoder in encoders.items()}
        if tokens < 1 or depth < 1 or depth > min(depths.values()):
            raise InputError(
                f"MaPLe: tokens={tokens}, depth={depth} in encoders {depths} deep; at least one token, in 1 to "
                f"{min(depths.values())} layers"
            )
        widths = {m: token_width(encoder) for m, encoder in encoders.items()}
        driving = next(iter(widths))
        self.depth = depth
        self.contexts = nn.ParameterList(STD * torch.randn(tokens, widths[driving]) for _ in range(depth))
        if first is not None:
            if tuple(first.shape) != tuple(self.contexts[0].shape):
                raise InputError(
                    f"MaPLe: first is {tuple(first.shape)}; expected {tuple(self.contexts[0].shape)}, the tokens of {driving!r}"
                )
            self.contexts[0].data.copy_(first)
        before = dict(zip(list(widths)[1:], widths.values()))
        self.couplings = nn.ModuleList(
            nn.ModuleDict({m: nn.Linear(width, widths[m]) for m, width in before.items()}) for _ in range(depth)
        )
        for m in encoders:
            self._replace(m, "run_layer", partial(self._run_layer, m))
        self._enter()

    def context(self, modality: str, layer: int) -> Tensor:
        """The vectors (n, D_m) of a modality at layer `layer`, counted from 0."""
        found: Tensor = self.contexts[layer]
        for m, coupling in cast(nn.ModuleDict, self.couplings[layer]).items() if modality != self._driving else ():
            found = coupling(found)
            if m == modality:
                break
        return found

    @property
    def _driving(self) -> str:
        return next(iter(self.encoders))

    def _run_layer(self, modality: str, index: int, state: State) -> State:
        encoder = self.encoders[modality]
        if index < self.depth:
            context = self.context(modality, index)
            state = put(state, context) if index == 0 else exchange(state, context)
        return type(encoder).run_layer(encoder, index, state)
