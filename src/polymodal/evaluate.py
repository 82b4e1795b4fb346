"""The one evaluation loop."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from polymodal.adapters.base import Adapter
from polymodal.adapters.injected import Injected
from polymodal.blocks import evaluating
from polymodal.distributed import gather_objects, unwrap
from polymodal.errors import Diverged, InputError
from polymodal.model import MultimodalModel
from polymodal.tasks import Retrieval, Task
from polymodal.types import Batch, Output, move

__all__ = ["Evaluation", "Subset", "evaluate", "evaluate_subsets", "masked_logits", "predict", "unimodal_source"]

Array = NDArray[Any]
MOST_SUBSETS = 10
"""Modalities of which every subset is still evaluated: 1023 of them."""


class Evaluation(NamedTuple):
    """Predictions over a whole split, every sample once and in order, and their figures of merit.

    For retrieval `probabilities` are the similarities (N, G) of all queries and items of the split.

    `probabilities` (N, C) and `unimodal[m]` (N, C) are float64; `metrics` and `unimodal_metrics[m]` are empty without
    targets. A sample that lacks modality m does not count in `unimodal_metrics[m]`; its row of `unimodal[m]` is NaN.
    """

    ids: list[str]
    probabilities: Array
    target: Array
    unimodal: dict[str, Array]
    metrics: dict[str, float]
    unimodal_metrics: dict[str, dict[str, float]]


class Subset(NamedTuple):
    """Figures of merit of a model that is given only some `modalities`, over the `samples` that have any of them."""

    modalities: tuple[str, ...]
    samples: int
    metrics: dict[str, float]


def unimodal_source(model: MultimodalModel, *, masking: bool = False) -> str | None:
    """Where a model's uni-modal predictions come from: "heads", "parts" of an additive fusion, "masking", or None.

    Masking (`masked_logits`) tells them for any fusion. It runs the fusion once more for each modality and asks a model
    for what it was not trained on, so it stands in only where it is asked for and there is neither of the others.
    """
    if set(model.heads) == set(model.modalities):
        return "heads"
    if getattr(model.fusion, "additive", False) and not (masking and _mixes(model.adapter)):
        return "parts"
    return "masking" if masking else None


def _mixes(adapter: Adapter | None) -> bool:
    """Whether features of one modality depend on the others; adapters that hang inside of encoders share weights alone."""
    return adapter is not None and not isinstance(adapter, Injected)


def masked_logits(model: MultimodalModel, batch: Batch, output: Output, kept: Collection[str]) -> Tensor:
    """Fused logits (B, C) as if each sample had only the modalities `kept`: the others count as lacking (`present`).

    The fusion alone runs again, on the features of `output`; with an adapter, which lets encodings depend on each other,
    the whole model does. A sample that lacks a modality of `kept` still lacks it.

    Args:
        model, batch: on one device; the caller chooses the mode.
        output: of the model on that batch.
        kept: names of modalities.
    """
    none = torch.zeros(len(batch.target), dtype=torch.bool, device=batch.target.device)
    if model.adapter is not None:
        gone = {m: none for m in model.modalities if m not in kept}
        return _logits(model(batch.inputs, (batch.present or {}) | gone).logits)
    features = {m: one if m in kept else one._replace(present=none) for m, one in output.features.items()}
    fused = model.fusion(features, output.unimodal)
    return _logits(fused if isinstance(fused, Tensor) else None)


@torch.no_grad()
def predict(model: nn.Module, loader: Iterable[Batch], task: Task, *, masking: bool = False) -> Evaluation:
    """Predictions without metrics: for samples that have no target.

    `masking` also tells the uni-modal predictions of a fusion that has neither heads nor parts; see `unimodal_source`.

    Raises:
        InputError: a prediction is not finite; which modality's features are not, too.
    """
    inner = cast(MultimodalModel, unwrap(model))
    device = next((p.device for p in inner.parameters()), torch.device("cpu"))
    source = None if isinstance(task, Retrieval) else unimodal_source(inner, masking=masking)
    fused: list[tuple[Array, ...]] = []
    single: dict[str, list[Array]] = {m: [] for m in inner.modalities if source}
    targets: list[Array] = []
    ids: list[str] = []
    with evaluating(inner):
        for batch in loader:
            batch = move(batch, device)
            output = model(batch.inputs, batch.present)
            fused.append(tuple(one.detach().cpu().numpy() for one in task.over_split(output)))
            for one in fused[-1]:
                if not np.isfinite(one).all():
                    raise Diverged(_explain(one.reshape(len(one), -1), output, batch.ids))
            targets.append(batch.target.cpu().numpy())
            ids += [str(i) for i in batch.ids] if batch.ids is not None else [""] * len(batch.target)
            for m, logits in _shares(inner, batch, output, source).items():
                rows = _numpy(task.probabilities(_wide(logits)))
                there = (batch.present or {}).get(m)
                single[m].append(rows if there is None else np.where(there.cpu().numpy()[:, None], rows, np.nan))
    return _gathered(task, ids, fused, targets, single)


def evaluate(model: nn.Module, loader: Iterable[Batch], task: Task, *, masking: bool = False) -> Evaluation:
    """Predictions and metrics of the fused model and of each modality, over every sample once.

    `masking` also tells the figures of each modality in a fusion that has neither heads nor parts; see `unimodal_source`.
    Under several processes the loader gives each its part of the split, in rank order, and all get the whole result. The
    model's modes are restored.

    Example:
        >>> from polymodal import encoders, fusion, tasks
        >>> parts = {"a": encoders.MLP(3, dim=4), "v": encoders.MLP(2, dim=4)}
        >>> model = MultimodalModel(parts, fusion.Concat({"a": 4, "v": 4}, outputs=2))
        >>> batch = Batch({"a": torch.zeros(4, 3), "v": torch.zeros(4, 2)}, torch.tensor([0, 1, 1, 0]))
        >>> evaluate(model, [batch], tasks.Classification(2)).metrics["accuracy"]
        0.5
    """
    found = predict(model, loader, task, masking=masking)
    single = {}
    for m, rows in found.unimodal.items():
        there = ~np.isnan(rows).any(-1)
        if there.any():
            single[m] = task.metrics(rows[there], found.target[there])
    return found._replace(metrics=task.metrics(found.probabilities, found.target), unimodal_metrics=single)


@torch.no_grad()
def evaluate_subsets(model: nn.Module, loader: Iterable[Batch], task: Task) -> list[Subset]:
    """Metrics of one model for every subset of its modalities, smaller ones first: what it does where only these are there.

    Encoders run once a batch, the fusion once a subset (with an adapter the whole model does; see `masked_logits`). A sample
    that has no modality of a subset does not count in it. Under several processes all get the whole result.

    Raises:
        InputError: more than 10 modalities, or a prediction that is not finite.

    Example:
        >>> from polymodal import encoders, fusion, tasks
        >>> parts = {"a": encoders.MLP(3, dim=4), "v": encoders.MLP(2, dim=4)}
        >>> model = MultimodalModel(parts, fusion.Concat({"a": 4, "v": 4}, outputs=2))
        >>> batch = Batch({"a": torch.zeros(4, 3), "v": torch.zeros(4, 2)}, torch.tensor([0, 1, 1, 0]))
        >>> batch = batch._replace(present={"v": torch.tensor([True, False, True, True])})
        >>> [(one.modalities, one.samples) for one in evaluate_subsets(model, [batch], tasks.Classification(2))]
        [(('a',), 4), (('v',), 3), (('a', 'v'), 4)]
    """
    inner = cast(MultimodalModel, unwrap(model))
    names = inner.modalities
    if isinstance(task, Retrieval):
        raise InputError("retrieval has no table of subsets; evaluate it without single experts instead (--drop)")
    if len(names) > MOST_SUBSETS:
        raise InputError(
            f"{len(names)} modalities have {2 ** len(names) - 1} subsets; evaluate those that matter by dropping modalities"
        )
    device = next((p.device for p in inner.parameters()), torch.device("cpu"))
    subsets = [one for size in range(1, len(names) + 1) for one in combinations(names, size)]
    found: dict[tuple[str, ...], list[tuple[Array, Array]]] = {one: [] for one in subsets}
    with evaluating(inner):
        for batch in loader:
            batch = move(batch, device)
            output = model(batch.inputs, batch.present)
            everyone = torch.ones(len(batch.target), dtype=torch.bool, device=device)
            target = batch.target.cpu().numpy()
            for one in subsets:
                logits = _logits(output.logits) if one == names else masked_logits(inner, batch, output, one)
                rows = _numpy(task.probabilities(_wide(logits)))
                there = torch.stack([(batch.present or {}).get(m, everyone) for m in one]).any(0).cpu().numpy()
                if not np.isfinite(rows[there]).all():
                    raise Diverged(f"with {' and '.join(one)} alone: {_explain(rows, output, batch.ids)}")
                found[one].append((rows[there], target[there]))
    return [_subset(one, found[one], task) for one in subsets]


def _subset(modalities: tuple[str, ...], mine: list[tuple[Array, Array]], task: Task) -> Subset:
    pairs = [pair for share in gather_objects(mine) for pair in share]
    if not pairs:
        raise ValueError("the loader gave no batch")
    rows, target = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return Subset(modalities, len(rows), task.metrics(rows, target) if len(rows) else {})


def _shares(model: MultimodalModel, batch: Batch, output: Output, source: str | None) -> dict[str, Tensor]:
    if source == "heads":
        return output.unimodal
    if source == "parts":
        return model.fusion.parts(output.features)  # type: ignore[no-any-return,operator]
    return {m: masked_logits(model, batch, output, [m]) for m in model.modalities} if source else {}


def _explain(rows: Array, output: Output, ids: Sequence[str] | None) -> str:
    bad = np.flatnonzero(~np.isfinite(rows).all(-1))
    wild = [m for m, f in output.features.items() if not bool(torch.isfinite(f.pooled).all())]
    sample = f", first of sample {ids[bad[0]]!r}" if ids is not None else ""
    where = f"; the features of {wild} are not finite" if wild else ""
    return f"the predictions of {len(bad)} of {len(rows)} samples are not finite{sample}{where}"


def _gathered(
    task: Task,
    ids: list[str],
    fused: list[tuple[Array, ...]],
    targets: list[Array],
    single: dict[str, list[Array]],
) -> Evaluation:
    mine = {
        "ids": ids,
        "fused": _concatenated(fused) if fused else None,
        "target": np.concatenate(targets) if targets else None,
        "single": {m: np.concatenate(rows) for m, rows in single.items() if rows},
    }
    shares = [share for share in gather_objects(mine) if share["fused"] is not None]
    if not shares:
        raise ValueError("the loader gave no batch")
    target = np.concatenate([share["target"] for share in shares])
    return Evaluation(
        [i for share in shares for i in share["ids"]],
        task.joined(_concatenated([share["fused"] for share in shares]), target),
        target,
        {m: np.concatenate([share["single"][m] for share in shares]) for m in shares[0]["single"]},
        {},
        {},
    )


def _concatenated(parts: Sequence[tuple[Array, ...]]) -> tuple[Array, ...]:
    return tuple(np.concatenate(one) for one in zip(*parts, strict=True))


def _logits(logits: Tensor | None) -> Tensor:
    if logits is None:
        raise TypeError("the model yields no fused logits; retrieval models are evaluated by their task")
    return logits


def _wide(logits: Tensor) -> Tensor:
    return logits.double() if logits.device.type != "mps" else logits.float()


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()
