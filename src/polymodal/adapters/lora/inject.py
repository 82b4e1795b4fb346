"""Putting LoRA into a module."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from polymodal.adapters.lora.handle import LoRA, put_in
from polymodal.adapters.lora.plan import prepare
from polymodal.adapters.lora.targets import Conv, Patterns, matching, select, spec_of
from polymodal.errors import InputError
from polymodal.names import nearest

__all__ = ["inject_lora"]


def inject_lora(
    module: nn.Module,
    rank: int = 1,
    *,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: Patterns = "attention",
    conv: Conv = "conv_then_1x1",
    fused: Literal["separate", "shared"] = "separate",
    modules_to_save: Patterns = (),
    name: str = "default",
    generator: torch.Generator | None = None,
) -> LoRA:
    r"""Freeze a module and put low-rank updates into it: W x + (alpha / r) B A x, A Gaussian, B zero.

    At first the module computes exactly what it did. Only A, B and `modules_to_save` train; BatchNorm of all that is frozen
    stays in eval. Layers keep their class and the names of their parameters, to which those of the updates are added
    (`blocks.0.attn.qkv.lora.default.A`): a state dict of the plain module is loaded with `strict=False`, best before.

    A weight that fuses Q, K and V gets one update for each: rows Q;K;V in timm's `qkv` and torch's `MultiheadAttention`, rows
    interleaved by head in DeBERTa v1. In a `MultiheadAttention`, whose weights are read raw, the weight is put together anew
    in every forward pass, and dropout zeroes whole features of its input, drawn once a pass; elsewhere it zeroes entries of
    the input.

    A second adapter of another `name` switches the first off (`set_active` takes one or several), unless that is merged.

    Args:
        module: any module; changed in place.
        rank: r, at most what each weight (each of Q, K and V) can use, and a multiple of a convolution's groups.
        alpha: numerator of the scale; r by default, which makes the scale 1.
        dropout: probability at the input of the updates.
        targets: "attention" means the projections to Q, K and V of every block; in a network without any, every convolution
            whose groups divide r; in one without those, every linear layer. Otherwise one or several patterns of layer
            names: a glob over the whole name ("blocks.*.mlp.fc?"), a name or the end of names ("query"), or a compiled
            regular expression for the whole name.
        conv: "conv_then_1x1" (as HF peft) or "kernel_times_channel" (as the first LoRA library).
        fused: "shared" gives a fused weight one update with one A for all three, as HF peft does.
        modules_to_save: patterns of modules that train as they are, such as a head.
        name: of the adapter.
        generator: draws A, on the CPU; torch's own by default.

    Raises:
        InputError: a setting out of its range, targets that match nothing, or a layer that cannot carry the update; the
            module is as it was.

    Source: Hu et al. 2022; Q, K and V of every block and all convolutions as in MMLoRA (2023), section 3.3.

    Differs from the authors' code: the paper's Gaussian A with deviation 1 / sqrt(inputs), not Kaiming-uniform.

    Example:
        >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> x = torch.randn(3, 5, 8)
        >>> before = layer.eval()(x)
        >>> lora = inject_lora(layer, rank=2)
        >>> torch.equal(layer(x), before), lora.counts().trainable
        (True, 96)
        >>> lora.remove(merge=True)
        >>> torch.equal(layer(x), before)
        True
    """
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise InputError(f"LoRA rank={rank!r}; a whole number of at least 1")
    alpha = rank if alpha is None else alpha
    if not 0 < alpha < float("inf"):
        raise InputError(f"LoRA alpha={alpha!r}; a positive number, r by default")
    if not 0 <= dropout < 1:
        raise InputError(f"LoRA dropout={dropout!r}; a probability from 0 to below 1")
    for setting, value, known in (
        ("conv", conv, ["conv_then_1x1", "kernel_times_channel"]),
        ("fused", fused, ["separate", "shared"]),
    ):
        if value not in known:
            raise InputError(f"LoRA {setting}={value!r}; it is one of {known}{nearest(str(value), known)}")
    saved = _named(module, modules_to_save)
    specs = {
        target.name: (target, spec_of(target, rank, alpha, conv, fused))
        for target in select(module, targets, rank, saved.values())
    }
    return put_in(prepare(module, specs, name=name, dropout=dropout, saved=saved, generator=generator))


def _named(module: nn.Module, patterns: Patterns) -> dict[str, nn.Module]:
    """The modules that patterns of `modules_to_save` mean, by name."""
    if not isinstance(patterns, str) and not patterns:
        return {}
    known = {name: part for name, part in module.named_modules() if name and list(part.parameters())}
    names = matching(known, patterns, f"LoRA modules_to_save in {type(module).__name__}", "modules with parameters")
    return {name: known[name] for name in names}
