"""A model whose encoders and fusion are cut over processes while it trains, in the place of the given one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim import Optimizer

from polymodal.balancers import Balancer
from polymodal.errors import InputError
from polymodal.model import MultimodalModel
from polymodal.sharding import copy_whole_state, replace_parameters, shard

__all__ = ["check_sharded", "sharded"]


def check_sharded(balancer: Balancer, precision: str | None, observed: bool) -> None:
    """Raise `InputError` for what cannot work on encoders that are cut over processes."""
    name = type(balancer).__name__
    if not balancer.shardable or balancer.reduces_gradients:
        raise InputError(
            f"train.shard=true: {name} needs whole encoders between the forward and the backward pass, and no process has "
            "them; leave sharding out, or use a balancer that scales gradients ('mlb', 'ogm_ge', 'mslr')"
        )
    if precision == "fp16":
        raise InputError("train.shard=true: precision 'fp16' looks for overflow in whole gradients; use 'bf16'")
    if observed:
        raise InputError("train.shard=true: an observer sees this process's shares alone; leave one of them out")


@contextmanager
def sharded(
    model: MultimodalModel, given: MultimodalModel, optimizer: Optimizer | None, device: torch.device
) -> Iterator[None]:
    """Within the block `model` is cut over all processes; a block that ends well leaves its weights in `given`.

    An encoder, or the fusion, is whole only while it computes, forwards and backwards; heads and adapters from the forward to
    the backward pass. `given` keeps its values and its place until then.

    Args:
        model: a copy of `given`.
        optimizer: over parameters of `given`, steps those of `model` instead; its state ends with the block.

    Raises:
        InputError: there is one process alone, or an optimiser of other parameters.
    """
    methods: dict[nn.Module, list[str]] = {model.fusion: ["parts"] if hasattr(model.fusion, "parts") else []}
    if model.adapter is not None and model.adapter.last:  # then the model runs the layers itself
        methods |= {encoder: ["embed", "run_layer", "finish"] for encoder in model.encoders.values()}
    shard(model, [*model.encoders.values(), model.fusion], device.type, methods)
    if optimizer is not None:
        replace_parameters(optimizer, given, model)
    with warnings.catch_warnings():
        # Features may be views (the first token of a sequence); nothing here writes into what a model gives back.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
        yield
    given.to(device)
    copy_whole_state(model, given)
    if optimizer is not None:
        replace_parameters(optimizer, model, given)
