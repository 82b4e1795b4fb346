"""PMF: prompts by which the last layers of frozen encoders ask one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from polymodal.adapters.base import Adapter, Run
from polymodal.adapters.front import has_any, put, take
from polymodal.encoders.base import State
from polymodal.errors import InputError
from polymodal.names import check_modalities

__all__ = ["PMF"]

STD = 0.02


class PMF(Adapter):
    r"""Prompt-based fusion in the last n layers of all encoders; each layer runs twice.

    Query stage: layer k of modality m runs on [QP; QCP; x_m], and what the query prompts QP became goes through
    D_m -> hidden -> ReLU -> D_m' to every other modality m'. Fusion stage: the same layer runs on [mapped prompts of all the
    others; FCP; x_m], and the added tokens are dropped. Every layer and modality has its own QP, QCP and FCP, drawn from
    N(0, 0.02^2), and its own maps. Prompts of a modality that a sample lacks are hidden from the others. The encoders never
    compute what they did without the prompts; freeze them with `freeze`.

    Trained on encoders of 24 layers (BERT-large, ViT-large) this is PMF-L. The prediction of the paper is the mean of one
    linear head a modality on its class token: `Mixture(..., combine="logit")`.

    Args:
        dims: width D_m of the tokens between the layers of each modality.
        last: n, the layers that take part.
        query: number of QP.
        query_context: number of QCP; 0 for none.
        fusion_context: number of FCP; 0 for none.
        hidden: width inside of the maps; half of D_m by default.

    Raises:
        InputError: fewer than two modalities, no fusing layer or no query prompt.

    Source: Li et al. 2023, section 3.3; two modalities there, any number here.
    Differs from the authors' code: FCP train, which a slip leaves at their random values, and may be 0.

    Example:
        >>> pmf = PMF({"image": 768, "text": 768}, last=2)
        >>> sum(p.numel() for p in pmf.parameters())
        2400768
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        last: int = 2,
        *,
        query: int = 4,
        query_context: int = 4,
        fusion_context: int = 4,
        hidden: int | None = None,
    ) -> None:
        super().__init__(last)
        check_modalities(dims)
        if len(dims) < 2:
            raise InputError(f"PMF joins modalities and was given {list(dims)}; give it two or more")
        if last < 1 or query < 1 or min(query_context, fusion_context) < 0:
            raise InputError(
                f"PMF: last={last}, query={query}, query_context={query_context}, fusion_context={fusion_context}; at least one "
                "layer and one query prompt, and no negative number"
            )
        self.dims = dict(dims)
        self.sizes = {"query": query, "query_context": query_context, "fusion_context": fusion_context}
        self.prompts = nn.ModuleList(
            nn.ModuleDict({m: self._prompts(dim) for m, dim in dims.items()}) for _ in range(last)
        )
        self.maps = nn.ModuleList(
            nn.ModuleDict({m: nn.ModuleDict(self._maps(m, hidden)) for m in dims}) for _ in range(last)
        )

    def _prompts(self, dim: int) -> nn.ParameterDict:
        sizes = {name: count for name, count in self.sizes.items() if count}
        return nn.ParameterDict({name: STD * torch.randn(count, dim) for name, count in sizes.items()})

    def _maps(self, source: str, hidden: int | None) -> dict[str, nn.Module]:
        dim, inner = self.dims[source], hidden or max(1, self.dims[source] // 2)
        return {
            m: nn.Sequential(nn.Linear(dim, inner), nn.ReLU(), nn.Linear(inner, other))
            for m, other in self.dims.items()
            if m != source
        }

    def step(self, index: int, states: dict[str, State], run: Run) -> dict[str, State]:
        if set(states) != set(self.dims):
            raise InputError(f"the adapter joins {list(self.dims)} and was given {list(states)}")
        asked = {m: self._asked(index, m, state, run) for m, state in states.items()}
        there = {m: has_any(state) for m, state in states.items()}
        return {m: self._fused(index, m, state, asked, there, run) for m, state in states.items()}

    def _asked(self, index: int, m: str, state: State, run: Run) -> dict[str, Tensor]:
        """What the query prompts of a modality became, as tokens (B, query, D) for each other modality."""
        prompts = self._prompts_of(index, m)
        maps = cast(nn.ModuleDict, cast(nn.ModuleDict, self.maps[index])[m])
        if "query_context" in prompts:
            state = put(state, prompts["query_context"])
        found, _ = take(run(m, put(state, prompts["query"])), self.sizes["query"])
        return {other: layer(found) for other, layer in maps.items()}

    def _fused(
        self,
        index: int,
        m: str,
        state: State,
        asked: Mapping[str, Mapping[str, Tensor]],
        there: Mapping[str, Tensor | None],
        run: Run,
    ) -> State:
        prompts, before = self._prompts_of(index, m), state.extra
        if "fusion_context" in prompts:
            state = put(state, prompts["fusion_context"])
        for other in asked:
            if other != m:
                new, present = asked[other][m], there[other]
                state = put(state, new, None if present is None else present[:, None].expand(new.shape[:2]))
        return take(run(m, state), state.extra - before)[1]

    def _prompts_of(self, index: int, m: str) -> nn.ParameterDict:
        return cast(nn.ParameterDict, cast(nn.ModuleDict, self.prompts[index])[m])

    def parameters_of(self, modality: str) -> list[nn.Parameter]:
        """Its prompts; a map stands between two modalities."""
        return [p for index in range(self.last) for p in self._prompts_of(index, modality).parameters()]
