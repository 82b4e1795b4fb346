"""How updates hang on a layer: a forward hook, or a weight that is read with its updates added."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from polymodal.adapters.lora.updates import LinearUpdate, Update, wide

__all__ = ["Updates", "attach", "detach", "original"]


class Updates(nn.ModuleDict):
    """The updates of one layer by adapter name, registered on the layer as `lora`.

    The layer keeps its class, its place and the names of its parameters. Where something reads the raw weight instead of
    calling the layer (torch's `MultiheadAttention` and its output projection, also in the fused fast paths of eval mode),
    the layer's class is exchanged for one whose weight is read with the updates added.
    """

    def __init__(self, parameter: str) -> None:
        super().__init__()
        self._weight_name = parameter
        self._original: Tensor | None = None
        self._held: Tensor | None = None
        self._hook: RemovableHandle | None = None

    def acting(self) -> list[Update]:
        """Updates that are on and not part of the weight already."""
        found = cast("list[Update]", list(self.values()))
        return [one for one in found if one.enabled and not one.merged]

    def act(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
        """Forward hook: the layer's output with every acting update."""
        x = args[0] if args else kwargs["input"]
        for update in self.acting():
            out = update.add(host, out, x)
        return out

    def read(self, weight: Tensor) -> Tensor:
        """The weight with every acting update, which carries their gradients."""
        if self._held is not None:
            return self._held
        for update in self.acting():
            weight = cast(LinearUpdate, update).added_to(weight)
        return weight

    @contextmanager
    def holding(self, weight: Tensor) -> Iterator[None]:
        """Within the block the weight is put together once, however often it is read."""
        self.__dict__["_held"] = self.read(weight)  # torch would register a parameter that is set
        try:
            yield
        finally:
            self.__dict__["_held"] = None

    @torch.no_grad()
    def refresh(self, host: nn.Module) -> None:
        """Bring the weight to: its original, plus every update that is merged and on."""
        weight = cast(Tensor, host._parameters[self._weight_name])
        if self._original is not None:
            weight.copy_(self._original)
        merged = [one for one in cast("list[Update]", list(self.values())) if one.enabled and one.merged]
        if not merged:
            self._original = None
            return
        if self._original is None:
            self._original = weight.clone()
        total = weight.to(wide(weight.dtype))
        for update in merged:
            total = total + update.delta().to(total)
        weight.copy_(total)


def original(host: nn.Module, parameter: str) -> Tensor:
    """The weight of a layer without anything merged into it."""
    updates = host._modules.get("lora")
    kept = updates._original if isinstance(updates, Updates) else None
    return cast(Tensor, host._parameters[parameter]) if kept is None else kept


def attach(host: nn.Module, parameter: str, read_raw: bool, name: str, update: Update) -> Updates:
    """Hang an update on a layer, beside those that it has."""
    there = host._modules.get("lora")
    if isinstance(there, Updates):
        there[name] = update
        return there
    updates = Updates(parameter)
    updates[name] = update
    host.add_module("lora", updates)
    if read_raw:
        host.__class__ = _reading(cast(Any, type(host)), parameter)
    else:
        updates._hook = host.register_forward_hook(updates.act, with_kwargs=True, prepend=True)
    updates.train(host.training)
    return updates


def detach(host: nn.Module, name: str, *, keep_merged: bool) -> None:
    """Take an update off a layer; a merged one leaves its share in the weight if `keep_merged`."""
    updates = cast(Updates, host._modules["lora"])
    update = cast(Update, updates[name])
    if keep_merged and update.merged and updates._original is not None:
        updates._original += update.delta().detach().to(updates._original)
    del updates[name]
    if len(updates):
        updates.refresh(host)
        return
    if not keep_merged:
        updates.refresh(host)
    if updates._hook is not None:
        updates._hook.remove()
    else:
        host.__class__ = type(host).__base__  # type: ignore[assignment]
    del host.lora


@cache
def _reading(base: Any, parameter: str) -> type[nn.Module]:
    """A class like `base` whose `parameter` is read with the updates added."""

    def read(self: nn.Module) -> Tensor:
        return cast(Updates, self._modules["lora"]).read(cast(Tensor, self._parameters[parameter]))

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with cast(Updates, self._modules["lora"]).holding(cast(Tensor, self._parameters[parameter])):
            return base.forward(self, *args, **kwargs)

    members = {parameter: property(read), "forward": forward, "__module__": base.__module__}
    return type(base.__name__, (base,), members)
