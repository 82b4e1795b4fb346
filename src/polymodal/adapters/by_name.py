"""Any adapter by the name that one types, put into or between encoders that it freezes."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, cast

from torch import nn

from polymodal import names
from polymodal.adapters.anatomy import token_width
from polymodal.adapters.base import Adapter
from polymodal.adapters.freezing import freeze
from polymodal.adapters.lora import LoRA, inject_lora
from polymodal.adapters.mmbt import MMBT, put_mmbt
from polymodal.encoders.base import LayeredEncoder, width
from polymodal.errors import InputError

__all__ = ["insert", "options_of"]

PLACE = "adapter"


def insert(
    part: Mapping[str, Any],
    encoders: Mapping[str, nn.Module],
    *,
    lengths: Mapping[str, int] | None = None,
    modalities: Sequence[str] | None = None,
    trust: Collection[str] | None = None,
) -> Adapter | None:
    """Freeze encoders, and put the adapter of that name into each of them, into all, or between them.

    What its constructor takes tells which: `encoder` (or `module`, LoRA) is one of them at a time, `encoders` all, `dims` and
    `lengths` are widths and most tokens of each.

    Args:
        part: `name` of the method, or a dotted path, and its settings.
        encoders: by modality; changed in place. MMBT, which its recipe names by its dotted path, puts another encoder of the
            text there.
        lengths: the most tokens of each modality, for methods that ask for them.
        modalities: of methods that act in one encoder, which get it; all by default.
        trust: modules outside polymodal that the name may be from; None where the user typed it just now.

    Returns:
        What a `MultimodalModel` is given as its adapter; None where the encoders hold it.

    Raises:
        InputError: an unknown name or setting, or encoders that the method cannot act on.

    Example:
        >>> from polymodal.encoders import SequenceTransformer
        >>> encoders = {m: SequenceTransformer(5, dim=16, depth=2, heads=2) for m in ("audio", "video")}
        >>> insert({"name": "houlsby", "down": 4}, encoders, modalities=["audio"])
        >>> sum(p.numel() for p in encoders["audio"].parameters() if p.requires_grad)
        720
    """
    make, settings = _maker(part, trust), {key: value for key, value in part.items() if key != "name"}
    takes = inspect.signature(make).parameters
    for encoder in encoders.values():
        freeze(encoder)
    if "encoder" in takes or "module" in takes:
        for m in _chosen(part["name"], encoders, modalities):
            names.build(make, settings, {"encoder": encoders[m], "module": encoders[m]}, PLACE)
        return None
    if modalities is not None and set(modalities) != set(encoders):
        raise InputError(
            f"{PLACE} {part['name']!r} acts on all encoders together; leave modalities={list(modalities)} out"
        )
    given: dict[str, Any] = {"encoders": encoders, "lengths": lengths}
    if "dims" in takes:
        last = settings.get("last", takes["last"].default if "last" in takes else 0)
        given["dims"] = {m: _width(encoder, between=bool(last)) for m, encoder in encoders.items()}
    built = names.build(make, settings, given, PLACE)
    if not isinstance(built, Adapter):
        raise InputError(f"{PLACE} {part['name']!r} is a {type(built).__name__}, not a polymodal Adapter")
    return built


def options_of(name: str, trust: Collection[str] | None = None) -> dict[str, Any]:
    """What the constructor of a method takes, with its defaults (`inspect.Parameter.empty` where there is none).

    Raises:
        InputError: an unknown name.

    Example:
        >>> options_of("houlsby")["down"]
        64
    """
    found = inspect.signature(_maker({"name": name}, trust)).parameters
    return {key: one.default for key, one in found.items()}


def _maker(part: Mapping[str, Any], trust: Collection[str] | None) -> Any:
    method = names.resolve("adapters", part["name"], trust=trust)
    return {LoRA: inject_lora, MMBT: put_mmbt}.get(method, method)


def _chosen(name: str, encoders: Mapping[str, nn.Module], modalities: Sequence[str] | None) -> list[str]:
    chosen = list(encoders if modalities is None else modalities)
    foreign = [m for m in chosen if m not in encoders]
    if foreign or not chosen:
        hint = names.nearest(foreign[0], encoders) if foreign else ""
        raise InputError(f"{PLACE} {name!r}: modalities {chosen}{hint}; name some of {', '.join(encoders)}")
    return chosen


def _width(encoder: nn.Module, *, between: bool) -> int:
    """Width of the tokens that an adapter meets, between the layers or behind them."""
    return token_width(cast(Any, encoder)) if between and isinstance(encoder, LayeredEncoder) else width(encoder)
