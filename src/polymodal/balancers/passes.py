"""Extra forward passes: in eval mode, and with some modalities zeroed, which is how a fused model is taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from math import comb
from typing import Any, cast

import torch
from torch import Tensor, nn

from polymodal.blocks import evaluating
from polymodal.errors import InputError
from polymodal.types import Features, Model, Padded, Step

__all__ = ["MOST", "check_zeroing", "shapley_parts", "subset_logits", "zeroed"]

MOST = 6
"""Most modalities whose 2^M - 2 subsets are run."""

# Of these exact types the output does not depend on train or eval mode; any other is taken to.
_SAME_IN_BOTH_MODES = {
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Identity, nn.Flatten, nn.Linear, nn.Embedding, nn.LayerNorm,
    nn.GroupNorm, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.MaxPool1d,
    nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d,
}  # fmt: skip


def zeroed(x: Any, rows: int | None = None) -> Any:
    """The input of one modality with every number set to zero, cut to its first `rows`.

    A cut `Padded` input forgets whose padding it had: numbers become zeros as long as the longest sample, token ids the
    empty text, of which only the first position (id 0) counts as real, because attention over nothing is undefined.
    Uncut, every sample keeps its mask. Of `Features` the features are zeroed, so that they stand for the encoding
    itself.
    """
    if isinstance(x, Tensor):
        return torch.ones_like(x[:rows]) if x.dtype == torch.bool else torch.zeros_like(x[:rows])
    if isinstance(x, Padded):
        mask = x.mask if rows is None else torch.ones_like(x.mask[:rows])
        if rows is not None and not x.values.is_floating_point():
            mask[:, 1:] = False
        return Padded(torch.zeros_like(x.values[:rows]), mask)
    if isinstance(x, Features):
        tokens = None if x.tokens is None else torch.zeros_like(x.tokens[:rows])
        mask_ = None if x.mask is None else x.mask if rows is None else torch.ones_like(x.mask[:rows])
        return Features(torch.zeros_like(x.pooled[:rows]), tokens, mask_, None if rows is not None else x.present)
    if isinstance(x, Mapping):
        return {key: zeroed(item, rows) for key, item in x.items()}
    if isinstance(x, tuple):
        items = [zeroed(item, rows) for item in x]
        return type(x)(*items) if hasattr(x, "_fields") else tuple(items)
    raise InputError(f"an input of type {type(x).__name__} cannot be zeroed; use zero='features'")


def check_zeroing(model: Model) -> None:
    """Raise `InputError` for a model with more modalities than subsets can be run of."""
    if len(model.modalities) > MOST:
        raise InputError(
            f"{len(model.modalities)} modalities have {2 ** len(model.modalities) - 2} subsets to run the fusion on; "
            f"Shapley values are computed for up to {MOST}. Use another score ('heads', 'parts') or balancer"
        )


def subset_logits(step: Step, zero: str = "features") -> dict[frozenset[str], Tensor]:
    """Fused logits (B, C) with only the modalities of each non-empty subset left, the others zeroed.

    The full set is the step's own output. The 2^M - 2 others run in eval mode, with gradients:

    * `zero="features"`: features of the step's own pass are zeroed and only the fusion runs again.
    * `zero="input"`: the zeroed input is encoded once, as a batch of one, since it is the same for every sample; real
      inputs are encoded again only by encoders whose eval mode may differ from the pass of the step. With an adapter,
      which makes encodings depend on each other, the whole model runs once a subset.
    """
    model, names = step.model, step.model.modalities
    if step.output.logits is None:
        raise InputError("zeroing modalities takes fused logits apart, and the model's fusion yields none")
    subsets = [frozenset(s) for n in range(1, len(names)) for s in combinations(names, n)]
    found = {frozenset(names): step.output.logits}
    repeated = {m for m in names if _same_in_eval(model.encoders[m])}
    with evaluating(cast(nn.Module, model)):
        if zero == "input" and getattr(model, "adapter", None) is not None:
            for subset in subsets:
                inputs = {m: x if m in subset else zeroed(x) for m, x in step.batch.inputs.items()}
                found[subset] = cast(Tensor, model(inputs, step.batch.present).logits)
            return found
        # Of each modality, features and uni-modal logits with the input there, and with it zeroed.
        there = {m: (f, step.output.unimodal.get(m)) for m, f in step.output.features.items()}
        gone = {}
        for m, (features, _) in there.items():
            x = step.batch.inputs[m]
            if zero == "features":
                empty = zeroed(features)
            elif isinstance(x, Features):
                empty = _expanded(zeroed(x, 1), features)
            else:
                empty = _expanded(model.encoders[m](zeroed(x, 1)), features)
                if m not in repeated:
                    again = model.encoders[m](x)._replace(present=features.present)
                    there[m] = again, _head(model, m, again)
            gone[m] = empty, _head(model, m, empty)
        for subset in subsets:
            mixed = {m: there[m] if m in subset else gone[m] for m in names}
            unimodal = {m: logits for m, (_, logits) in mixed.items() if logits is not None}
            found[subset] = model.fusion({m: features for m, (features, _) in mixed.items()}, unimodal)
    return found


def shapley_parts(values: Mapping[frozenset[str], Tensor]) -> dict[str, Tensor]:
    """Shapley shares phi_m (B, C) of the modalities in the fused logits v(all), to which they add up exactly.

    phi_m = sum_S |S|! (M - |S| - 1)! / M! (v(S + m) - v(S)) over the sets S without m, where v of nothing is 0. For two
    modalities phi_a = (o - o_{-a} + o_{-v}) / 2, where o_{-v} = v({a}). Beyond two this is our extension.

    Args:
        values: v(S) (B, C) of every non-empty subset S.

    Source: Li et al. 2023 (AGM), eq. 4 and 5, two modalities.

    Example:
        >>> o, only_a, only_v = torch.tensor([[4.0]]), torch.tensor([[3.0]]), torch.tensor([[0.0]])
        >>> shapley_parts({frozenset("av"): o, frozenset("a"): only_a, frozenset("v"): only_v})
        {'a': tensor([[3.5000]]), 'v': tensor([[0.5000]])}
    """
    names = list(dict.fromkeys(m for subset in sorted(values, key=len) for m in sorted(subset)))
    everything = frozenset(names)
    if len(values) != 2 ** len(names) - 1:
        raise ValueError(f"{len(values)} values of {len(names)} modalities; give one of each non-empty subset")
    parts: dict[str, Tensor] = {}
    for m in names:
        share = torch.zeros_like(values[everything])
        for subset, value in values.items():
            # Gained where m joins S, and lost where S is what m would join.
            if m in subset:
                share = share + value / (len(names) * comb(len(names) - 1, len(subset) - 1))
            else:
                share = share - value / (len(names) * comb(len(names) - 1, len(subset)))
        parts[m] = share
    return parts


def _head(model: Model, modality: str, features: Features) -> Tensor | None:
    return model.heads[modality](features.pooled) if modality in model.heads else None


def _expanded(one: Features, like: Features) -> Features:
    """The features of one sample for every sample of `like`; who lacks the modality lacks its zeros as well."""
    size = len(like.pooled)
    tokens, mask = (None if x is None else x.expand(size, *x.shape[1:]) for x in (one.tokens, one.mask))
    return Features(one.pooled.expand(size, -1), tokens, mask, like.present)


def _same_in_eval(encoder: nn.Module) -> bool:
    """Whether the pass in eval mode repeats the one that the step just did."""
    return all(
        not sub.training
        or type(sub) in _SAME_IN_BOTH_MODES
        or type(sub).__module__ == "polymodal.encoders.small"  # their modes differ by their layers alone
        or (isinstance(sub, nn.Dropout) and sub.p == 0)
        for sub in encoder.modules()
    )
