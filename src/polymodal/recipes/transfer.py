"""Encoders that begin with what another run trained: weights whose shapes agree are kept, the others are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from polymodal.encoders.weights import read_weights
from polymodal.errors import InputError
from polymodal.recipes.base import Setup
from polymodal.run import logger

__all__ = ["StartFrom", "Taken", "started", "take_over"]

StartFrom = str | Path | Mapping[str, str | Path] | None
"""A run's folder or a file of weights, for all modalities that it holds, or one a modality."""
SHOWN = 6


class Taken(NamedTuple):
    """Names of an encoder's tensors: those that were taken over, those that stay as they were made, and what was left."""

    kept: list[str]
    fresh: list[str]
    unused: list[str]


def take_over(encoder: nn.Module, tensors: Mapping[str, Tensor], source: str) -> Taken:
    """Copy into an encoder the tensors whose names and shapes are its own.

    Args:
        encoder: changed in place.
        tensors: of another encoder, by name.
        source: where they are from, for the error.

    Raises:
        InputError: not one of them fits.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
        >>> take_over(net, {"0.weight": torch.ones(2, 5), "1.weight": torch.ones(2, 2)}, "a.pt")
        Taken(kept=['1.weight'], fresh=['0.weight', '0.bias', '1.bias'], unused=['0.weight'])
    """
    own = encoder.state_dict()
    kept = [name for name, one in own.items() if name in tensors and tensors[name].shape == one.shape]
    if not any(own[name].ndim for name in kept):  # a counter of batches fits anywhere
        raise InputError(
            f"{source}: not one tensor fits a {type(encoder).__name__}, which has {_listed(list(own))}, and it has "
            f"{_listed(list(tensors))}; name a run with encoders of the same kind, width and depth"
        )
    encoder.load_state_dict({**own, **{name: tensors[name] for name in kept}})
    fresh = [name for name in own if name not in kept and not name.endswith("num_batches_tracked")]
    return Taken(kept, fresh, [name for name in tensors if name not in kept])


def started(setup: Setup, start_from: StartFrom) -> tuple[Setup, dict[str, list[str]]]:
    """The setup whose fresh encoders hold the weights of another run, and by modality the parameters that do not.

    Raises:
        InputError: no weights there, of none of the modalities, or for other encoders.
    """
    if start_from is None:
        return setup, {}
    if isinstance(start_from, Mapping):
        foreign = sorted(set(start_from) - set(setup.modalities))
        if foreign:
            raise InputError(f"start_from of {foreign}: the modalities are {', '.join(setup.modalities)}")
        sources = {m: Path(path) for m, path in start_from.items()}
    else:
        sources = dict.fromkeys(setup.modalities, Path(start_from))
    found = {m: (path, _tensors(path, m)) for m, path in sources.items()}
    lacks = [m for m, (_, tensors) in found.items() if not tensors]
    if len(lacks) == len(found) or (lacks and isinstance(start_from, Mapping)):
        raise InputError(f"start_from={start_from}: there is no encoder of {', '.join(lacks)} in it")
    for m in lacks:
        logger.warning("start_from: %s has no encoder of %r, which begins afresh", found[m][0], m)
    fresh = {}
    for m, (path, tensors) in found.items():
        if tensors:
            taken = take_over(setup.make_encoder(m), tensors, f"start_from, modality {m!r}: {path}")
            fresh[m] = taken.fresh
            logger.info("modality %s begins with %d tensors of %s", m, len(taken.kept), path)
            if taken.fresh or taken.unused:
                logger.warning(
                    "start_from, modality %r: fresh are %s; left out of %s are %s",
                    m, _listed(taken.fresh), path, _listed(taken.unused),
                )  # fmt: skip

    def make_encoder(modality: str) -> nn.Module:
        encoder = setup.make_encoder(modality)
        if modality in fresh:
            take_over(encoder, found[modality][1], str(found[modality][0]))
        return encoder

    return replace(setup, make_encoder=make_encoder), fresh


def _tensors(path: Path, modality: str) -> dict[str, Tensor]:
    """The tensors of one modality's encoder in a run's folder, in a model's file, or in a file of that encoder alone."""
    if path.is_dir():
        stage = path / "stages" / f"unimodal_{modality}" / "model.safetensors"
        whole = path / "model.safetensors"
        path = whole if whole.is_file() or not stage.is_file() else stage
    tensors = read_weights(path)
    start = f"encoders.{modality}."
    own = {name.removeprefix(start): one for name, one in tensors.items() if name.startswith(start)}
    return own if own or any(name.startswith("encoders.") for name in tensors) else tensors


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "none"
