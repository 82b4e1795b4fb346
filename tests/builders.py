"""Small models and batches that many tests share; modalities are called m0, m1, ... and m0 tells the target best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from polymodal import balancers
from polymodal import fusion as fusions
from polymodal.balancers import Balancer
from polymodal.encoders import MLP, linear_heads
from polymodal.fusion import Concat, Fusion
from polymodal.model import MultimodalModel, forward
from polymodal.tasks import Classification, MultiLabel, Regression, Task
from polymodal.types import Batch, Step

WIDTH = 4
# What the constructors need beyond their defaults, which suit large models of images; others join by themselves.
BALANCER_ARGUMENTS: dict[str, dict[str, Any]] = {
    "OGM": {"param_filter": "weights"},
    "OGM_GE": {"param_filter": "weights"},
}
FUSION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "Conformer": {"width": 8, "depth": 1, "heads": 2, "kernel": 3}, "Transformer": {"width": 8, "depth": 1, "heads": 2},
    "Gated": {"hidden": 8}, "MLP": {"hidden": 8}, "TFN": {"hidden": 8},
}  # fmt: skip
TASKS: dict[str, Task] = {
    "classification": Classification(3), "multilabel": MultiLabel(3), "regression": Regression(),
}  # fmt: skip


def names(count: int) -> list[str]:
    return [f"m{i}" for i in range(count)]


def make_model(
    count: int = 2,
    task: Task | None = None,
    *,
    fusion: nn.Module | None = None,
    heads: bool = True,
    seed: int = 0,
) -> MultimodalModel:
    """A float64 model of `count` MLPs, joined by `Concat` unless another fusion is given."""
    task = task or TASKS["classification"]
    torch.manual_seed(seed)
    encoders = {m: MLP(3 + i, dim=WIDTH, hidden=[6]) for i, m in enumerate(names(count))}
    fusion = fusion or Concat(dict.fromkeys(encoders, WIDTH), task.outputs)
    return MultimodalModel(encoders, fusion, linear_heads(encoders, task.outputs) if heads else None).double()


def methods(package: ModuleType, base: type) -> dict[str, Any]:
    """The classes in a package's `__all__` that derive from `base`, by name."""
    found = {name: getattr(package, name) for name in package.__all__}
    chosen = {name: one for name, one in found.items() if isinstance(one, type) and issubclass(one, base)}
    return {name: one for name, one in chosen.items() if name != base.__name__}


BALANCERS = methods(balancers, Balancer)
FUSIONS = methods(fusions, Fusion)


def make_balancer(name: str, model: MultimodalModel, **options: Any) -> Balancer:
    """The balancer of that name in `polymodal.balancers`, for this model."""
    arguments = BALANCER_ARGUMENTS.get(name, {}) | options
    if name == "UMT":
        arguments["teachers"] = make_model(len(model.modalities), seed=9).encoders
    balancer: Balancer = BALANCERS[name](**arguments)
    return balancer


def make_fusion(name: str, count: int, task: Task) -> Fusion:
    """The fusion of that name in `polymodal.fusion`, for the models made here."""
    torch.manual_seed(0)
    arguments = FUSION_ARGUMENTS.get(name, {}) | ({"kind": task.mixture} if name == "Mixture" else {})
    fusion: Fusion = FUSIONS[name](dict.fromkeys(names(count), WIDTH), task.outputs, **arguments)
    return fusion


def make_batch(count: int = 2, task: Task | None = None, size: int = 8, seed: int = 0, length: int = 0) -> Batch:
    """A batch whose modality 0 carries the target, and the others less and less of it; (B, L, D) with a `length`."""
    task = task or TASKS["classification"]
    generator = torch.Generator().manual_seed(seed)
    number = torch.arange(size).remainder(3)[torch.randperm(size, generator=generator)]
    target: Tensor = number
    if isinstance(task, MultiLabel):
        target = torch.stack([number == c for c in range(task.outputs)], -1).double()
    elif isinstance(task, Regression):
        target = number.double() - 1
    inputs = {}
    for i, m in enumerate(names(count)):
        shape = (size, length, 3 + i) if length else (size, 3 + i)
        inputs[m] = torch.randn(shape, generator=generator, dtype=torch.float64)
        inputs[m][torch.arange(size), ..., number] += 3.0 / (1 + 3 * i)
    return Batch(inputs, target)


def make_step(model: nn.Module, batch: Batch, task: Task | None = None, **options: Any) -> Step:
    return forward(model, batch, task or TASKS["classification"], **options)


def grads(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Largest absolute difference over two dictionaries of the same tensors."""
    assert one.keys() == other.keys()
    return max(float((one[key].detach().double() - other[key].detach().double()).abs().max()) for key in one)


def rows(batch: Batch, *sizes: int) -> Sequence[Batch]:
    """The batch cut into micro-batches of these sizes."""
    assert sum(sizes) == len(batch.target)
    inputs = {m: x.split(sizes) for m, x in batch.inputs.items()}
    present = {m: p.split(sizes) for m, p in (batch.present or {}).items()}
    return [
        Batch({m: x[i] for m, x in inputs.items()}, target, {m: p[i] for m, p in present.items()} or None)
        for i, target in enumerate(batch.target.split(sizes))
    ]
