"""The handle of one LoRA adapter: switched, merged, taken out; what it trained as named tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from polymodal.adapters.freezing import Frozen, freeze
from polymodal.adapters.lora.hosts import Updates, attach, detach
from polymodal.adapters.lora.plan import Plan, joined
from polymodal.errors import InputError
from polymodal.names import nearest

__all__ = ["Counts", "LoRA", "lora_adapters", "put_in", "set_active"]


class Counts(NamedTuple):
    """Numbers of parameters: those that train, and all."""

    trainable: int
    total: int

    def __str__(self) -> str:
        share = 100 * self.trainable / max(self.total, 1)
        return f"trainable params: {self.trainable:,} || all params: {self.total:,} || trainable%: {share:.4f}"


class LoRA:
    """One named adapter in a module: a handle, no module itself (its parameters belong to the layers that they adapt).

    Made by `inject_lora`, `load_lora` or `import_peft`. A deep copy of the model carries handles of its own:
    `lora_adapters(copy)`.

    Attributes:
        name: of the adapter.
        module: the adapted module.
        layers: target, settings and `Update` by layer name.
        saved: modules trained beside, by name.
        enabled: whether it acts.
        merged: whether it is part of the weights.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name, self.module, self.layers, self.saved = plan.name, plan.module, plan.layers, plan.saved
        self.enabled, self.merged = True, False
        self._elsewhere = {key: _copied(part) for key, part in self.saved.items()}
        """The other values of modules trained beside: those of before while the adapter is on, the trained ones while off."""
        for layer in self.layers.values():
            target = layer.target
            attach(target.module, target.parameter, target.raw, self.name, layer.update)

    def parameters(self) -> list[nn.Parameter]:
        """What it trains: the factors, and the parameters of modules trained beside."""
        found = [p for layer in self.layers.values() for p in layer.update.parameters()]
        return found + [p for part in self.saved.values() for p in part.parameters()]

    def enable(self) -> None:
        """Let it act.

        Raises:
            InputError: another adapter that is on trains the same module beside.
        """
        if self.enabled:
            return
        for other in lora_adapters(self.module).values():
            both = [key for key in self.saved if other.enabled and key in other.saved]
            if both:
                raise InputError(
                    f"LoRA adapters {self.name!r} and {other.name!r} both train {both}, of which the model has one; switch "
                    f"{other.name!r} off first (set_active does)"
                )
        self._switch(True)

    def disable(self) -> None:
        """Let the module compute what it did without this adapter; modules trained beside take their values of before."""
        if self.enabled:
            self._switch(False)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The module without this adapter, within the block."""
        was = self.enabled
        self.disable()
        try:
            yield
        finally:
            if was:
                self.enable()

    def merge(self) -> None:
        """Add the updates to the weights: the same function at the cost of the plain module.

        The original weights are kept, for `unmerge` and for switching off. Do not train while merged.
        """
        self._mark(merged=True)

    def unmerge(self) -> None:
        """Put the original weights back, bit for bit."""
        self._mark(merged=False)

    def remove(self, *, merge: bool) -> None:
        """Take the adapter out: classes, hooks and state dict are what they were.

        With the last adapter gone the parameters train that did before.

        Args:
            merge: keep what it learned in the weights (and modules trained beside as trained), or the original weights.
        """
        if lora_adapters(self.module).get(self.name) is not self:
            raise InputError(f"LoRA adapter {self.name!r} is not in the model (any more)")
        if merge:
            self.enable()
            self.merge()
        else:
            self.disable()
        for layer in self.layers.values():
            detach(layer.target.module, self.name, keep_merged=merge)
        registry = _registry(self.module)
        del registry[self.name]
        if not registry:
            cast(Frozen, registry.frozen).undo()
            del self.module.__dict__[REGISTRY]

    def adapter_state(self) -> dict[str, Tensor]:
        """What was trained, by name; factors of a layer are `<layer>.lora_A` and `<layer>.lora_B`."""
        found = {key: value.detach() for key, value in self.plan.tensors().items()}
        if not self.enabled:
            for name, values in self._elsewhere.items():
                found |= {joined(name, key): value for key, value in values.items()}
        return found

    def load_adapter_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the values of an `adapter_state`.

        Raises:
            InputError: other names or shapes; nothing is loaded then.
        """
        self.plan.check(state, "the adapter state")
        with torch.no_grad():
            for key, value in self.adapter_state().items():
                value.copy_(state[key])
        if self.merged:
            self._refresh()

    def counts(self) -> Counts:
        """Parameters of the module that train, and all, those of the adapters included."""
        everything = list(self.module.parameters())
        return Counts(sum(p.numel() for p in everything if p.requires_grad), sum(p.numel() for p in everything))

    def print_trainable_parameters(self) -> None:
        """Print `counts` in the words of HF peft."""
        print(self.counts())

    def _mark(self, *, merged: bool) -> None:
        self.merged = merged
        for layer in self.layers.values():
            layer.update.merged = merged
        self._refresh()

    def _switch(self, enabled: bool) -> None:
        self.enabled = enabled
        for layer in self.layers.values():
            layer.update.enabled = enabled
        for name, part in self.saved.items():
            here = _copied(part)
            with torch.no_grad():
                for key, value in part.state_dict().items():
                    value.copy_(self._elsewhere[name][key])
            self._elsewhere[name] = here
        if self.merged:
            self._refresh()

    def _refresh(self) -> None:
        for layer in self.layers.values():
            cast(Updates, layer.target.module._modules["lora"]).refresh(layer.target.module)

    def __repr__(self) -> str:
        state = "merged" if self.merged else "on" if self.enabled else "off"
        return f"LoRA({self.name!r} in {len(self.layers)} layers of {type(self.module).__name__}, {state})"


def put_in(plan: Plan) -> LoRA:
    """Freeze the module of a plan, switch its other adapters off, and hang the updates on.

    Raises:
        InputError: the module has an adapter of that name, or a merged one that trained the same module beside.
    """
    module = plan.module
    registry = _registry(module)
    if plan.name in registry:
        raise InputError(
            f"LoRA adapter {plan.name!r}: the model has one of that name; give another, or remove that one"
        )
    for other in registry.values():
        both = [key for key in plan.saved if other.merged and key in other.saved]
        if both:
            raise InputError(
                f"LoRA adapter {plan.name!r}: {both} are trained by the merged adapter {other.name!r}; remove it"
            )
    for other in registry.values():
        if not other.merged:
            other.disable()
        for parameter in other.parameters():
            parameter.requires_grad_(False)
    if registry.frozen is None:
        registry.frozen = freeze(module, keep=plan.saved.values())
    module.__dict__[REGISTRY] = registry
    lora = LoRA(plan)
    registry[plan.name] = lora
    for parameter in lora.parameters():
        parameter.requires_grad_(True)
    return lora


def set_active(module: nn.Module, *names: str) -> None:
    """Switch these adapters on and the others off; only they train. Without names all are off.

    Raises:
        InputError: an unknown name, or two adapters that train the same module beside; nothing is switched then.
    """
    known = lora_adapters(module)
    for name in names:
        if name not in known:
            raise InputError(
                f"LoRA adapter {name!r} is unknown; there are {list(known) or 'none'}{nearest(name, known)}"
            )
    wanted = [known[name] for name in dict.fromkeys(names)]
    beside = [key for lora in wanted for key in lora.saved]
    twice = sorted({key for key in beside if beside.count(key) > 1})
    if twice:
        raise InputError(f"LoRA adapters {list(names)} train {twice} more than once; the model has only one of it")
    for name, lora in known.items():
        if name not in names:
            lora.disable()
            for parameter in lora.parameters():
                parameter.requires_grad_(False)
    for lora in wanted:
        lora.enable()
        for parameter in lora.parameters():
            parameter.requires_grad_(True)


REGISTRY = "_lora_adapters"
"""Where a module keeps its adapters, outside of parameters and sub-modules."""


class _Registry(dict[str, LoRA]):
    """The adapters of one module by name, and how to thaw it."""

    frozen: Frozen | None = None


def _registry(module: nn.Module) -> _Registry:
    return cast(_Registry, module.__dict__.get(REGISTRY) or _Registry())


def lora_adapters(module: nn.Module) -> dict[str, LoRA]:
    """The adapters that were put into this module, by name."""
    return dict(_registry(module))


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}
