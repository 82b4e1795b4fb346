"""Parameters cut over the processes of a run (FSDP2): every process keeps, and steps, its own share of each tensor.

Tensors that are not cut pass through all of these functions as they are, so that callers need not ask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from polymodal.distributed import rank, world_size
from polymodal.errors import InputError

__all__ = [
    "copy_whole_state", "gathered", "is_sharded", "load_own_state", "load_whole_optimizer", "load_whole_state", "own_share",
    "own_shares", "own_state", "own_tensor", "replace_parameters", "shard", "whole_optimizer", "whole_state", "whole_tensor",
]  # fmt: skip


# Tensors --------------------------------------------------------------------------------------------------------------


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is cut over processes."""
    return hasattr(tensor, "to_local")


def own_tensor(tensor: Tensor) -> Tensor:
    """This process's share of a tensor, which shares its memory: (N, ...) to (n, ...), n may be 0."""
    return cast(Any, tensor).to_local() if is_sharded(tensor) else tensor


def whole_tensor(tensor: Tensor) -> Tensor:
    """The tensor put together from all processes, on every one of them; all must call it."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def own_share(whole: Tensor, like: Tensor) -> Tensor:
    """This process's share of `whole`, cut as `like` is."""
    if not is_sharded(like):
        return whole
    parts = whole.chunk(world_size())
    return parts[rank()] if rank() < len(parts) else whole[:0]


def _cut(own: Tensor, like: Tensor) -> Tensor:
    """A share as the tensor that it is of, cut as `like` is."""
    if not is_sharded(like):
        return own
    from torch.distributed.tensor import DTensor

    kind = cast(DTensor, like)
    own = own.to(own_tensor(like))
    return DTensor.from_local(
        own, kind.device_mesh, kind.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


# Modules --------------------------------------------------------------------------------------------------------------


def shard(
    model: nn.Module, parts: Iterable[nn.Module], device: str, methods: Mapping[nn.Module, Iterable[str]]
) -> None:
    """Cut the parameters of a model over all processes, in place, through torch's `fully_shard`.

    Each of `parts` is gathered for its own forward and backward pass alone; what is in none of them, from the model's
    forward pass to the end of its backward pass. Gradients are averaged over processes and cut alike. Parameters become new
    objects, see `replace_parameters`.

    Args:
        model: on the processor; its parts move to the device one by one.
        parts: sub-modules, none inside another.
        device: "cuda", "cpu", ...
        methods: names of methods beside `forward` that are called from outside and read parameters.

    Raises:
        InputError: there is one process alone, or two parts share a parameter.
    """
    if world_size() == 1:
        raise InputError(
            "train.shard=true cuts the model over the processes of a run, and this is one alone; start it with `torchrun "
            "--nproc_per_node N -m polymodal ...` (docs/guide/scale.md), or leave it out"
        )
    parts = [part for part in parts if any(True for _ in part.parameters())]
    owners: dict[int, nn.Module] = {}
    for part in parts:
        if any(owners.setdefault(id(p), part) is not part for p in part.parameters()):
            raise InputError(
                f"train.shard=true: a {type(part).__name__} shares parameters with another encoder or the fusion, and each "
                "must be cut alone; leave it out"
            )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device, (world_size(),))
    left = _composed(model, device)
    for part in parts:
        fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=left)
        for name in methods.get(part, ()):
            register_fsdp_forward_method(part, name)
    fully_shard(model, mesh=mesh, reshard_after_forward=False, ignored_params=left)


def _composed(model: nn.Module, device: str) -> set[nn.Parameter]:
    """Parameters that their module computes anew at each look (LoRA in attention); they stay whole, on the device."""
    found = set()
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None and isinstance(getattr(type(module), name, None), property):
                if p.requires_grad:
                    raise InputError(
                        f"train.shard=true: {type(module).__name__}.{name} is computed and trains; leave it out"
                    )
                p.data = p.data.to(device)
                found.add(p)
    return found


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within the block every process holds the whole model, so that each may run it as often as it likes."""
    cut = _sharded_modules(model)
    for part in cut:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in cut:
            part.reshard()
            part.set_reshard_after_forward(part is not model, recurse=False)


def _sharded_modules(model: nn.Module) -> list[Any]:
    if not any(is_sharded(p) for p in model.parameters()):
        return []
    from torch.distributed.fsdp import FSDPModule

    return [part for part in model.modules() if isinstance(part, FSDPModule)]


# States ---------------------------------------------------------------------------------------------------------------


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The ordinary state dict; of a model that is cut, tensors on the processor that process 0 alone is given.

    All processes must call it.
    """
    state = model.state_dict()
    if not any(is_sharded(one) for one in state.values()):
        return state
    return _on_first(state)


def own_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of this process's shares on the processor."""
    return {key: own_tensor(one).detach().cpu().clone() for key, one in model.state_dict().items()}


def load_own_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take the values of an `own_state`; no other process need take part."""
    now = model.state_dict()
    model.load_state_dict({key: _cut(one, now[key]) if key in now else one for key, one in state.items()})


def own_shares(model: nn.Module, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The `own_state` that an ordinary state dict, which every process holds, is cut into.

    Raises:
        RuntimeError: a tensor of another shape.
    """
    now = model.state_dict()
    wrong = [key for key, one in whole.items() if key in now and is_sharded(now[key]) and one.shape != now[key].shape]
    if wrong:
        raise RuntimeError(f"size mismatch for {wrong[:3]}")
    return {key: own_share(one, now[key]) if key in now else one for key, one in whole.items()}


def load_whole_state(model: nn.Module, whole: Mapping[str, Tensor]) -> None:
    """Take the values of an ordinary state dict, which every process holds."""
    load_own_state(model, own_shares(model, whole))


@torch.no_grad()
def copy_whole_state(model: nn.Module, to: nn.Module) -> None:
    """Give `to`, an ordinary model with the same names, the values of a model that is cut; all processes must call it."""
    there = to.state_dict()
    for key, one in model.state_dict().items():
        there[key].copy_(whole_tensor(one))


def whole_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    """The optimiser's ordinary state dict; of parameters that are cut, process 0 alone is given its tensors.

    All processes must call it.
    """
    state = optimizer.state_dict()
    if not any(isinstance(v, Tensor) and is_sharded(v) for one in state["state"].values() for v in one.values()):
        return state
    return state | {"state": {n: _on_first(one) for n, one in state["state"].items()}}


def load_whole_optimizer(optimizer: Optimizer, whole: dict[str, Any]) -> None:
    """Take an ordinary state dict of the optimiser, which every process holds."""
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))

    def share(value: Any, like: Tensor | None) -> Any:
        if like is None or not isinstance(value, Tensor) or value.shape != like.shape or not is_sharded(like):
            return value
        return _cut(own_share(value, like), like)

    state = {n: {key: share(v, parameters.get(n)) for key, v in one.items()} for n, one in whole["state"].items()}
    optimizer.load_state_dict(whole | {"state": state})


def replace_parameters(optimizer: Optimizer, old: nn.Module, new: nn.Module) -> None:
    """Let an optimiser step the parameters of `new` in the place of those of `old` with the same names.

    Its state is lost.

    Raises:
        InputError: it steps a parameter that `old` has not.
    """
    names, found = {id(p): name for name, p in old.named_parameters()}, dict(new.named_parameters())
    for group in optimizer.param_groups:
        strange = sum(id(p) not in names for p in group["params"])
        if strange:
            raise InputError(
                f"train.shard=true: {strange} parameters of the optimiser are none of the model's; make it over "
                "model.param_groups(lr)"
            )
        group["params"] = [found[names[id(p)]] for p in group["params"]]
    optimizer.state.clear()


def _on_first(state: Mapping[str, Any]) -> dict[str, Any]:
    """Whole tensors on the processor for process 0, nothing for the others."""
    found = {}
    for key, one in state.items():
        whole = whole_tensor(one).detach().cpu() if isinstance(one, Tensor) else one
        if rank() == 0:
            found[key] = whole
    return found
