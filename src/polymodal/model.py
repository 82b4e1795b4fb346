"""The model: encoders, an optional adapter across them, a fusion, optional uni-modal heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from polymodal.adapters.base import Adapter
from polymodal.adapters.injected import Injected
from polymodal.distributed import all_sum, unwrap, world_size
from polymodal.encoders.base import LayeredEncoder, State, width
from polymodal.errors import InputError
from polymodal.fusion import Fusion, Mixture
from polymodal.fusion.base import Part
from polymodal.fusion.retrieval import Pairing
from polymodal.names import check_modalities
from polymodal.types import Batch, Features, Model, Output, Pair, Step, Task, Totals

__all__ = ["MultimodalModel", "forward", "totals"]

SCOPES = ("encoder", "head", "fusion", "adapter")


class MultimodalModel(nn.Module):
    """Encoders of several modalities joined by a fusion.

    Args:
        encoders: one a modality; each has `dim` and turns its input into `Features`.
        fusion: fused logits from features and uni-modal logits.
        heads: a uni-modal head on the pooled features of each modality. Leave them out where nothing trains them: an
            unused head breaks distributed training.
        adapter: acts between the layers of the encoders, or after them.

    Raises:
        InputError: heads, fusion and encoders that do not fit together, or an adapter deeper than the shallowest encoder.

    Example:
        >>> from polymodal import encoders, fusion
        >>> parts = {"audio": encoders.MLP(6, dim=8), "video": encoders.MLP(5, dim=4)}
        >>> model = MultimodalModel(parts, fusion.Concat({"audio": 8, "video": 4}, outputs=3))
        >>> model({"audio": torch.zeros(2, 6), "video": torch.zeros(2, 5)}).logits.shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        heads: Mapping[str, nn.Module] | nn.ModuleDict | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        super().__init__()
        check_modalities(encoders)
        dims = getattr(fusion, "dims", None)
        if dims is not None and set(dims) != set(encoders):
            raise InputError(f"the fusion joins {sorted(dims)} and the encoders are those of {sorted(encoders)}")
        for m, encoder in encoders.items():
            if adapter is None and dims is not None and dims[m] != width(encoder) and not isinstance(fusion, Mixture):
                raise InputError(f"encoder of {m!r} yields width {width(encoder)} and the fusion expects {dims[m]}")
        heads = dict((heads or {}).items())
        if not set(heads) <= set(encoders):
            raise InputError(f"heads of {sorted(heads or {})} for encoders of {sorted(encoders)}")
        if getattr(fusion, "needs_heads", False) and set(heads or {}) != set(encoders):
            raise InputError(
                f"fusion {type(fusion).__name__} averages uni-modal heads; give one for each of {list(encoders)} "
                "(polymodal.encoders.linear_heads)"
            )
        if adapter is not None and isinstance(fusion, Pairing):
            raise InputError(
                f"adapter {type(adapter).__name__} across all of {list(encoders)} would show the query {fusion.query!r} to the "
                "gallery; put one over the experts alone: fusion.insert(adapter)"
            )
        if adapter is not None and adapter.last:
            plain = [m for m, e in encoders.items() if not isinstance(e, LayeredEncoder)]
            if plain:
                raise InputError(f"adapter {type(adapter).__name__} acts between layers; encoders of {plain} have none")
            depths = {m: len(cast(LayeredEncoder, e).layers) for m, e in encoders.items()}
            if adapter.last > min(depths.values()):
                raise InputError(
                    f"adapter {type(adapter).__name__}: last={adapter.last} layers of encoders {depths} deep"
                )
        self.encoders, self.fusion, self.heads = nn.ModuleDict(encoders), fusion, nn.ModuleDict(heads or {})
        self.adapter = adapter

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of the encoders."""
        return tuple(self.encoders)

    def forward(self, inputs: dict[str, Any], present: dict[str, Tensor] | None = None) -> Output:
        """One fused prediction.

        Args:
            inputs: what each encoder takes, or its precomputed `Features`.
            present: (B,) bool of the modalities that a sample may lack.
        """
        features = self.encode(inputs, present)
        unimodal = {m: head(features[m].pooled) for m, head in self.heads.items()}
        fused = self.fusion(features, unimodal)
        if isinstance(fused, Pair):  # retrieval: similarities are for the task to build, over the gathered batch
            return Output(None, unimodal, features, fused)
        return Output(fused, unimodal, features)

    def encode(self, inputs: dict[str, Any], present: dict[str, Tensor] | None = None) -> dict[str, Features]:
        """Features of each modality, with `present` attached."""
        present = present or {}
        if set(inputs) != set(self.encoders):
            raise InputError(f"inputs of {sorted(inputs)} for a model of {sorted(self.encoders)}")
        if self.adapter is not None and self.adapter.last:
            features = self._side_by_side(self.adapter, inputs, present)
        else:
            features = {}
            for m, encoder in self.encoders.items():
                x = inputs[m]
                features[m] = x if isinstance(x, Features) else encoder(x)
        for m, one in present.items():
            features[m] = features[m]._replace(present=one)
        return features if self.adapter is None else self.adapter.after(features)

    def _side_by_side(
        self, adapter: Adapter, inputs: dict[str, Any], present: dict[str, Tensor]
    ) -> dict[str, Features]:
        layered = {m: cast(LayeredEncoder, encoder) for m, encoder in self.encoders.items()}
        first = {m: len(encoder.layers) - adapter.last for m, encoder in layered.items()}
        states: dict[str, State] = {}
        for m, encoder in layered.items():
            if isinstance(inputs[m], Features):
                raise InputError(
                    f"modality {m!r} came as Features, and adapter {type(adapter).__name__} acts between the layers that "
                    "made them; give the encoder's own input"
                )
            state = encoder.embed(inputs[m])
            if m in present:
                there = present[m][:, None].expand(state.tokens.shape[:2])
                state = state._replace(mask=there if state.mask is None else state.mask & there)
            for index in range(first[m]):
                state = encoder.run_layer(index, state)
            states[m] = state
        states = adapter.start(states)
        for j in range(adapter.last):

            def run(m: str, state: State, j: int = j) -> State:
                return layered[m].run_layer(first[m] + j, state)

            states = adapter.step(j, states, run)
        return {m: layered[m].finish(state) for m, state in adapter.end(states).items()}

    def only(self, modality: str) -> MultimodalModel:
        """The uni-modal model that shares the weights of `modality`: its head, or its share of an additive fusion.

        An adapter that hangs inside of the encoders stays in this one.

        Raises:
            InputError: no such modality, one that has neither, or an adapter that lets modalities see each other.
        """
        if modality not in self.encoders:
            raise InputError(f"modality {modality!r} of a model of {list(self.encoders)}")
        if self.adapter is not None and not isinstance(self.adapter, Injected):
            raise InputError(
                f"modality {modality!r} alone: with the adapter {type(self.adapter).__name__} its features depend on those of "
                f"{', '.join(m for m in self.encoders if m != modality)}; polymodal.evaluate(..., "
                "masking=True) tells what the whole model does without the others"
            )
        encoder = {modality: self.encoders[modality]}
        if modality in self.heads:
            kind = self.fusion.kind if isinstance(self.fusion, Mixture) else "mean"
            outputs = getattr(self.fusion, "outputs", 0)
            single = Mixture({modality: 0}, outputs, kind=kind, combine="logit")
            return MultimodalModel(encoder, single, {modality: self.heads[modality]}, self.adapter)
        if isinstance(self.fusion, Fusion) and self.fusion.additive:
            return MultimodalModel(encoder, Part(self.fusion, modality), adapter=self.adapter)
        raise InputError(
            f"modality {modality!r} alone: the model has no head for it and {type(self.fusion).__name__} does not split; "
            "train with heads (balancer 'multi_loss') or an additive fusion ('concat', 'sum')"
        )

    def parameters_of(self, modality: str, scope: Iterable[str] = ("encoder",)) -> list[nn.Parameter]:
        """The trainable parameters that belong to `modality` alone.

        Args:
            scope: any of "encoder", "head", "fusion" (its block of the fusion), "adapter".

        Raises:
            InputError: an unknown scope.
        """
        found: list[nn.Parameter] = []
        for part in scope:
            if part == "encoder":
                found += self.encoders[modality].parameters()
            elif part == "head":
                found += self.heads[modality].parameters() if modality in self.heads else []
            elif part == "fusion":
                found += self.fusion.parameters_of(modality) if isinstance(self.fusion, Fusion) else []
            elif part == "adapter":
                found += self.adapter.parameters_of(modality) if self.adapter is not None else []
            else:
                raise InputError(f"scope {part!r}; it is any of {list(SCOPES)}")
        return [p for p in found if p.requires_grad]

    def param_groups(self, lr: float, scope: Sequence[str] = ("encoder", "head", "fusion")) -> list[dict[str, Any]]:
        """Optimiser parameter groups: one a modality, with its name under "modality", and one of all that is shared."""
        groups: list[dict[str, Any]] = [
            {"params": self.parameters_of(m, scope), "lr": lr, "modality": m} for m in self.modalities
        ]
        taken = {id(p) for group in groups for p in group["params"]}
        rest = [p for p in self.parameters() if p.requires_grad and id(p) not in taken]
        groups.append({"params": rest, "lr": lr, "modality": None})
        return [group for group in groups if group["params"]]


def totals(batches: Sequence[Batch], task: Task, modalities: Iterable[str]) -> Totals:
    """Denominators of the means of one optimiser step over its micro-batches and all processes."""
    names = list(modalities)
    counts: list[Tensor] = []
    for batch in batches:
        weights = task.weights(batch.target)
        counts.append(weights.sum())
        for m in names:
            there = (batch.present or {}).get(m)
            counts.append(weights.sum() if there is None else (weights * there).sum())
    # A modality that nobody has gives the sum 0, which any denominator leaves at 0.
    summed = torch.stack(all_sum(counts)).view(len(batches), -1).sum(0).clamp_min(1e-12) / world_size()
    return Totals(summed[0], dict(zip(names, summed[1:], strict=True)))


def forward(model: nn.Module, batch: Batch, task: Task, *, window: Sequence[Batch] | Totals | None = None) -> Step:
    """Run the model on one micro-batch and gather all that a balancer needs to know.

    Keep a DDP wrapper alive yourself until after `backward`: the step holds only the model inside it.

    Args:
        model: a `MultimodalModel`, or one wrapped in DDP or `torch.compile`.
        batch: on the model's device.
        task: gives the losses and scores.
        window: all micro-batches of this optimiser step (or their `totals`) under gradient accumulation, so that unequal
            ones are weighted exactly; the batch alone by default.
    """
    inner = cast(Model, unwrap(model))
    if not isinstance(window, Totals):
        window = totals([batch] if window is None else window, task, inner.modalities)
    output = model(batch.inputs, batch.present)
    return Step(inner, batch, output, task, window)
