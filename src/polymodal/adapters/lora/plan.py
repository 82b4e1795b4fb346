"""An adapter before it is put in: checked, made, and named tensor by tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from polymodal.adapters.lora.hosts import original
from polymodal.adapters.lora.targets import Spec, Target, update_for
from polymodal.adapters.lora.updates import Update
from polymodal.errors import InputError
from polymodal.names import modality_problem

__all__ = ["Layer", "Plan", "joined", "prepare"]


class Layer(NamedTuple):
    """A target and the update made for it."""

    target: Target
    spec: Spec
    update: Update


class Plan(NamedTuple):
    """An adapter that is checked and made, and hangs on nothing yet."""

    module: nn.Module
    name: str
    layers: dict[str, Layer]
    saved: dict[str, nn.Module]
    dropout: float

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what it trains."""
        return {key: tuple(value.shape) for key, value in self.tensors().items()}

    def tensors(self) -> dict[str, Tensor]:
        """What it trains, by name: `<layer>.lora_A`, `<layer>.lora_B` and the tensors of modules trained beside."""
        found: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            found |= {joined(name, "lora_A"): layer.update.A, joined(name, "lora_B"): layer.update.B}
        for name, module in self.saved.items():
            found |= {joined(name, key): value for key, value in module.state_dict().items()}
        return found

    def fingerprint(self) -> str:
        """A hash of the original weights of the adapted layers, which an adapter belongs to."""
        found = hashlib.sha256()
        for name, layer in self.layers.items():
            found.update(f"{name} {layer.update.shape}".encode())
            found.update(_bytes(original(layer.target.module, layer.target.parameter)))
        return found.hexdigest()

    def check(self, state: Mapping[str, Tensor], place: str) -> None:
        """Raise `InputError` unless `state` has exactly these names and shapes."""
        wanted = self.shapes()
        missing = [key for key in wanted if key not in state]
        foreign = [key for key in state if key not in wanted]
        if missing or foreign:
            raise InputError(
                f"{place} belongs to another model or other settings: it lacks {_few(missing)} and has besides {_few(foreign)}; "
                "nothing was loaded"
            )
        for key, shape in wanted.items():
            if tuple(state[key].shape) != shape:
                raise InputError(
                    f"{place} belongs to another model or rank: {key} is {tuple(state[key].shape)} there and {shape} here; "
                    "nothing was loaded"
                )


def prepare(
    module: nn.Module,
    specs: Mapping[str, tuple[Target, Spec]],
    *,
    name: str,
    dropout: float,
    saved: Mapping[str, nn.Module],
    generator: torch.Generator | None = None,
) -> Plan:
    """Make the updates of one adapter without touching the module.

    Raises:
        InputError: a name or a layer that does not do.
    """
    problem = modality_problem(name)
    if problem:
        raise InputError(f"LoRA adapter: {problem.replace('a modality needs', 'it needs')}")
    owners: dict[int, list[str]] = {}
    for place, part in module.named_modules():
        for key, parameter in part.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(joined(place, key))
    layers = {
        key: Layer(
            target, spec, update_for(target, spec, name=name, dropout=dropout, owners=owners, generator=generator)
        )
        for key, (target, spec) in specs.items()
    }
    return Plan(module, name, layers, dict(saved), dropout)


def joined(name: str, key: str) -> str:
    """The name of a part of the module `name`, which is empty for the root."""
    return f"{name}.{key}" if name else key


def _bytes(tensor: Tensor) -> bytes:
    """The bytes of a tensor, of any type and on any device."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "nothing"
