"""Adapters that hang inside of encoders, frozen meanwhile: what all of them have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from polymodal.adapters.base import Adapter
from polymodal.adapters.freezing import Frozen, freeze
from polymodal.adapters.lora.handle import Counts, lora_adapters
from polymodal.encoders.base import LayeredEncoder
from polymodal.errors import InputError
from polymodal.names import check_modalities

__all__ = ["Injected", "check_state"]

MARK = "_injected"
"""Where an encoder keeps the adapter that hangs in it, outside of parameters and sub-modules."""
BEFORE = "before/"
"""What the names of buffers begin with that hold the values of before of what is trained in place."""


class Injected(Adapter):
    """Trainable parts in one encoder, or in several that share them; made means put in, `remove` takes them out.

    In one encoder it becomes a sub-module of that (`encoder.houlsby`). An adapter of several encoders belongs to none of
    them: give it to the model, `MultimodalModel(encoders, fusion, adapter=adapter)`, which then trains and saves it. A deep
    copy of either carries an adapter of its own. Encoders are frozen but for what the adapter trains in place, whose values of
    before are buffers of the adapter: a model that was saved and loaded can still be given back what it was.

    A subclass makes its parameters and hooks between `__init__` and `_enter`. Hooks are bound methods, so that copies call
    their own adapter.

    Args:
        encoders: by modality, "" for a single one.

    Raises:
        InputError: an encoder that does not run layer by layer, or one that carries an adapter.
    """

    def __init__(self, encoders: Mapping[str, LayeredEncoder]) -> None:
        super().__init__()
        method = type(self).__name__
        if "" not in encoders:
            check_modalities(encoders)
            if len(encoders) < 2:
                raise InputError(
                    f"{method} joins modalities and was given {list(encoders)}; give it two or more encoders"
                )
        if len({id(encoder) for encoder in encoders.values()}) < len(encoders):
            raise InputError(f"{method}: two of the modalities {list(encoders)} have the same encoder")
        for m, encoder in encoders.items():
            place = f"{method} in {type(encoder).__name__}" + (f" of {m!r}" if m else "")
            if not isinstance(encoder, LayeredEncoder):
                raise InputError(f"{place}: it has no layers to go into; use an encoder that runs layer by layer")
            there = encoder.__dict__.get(MARK) or next(iter(lora_adapters(encoder).values()), None)
            if there is not None:
                raise InputError(f"{place}: it carries {type(there).__name__} already; remove that first")
        self.encoders = dict(encoders)  # a plain dict, whose modules are not registered here
        self._hooks: list[RemovableHandle] = []
        self._frozen: list[Frozen] = []
        self._beside: dict[str, nn.Parameter] = {}

    def _enter(self, norms: Iterable[nn.Module] = (), name: str = "") -> None:
        """Freeze the encoders but for `norms`, take their type and device, and register as `name` of a single one."""
        norms = list(norms)
        for m, encoder in self.encoders.items():
            known = {id(p): f"{m}.{key}" if m else key for key, p in encoder.named_parameters()}
            chosen = {known[id(p)]: p for norm in norms for p in norm.parameters(recurse=False) if id(p) in known}
            self._beside |= chosen
            self._frozen.append(freeze(encoder, keep=norms))
            encoder.__dict__[MARK] = self
        for key, p in self._beside.items():
            self.register_buffer(_buffer(key), p.detach().clone())
        self.to(next(next(iter(self.encoders.values())).parameters()))
        if name:
            self.encoders[""].add_module(name, self)
        self._name = name

    def _replace(self, modality: str, method: str, own: Any) -> None:
        """Let an encoder call `own` for its method of that name."""
        self.encoders[modality].__dict__[method] = own

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """All that trains: its own parameters, and those of the encoders that it trains in place."""
        yield from super().parameters(recurse)
        yield from self._beside.values()

    def counts(self) -> Counts:
        """Parameters of the encoders and the adapter that train, and all."""
        every = {id(p): p for part in (*self.encoders.values(), self) for p in part.parameters()}.values()
        return Counts(sum(p.numel() for p in every if p.requires_grad), sum(p.numel() for p in every))

    def adapter_state(self) -> dict[str, Tensor]:
        """What was trained, by name: its own tensors, and those of the encoders that it trains in place."""
        own = {key: value.detach() for key, value in self.state_dict().items() if not key.startswith(BEFORE)}
        return own | {f"beside.{key}": p.detach() for key, p in self._beside.items()}

    def load_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the values of an `adapter_state`.

        Raises:
            InputError: other names or shapes; nothing is loaded then.
        """
        mine = self.adapter_state()
        check_state(mine, state, f"{type(self).__name__}: the adapter state")
        with torch.no_grad():
            for key, value in mine.items():
                value.copy_(state[key])

    def remove(self) -> None:
        """Take the adapter out: the encoders are, and compute, what they were, and train what they did.

        Raises:
            InputError: it was removed before.
        """
        if any(encoder.__dict__.get(MARK) is not self for encoder in self.encoders.values()):
            raise InputError(f"{type(self).__name__} is not in its encoders (any more)")
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for encoder in self.encoders.values():
            for name in (MARK, "embed", "run_layer"):
                encoder.__dict__.pop(name, None)
        if self._name:
            del self.encoders[""]._modules[self._name]
        with torch.no_grad():
            for key, p in self._beside.items():
                p.copy_(self.get_buffer(_buffer(key)))
        for frozen in self._frozen:
            frozen.undo()

    def fingerprint(self) -> str:
        """A hash of the original weights of the encoders, which the adapter belongs to."""
        found, mine = hashlib.sha256(), {id(p) for p in super().parameters()}
        for m, encoder in self.encoders.items():
            for key, p in encoder.named_parameters():
                if id(p) not in mine:
                    name = f"{m}.{key}" if m else key
                    found.update(f"{name} {tuple(p.shape)}".encode())
                    value = self._buffers.get(_buffer(name), p)
                    assert value is not None  # no buffer of an adapter is empty
                    value = value.detach().cpu().contiguous()
                    found.update(value.flatten().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()


def _buffer(key: str) -> str:
    """Name of the buffer that holds the value of before of a parameter."""
    return BEFORE + key.replace(".", "/")


def check_state(mine: Mapping[str, Tensor], state: Mapping[str, Tensor], place: str) -> None:
    """Raise `InputError` unless `state` has exactly the names and shapes of `mine`."""
    lacks, besides = [key for key in mine if key not in state], [key for key in state if key not in mine]
    if lacks or besides:
        raise InputError(
            f"{place} belongs to other encoders or settings: it lacks {lacks[:3] or 'nothing'} and has besides "
            f"{besides[:3] or 'nothing'}; nothing was loaded"
        )
    for key, value in mine.items():
        if state[key].shape != value.shape:
            raise InputError(
                f"{place} belongs to other encoders or settings: {key} is {tuple(state[key].shape)} there and "
                f"{tuple(value.shape)} here; nothing was loaded"
            )
