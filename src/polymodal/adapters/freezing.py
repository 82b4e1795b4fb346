"""Freezing a module as a whole, with BatchNorm statistics that stay put, and undoing it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import nn

from polymodal.blocks import MaskedBatchNorm

__all__ = ["Frozen", "freeze"]

BatchNorm = (nn.modules.batchnorm._NormBase, MaskedBatchNorm)


class Frozen:
    """What `freeze` did to a module; `undo` takes it back."""

    def __init__(self, module: nn.Module, flags: dict[str, bool], norms: list[nn.Module]) -> None:
        self.module, self.flags, self.norms = module, flags, norms

    def undo(self) -> None:
        """Let the parameters train that did before, and let BatchNorm follow `train()` again."""
        for name, parameter in self.module.named_parameters():
            if name in self.flags:
                parameter.requires_grad_(self.flags[name])
        for norm in self.norms:
            norm.__dict__.pop("train", None)
            norm.train(self.module.training)


def freeze(module: nn.Module, keep: Iterable[nn.Module] = ()) -> Frozen:
    """Freeze all parameters of a module, and hold its frozen BatchNorm in eval whatever `module.train()` says.

    BatchNorm in train mode takes the statistics of the batch and moves its running ones, so a "frozen" network would drift.
    Dropout still follows `train()`.

    Args:
        module: changed in place.
        keep: parts of it that train.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        >>> frozen = freeze(net)
        >>> net.train()[1].training, any(p.requires_grad for p in net.parameters())
        (False, False)
        >>> frozen.undo()
        >>> net[1].training, all(p.requires_grad for p in net.parameters())
        (True, True)
    """
    kept = {id(part) for top in keep for part in top.modules()}
    flags = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    norms: list[nn.Module] = []
    for part in module.modules():
        for parameter in part.parameters(recurse=False):
            parameter.requires_grad_(id(part) in kept)
        free = id(part) in kept and not list(part.parameters())
        if isinstance(part, BatchNorm) and "train" not in part.__dict__ and not free:
            part.__dict__["train"] = partial(_train_if_trainable, part)
            part.train(part.training)
            norms.append(part)
    return Frozen(module, flags, norms)


def _train_if_trainable(norm: nn.Module, mode: bool = True) -> nn.Module:
    """`norm.train(mode)` of a BatchNorm that stays in eval while none of its parameters trains."""
    return nn.Module.train(norm, mode and any(p.requires_grad for p in norm.parameters()))
