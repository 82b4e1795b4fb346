"""Which weights of a module can carry an update, which of them are meant, and the update that fits each."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from polymodal.adapters.lora.hosts import Updates
from polymodal.adapters.lora.updates import ConvUpdate, KernelUpdate, LinearUpdate, Update
from polymodal.errors import InputError
from polymodal.names import nearest

__all__ = ["Conv", "Form", "Patterns", "Spec", "Target", "adaptable", "matching", "select", "spec_of", "update_for"]

Conv = Literal["conv_then_1x1", "kernel_times_channel"]
Form = Literal["linear", "conv_then_1x1", "kernel_times_channel"]
Patterns = str | re.Pattern[str] | Sequence[str | re.Pattern[str]]

PROJECTIONS = frozenset(
    name.format(one)
    for name, ones in {
        "{}": ("query", "key", "value"),
        "{}_proj": ("q", "k", "v", "query", "key", "value"),
        "{}_lin": "qkv",
        "linear_{}": "qkv",
        "to_{}": "qkv",
    }.items()
    for one in ones
)
"""Last names of Linear layers that project to queries, keys or values."""
FUSED = frozenset({"qkv", "in_proj", "to_qkv", "Wqkv"})
"""Last names of Linear layers that project to all three at once."""
ALSO_PLAIN = frozenset({"timm.layers.linear.Linear", "timm.layers.conv2d_same.Conv2dSame"})
"""Layers with a forward of their own that is linear in the weight all the same."""


class Target(NamedTuple):
    """One weight that could carry an update: `parameter` of `module`, which is `root.name`."""

    name: str
    module: nn.Module
    parameter: str
    parts: int = 1
    heads: int = 1
    raw: bool = False

    @property
    def weight(self) -> Tensor:
        """The parameter itself, whatever hangs on the layer."""
        return cast(Tensor, self.module._parameters[self.parameter])

    @property
    def is_conv(self) -> bool:
        """Whether it is a convolution."""
        return isinstance(self.module, nn.Conv1d | nn.Conv2d)

    @property
    def place(self) -> str:
        """The name as it is told to users."""
        return self.name or f"the module itself ({type(self.module).__name__})"


class Spec(NamedTuple):
    """The update of one target."""

    rank: int
    alpha: float
    form: Form
    parts: int = 1
    heads: int = 1


def adaptable(root: nn.Module) -> dict[str, Target]:
    """All Linear layers, convolutions of one and two dimensions and attention input projections, by module name."""
    found = {}
    for name, module in root.named_modules():
        parent = root.get_submodule(name.rpartition(".")[0]) if name else None
        leaf = name.rpartition(".")[2]
        if isinstance(module, nn.MultiheadAttention):
            found[name] = Target(name, module, "in_proj_weight", parts=3, raw=True)
        elif isinstance(module, nn.Linear):
            raw = isinstance(parent, nn.MultiheadAttention) and leaf == "out_proj"
            parts, heads = _fused(leaf, module, parent)
            found[name] = Target(name, module, "weight", parts, heads, raw)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            found[name] = Target(name, module, "weight")
    return found


def _fused(leaf: str, module: nn.Linear, parent: nn.Module | None) -> tuple[int, int]:
    """Parts and heads of a Linear by its name and, for DeBERTa v1, by the separate biases of its parent."""
    if leaf not in FUSED or module.out_features % 3:
        return 1, 1
    if leaf == "in_proj" and hasattr(parent, "q_bias") and hasattr(parent, "num_attention_heads"):
        return 3, cast(Any, parent).num_attention_heads
    return (3, 1) if leaf != "in_proj" or module.out_features == 3 * module.in_features else (1, 1)


def select(root: nn.Module, patterns: Patterns, rank: int, beside: Iterable[nn.Module]) -> list[Target]:
    """The targets meant by "attention" or by patterns of module names, in the order of the model.

    Raises:
        InputError: a pattern that matches no adaptable layer.
    """
    trained = {id(part) for top in beside for part in top.modules()}
    known = {name: target for name, target in adaptable(root).items() if id(target.module) not in trained}
    if isinstance(patterns, str) and patterns == "attention":
        found = [t for t in known.values() if _projects(t)]
        found = found or [t for t in known.values() if t.is_conv and rank % _groups(t) == 0]
        found = found or [t for t in known.values() if not t.is_conv]
        if not found:
            raise InputError(
                f"LoRA targets 'attention': {type(root).__name__} has no layer that projects to queries, keys and values, no "
                f"convolution whose groups divide rank {rank} and no linear layer; there are {_shortened(known)}"
            )
        return found
    names = matching(
        known, patterns, f"LoRA target in {type(root).__name__}", "Linear, Conv1d, Conv2d, MultiheadAttention"
    )
    return [known[name] for name in names]


def matching(known: Collection[str], patterns: Patterns, place: str, kinds: str) -> list[str]:
    """Names that any pattern means, in the order of `known`.

    A text with any of `*?[` is a glob over the whole name; another text is a name or, where there is no such name, the end
    of some after a dot ("query" means "layer.0.attention.query" too); a compiled regular expression must match the whole name.

    Raises:
        InputError: a pattern that matches nothing.
    """
    each = [patterns] if isinstance(patterns, str | re.Pattern) else list(patterns)
    if not each:
        raise InputError(f"{place}: no pattern is given; name layers, or say 'attention'")
    found: set[str] = set()
    for pattern in each:
        exact = isinstance(pattern, str) and pattern in known
        means = {name for name in known if (name == pattern if exact else _means(pattern, name))}
        if not means:
            shown = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
            close = nearest(shown.rpartition(".")[2], {name.rpartition(".")[2] for name in known})
            raise InputError(f"{place}: {shown!r} matches nothing; there are {_shortened(known)} ({kinds}){close}")
        found |= means
    return [name for name in known if name in found]


def _means(pattern: str | re.Pattern[str], name: str) -> bool:
    if isinstance(pattern, re.Pattern):
        return pattern.fullmatch(name) is not None
    if any(sign in pattern for sign in "*?["):
        return fnmatchcase(name, pattern)
    return name.endswith(f".{pattern}")


def _projects(target: Target) -> bool:
    leaf = target.name.rpartition(".")[2]
    return target.parts == 3 or (isinstance(target.module, nn.Linear) and leaf in PROJECTIONS)


def _groups(target: Target) -> int:
    return cast(nn.Conv2d, target.module).groups if target.is_conv else 1


def _shortened(names: Iterable[str], most: int = 8) -> str:
    """Names with their numbers as a star, the first few."""
    kinds = list(dict.fromkeys(re.sub(r"\b\d+\b", "*", name) for name in names if name))
    return (", ".join(kinds[:most]) + (f" and {len(kinds) - most} more" if len(kinds) > most else "")) or "none"


def spec_of(target: Target, rank: int, alpha: float, conv: Conv, fused: Literal["separate", "shared"]) -> Spec:
    """The update that a target gets by the settings of all."""
    if target.is_conv:
        return Spec(rank, alpha, conv)
    if fused == "shared":
        return Spec(rank, alpha, "linear")
    return Spec(rank, alpha, "linear", target.parts, target.heads)


def update_for(
    target: Target,
    spec: Spec,
    *,
    name: str,
    dropout: float,
    owners: Mapping[int, Sequence[str]],
    generator: torch.Generator | None,
) -> Update:
    """The update of a target, hung on nothing yet.

    Args:
        name: of the adapter.
        owners: names of every parameter of the model by its id, to tell a shared one.

    Raises:
        InputError: a layer that cannot carry it.
    """
    problem = _problem(target, spec, name) or _shared(target, owners)
    if problem:
        raise InputError(f"LoRA on {target.place}: {problem}")
    weight = target.weight
    if spec.form == "linear":
        return LinearUpdate(
            weight, spec.rank, spec.alpha, dropout, parts=spec.parts, heads=spec.heads, generator=generator
        )
    if spec.form == "kernel_times_channel":
        return KernelUpdate(weight, spec.rank, spec.alpha, dropout, generator=generator)
    return ConvUpdate(weight, spec.rank, spec.alpha, dropout, groups=_groups(target), generator=generator)


def _problem(target: Target, spec: Spec, name: str) -> str | None:
    """Why a target cannot carry an update; None if it can."""
    module, kind = target.module, type(target.module)
    if isinstance(module, nn.MultiheadAttention) and module._parameters.get("in_proj_weight") is None:
        return "it keeps queries, keys and values in three weights (kdim or vdim); only the fused weight can be adapted"
    if module._parameters.get(target.parameter) is None or is_parametrized(module, target.parameter):
        return f"its {target.parameter} is made from other parameters (weight norm?); leave it out of targets"
    there = module._modules.get("lora")
    if hasattr(module, "lora") and not isinstance(there, Updates):
        return "it has an attribute `lora` of its own; rename that"
    if isinstance(there, Updates) and (name in there or hasattr(there, name)):
        return f"it has an adapter {name!r} already; give another name, or remove that one"
    if not target.weight.is_floating_point():
        return f"its weight is {target.weight.dtype}, not floating point; adapt the model before it is quantised"
    if not target.raw and not _plain(kind):
        return f"{kind.__name__} computes more than a {_base(kind).__name__}, and what is merged would differ"
    out, inputs = target.weight.shape[:2]
    groups = _groups(target)
    if groups > 1 and spec.form == "kernel_times_channel":
        return f"its {groups} groups have no kernel-times-channel form; use conv='conv_then_1x1' or leave it out of targets"
    if spec.rank % groups:
        return f"rank {spec.rank} does not divide into its {groups} groups; use a multiple of that, or leave it out of targets"
    if spec.form == "kernel_times_channel" and target.weight.dim() == 4 and len(set(target.weight.shape[2:])) > 1:
        return f"a {'x'.join(map(str, target.weight.shape[2:]))} kernel is not square; use conv='conv_then_1x1'"
    if spec.form == "conv_then_1x1":
        inputs, out = target.weight[0].numel(), out // groups
    if spec.rank // groups > (most := min(inputs, out // spec.parts)):
        return (
            f"rank {spec.rank} is above {most * groups}, the most that its weight {tuple(target.weight.shape)} can use"
        )
    return None


def _plain(kind: type[nn.Module]) -> bool:
    """Whether a layer computes nothing but what its torch class does."""
    base = _base(kind)
    return kind.forward is base.forward or f"{kind.__module__}.{kind.__qualname__}" in ALSO_PLAIN


def _base(kind: type[nn.Module]) -> type[nn.Module]:
    return next(one for one in (nn.Linear, nn.Conv1d, nn.Conv2d) if issubclass(kind, one))


def _shared(target: Target, owners: Mapping[int, Sequence[str]]) -> str | None:
    names = owners.get(id(target.weight), ())
    if len(names) < 2:
        return None
    return f"its weight is shared ({', '.join(names)}), and merging would change every use; leave it out of targets"
