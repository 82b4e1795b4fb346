"""Method names: entries of a package's `__all__` typed in any case, or dotted paths that a user types."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from polymodal.errors import InputError

__all__ = [
    "bind",
    "build",
    "check_modalities",
    "dotted",
    "entries",
    "modality_problem",
    "nearest",
    "resolve",
    "typed_name",
]

KINDS = {
    "recipes": "a recipe: --recipe {}",
    "balancers": "a balancer: --balancer {}",
    "fusion": "a fusion: --fusion {}",
    "adapters": "an adapter: --recipe adapter recipe.method={}",
}
"""Packages of methods, and how one of them is chosen."""

RETRIEVAL = "fusion.retrieval"
"""Fusions that make pairs of embeddings; they are named as other fusions are, and suit the task retrieval alone."""

NOT_METHODS = {
    RETRIEVAL: {"Pairing"},
    "adapters": {
        "Adapter",
        "Frozen",
        "JointHead",
        "MMBT",
        "MMBTText",
        "export_peft",
        "freeze",
        "import_peft",
        "inject_lora",
        "insert",
        "load_adapter",
        "load_lora",
        "lora_adapters",
        "save_adapter",
        "save_lora",
        "set_active",
    },
    "balancers": {"Balancer", "UMT"},
    "fusion": {"Fusion"},
    "encoders": {"Encoder", "LayeredEncoder", "State", "linear_heads"},
}
"""Entries of a package that are no method to name: bases, helpers, UMT and MMBT, which their
recipes build."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The most similar known name as the end of a sentence, or an empty text."""
    found = list(known)
    close = difflib.get_close_matches(name, found, n=1) or [one for one in found if one.lower() == name.lower()]
    return f"; did you mean {close[0]!r}?" if close else ""


def modality_problem(name: str) -> str | None:
    """Why a model cannot have a modality of this name; None if it can."""
    if not name:
        return "a modality needs a name"
    if "." in name:
        return f"the name {name!r} has a dot, which separates the parts of a model"
    return f"the name {name!r} is taken by torch" if name in _taken() else None


@cache
def _taken() -> frozenset[str]:
    from torch import nn

    return frozenset(dir(nn.ModuleDict())) | frozenset(dir(nn.ParameterDict()))


def check_modalities(modalities: Iterable[str]) -> None:
    """Raise `InputError` for a modality name that a model cannot have, or where there is none."""
    names = list(modalities)
    problem = "there is no modality" if not names else next(filter(None, map(modality_problem, names)), None)
    if problem:
        raise InputError(f"{problem}; name modalities by plain words, such as audio and video")


def typed_name(entry: str) -> str:
    """How a class's name is typed: `MultiLoss` -> "multi_loss", `OGM_GE` -> "ogm_ge".

    Example:
        >>> [typed_name(name) for name in ("MultiLoss", "OGM_GE", "ResNet18", "ImageCNN", "MaPLe")]
        ['multi_loss', 'ogm_ge', 'resnet18', 'image_cnn', 'maple']
    """
    fixed = {
        "FiLM": "film",
        "MoEE": "moee",
        "ResNet": "resnet",
        "ResNet18": "resnet18",
        "ViT": "vit",
        "EfficientNet": "efficientnet",
        "ImageBindAudio": "imagebind_audio",
        "Wav2Vec2": "wav2vec2",
        "LoRA": "lora",
        "MaPLe": "maple",
        "PTuning": "ptuning",
        "PTuningV2": "ptuning_v2",
        "UniAdapter": "uniadapter",
    }
    if entry in fixed:
        return fixed[entry]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", entry).lower()


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def entries(package: str, *, bases: Collection[str] = ()) -> dict[str, Any]:
    """The public classes and functions of `polymodal.<package>` by the name one types, without its base classes."""
    module = importlib.import_module(f"polymodal.{package}")
    found = {}
    for entry in module.__all__:
        value = getattr(module, entry)
        hidden = entry in bases or entry in NOT_METHODS.get(package, ())
        if not hidden and (inspect.isclass(value) or inspect.isfunction(value)):
            found[typed_name(entry)] = value
    return found


def resolve(package: str, name: str, *, bases: Collection[str] = (), trust: Collection[str] | None = None) -> Any:
    """The class or function of that name.

    Args:
        package: e.g. "balancers".
        name: an entry of the package, in any case and with or without underscores, or "module.Name" outside it.
        trust: modules outside polymodal that may be imported; None where the user typed the name just now.

    Raises:
        InputError: an unknown name, a module that is not trusted, or one without that attribute.
    """
    if "." in name:
        return _outside(name, trust)
    known = entries(package, bases=bases) | (entries(RETRIEVAL) if package == "fusion" else {})
    for typed, value in known.items():
        if _key(typed) == _key(name):
            return value
    kind = package.rstrip("s")
    for other, how in KINDS.items():
        if other != package and any(_key(typed) == _key(name) for typed in entries(other)):
            raise InputError(f"{name!r} is no {kind} but {how.format(name)}")
    raise InputError(
        f"{kind} {name!r} is unknown{nearest(name.lower(), known)}; there are {', '.join(sorted(known))}, "
        "or a dotted path such as my_module.MyClass"
    )


def _outside(name: str, trust: Collection[str] | None) -> Any:
    module, _, attribute = name.rpartition(".")
    inside = module == "polymodal" or module.startswith("polymodal.")
    if trust is not None and not inside and not any(module == t or module.startswith(f"{t}.") for t in trust):
        raise InputError(f"this run uses {name}, from outside polymodal; if you trust that code add --trust {module}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{name}: module {module!r} cannot be imported ({error}); is it in {here} or installed?"
        ) from error
    if not hasattr(found, attribute):
        raise InputError(f"{name}: module {module!r} has no {attribute!r}{nearest(attribute, dir(found))}")
    return getattr(found, attribute)


def dotted(value: Any) -> str:
    """The dotted path of a class or function."""
    return f"{value.__module__}.{value.__qualname__}"


def bind(
    make: Callable[..., Any], arguments: Mapping[str, Any], given: Mapping[str, Any], place: str
) -> dict[str, Any]:
    """The keyword arguments of `make(**given, **arguments)`, with arguments that it lacks told by name.

    Args:
        make: class or function.
        arguments: what the user set.
        given: what the library adds; names that `make` does not take are left out.
        place: the configuration key, for the error.

    Raises:
        InputError: an unknown argument (with the nearest valid one), or one that the library sets.
    """
    signature = inspect.signature(make)
    takes = [p.name for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    anything = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if anything and inspect.isclass(make):
        for parent in make.__mro__[1:-1]:
            if parent.__module__.startswith("polymodal."):
                takes += [
                    n for n in inspect.signature(parent).parameters if n not in ("self", "options", "args", "kwargs")
                ]
        anything = not make.__module__.startswith("polymodal.")
    for name in arguments:
        if name in given:
            raise InputError(f"{place}.{name}: set by the library from the data")
        if name not in takes and not anything:
            own = [t for t in takes if t not in given]
            raise InputError(f"{place}.{name}: {make.__name__} has no such setting{nearest(name, own)}; it has {own}")
    return {name: value for name, value in given.items() if name in takes} | dict(arguments)


def build(make: Callable[..., Any], arguments: Mapping[str, Any], given: Mapping[str, Any], place: str) -> Any:
    """What a constructor makes of `bind`'s arguments.

    Raises:
        InputError: as `bind`; also a missing argument, or a value that the constructor refuses.
    """
    bound = bind(make, arguments, given, place)
    try:
        return make(**bound)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{place}: {make.__name__}({_shown(arguments)}): {error}") from error


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
