"""Local files of pre-trained weights: read without running code, and loaded as a whole or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import InputError

__all__ = ["inflate_channels", "load_strictly", "locate", "read_weights"]

HUB = "hub:"
LISTED = 8


def locate(place: str | Path, files: Sequence[str] = ()) -> Path:
    """The local path of `place`; only one that begins with "hub:" is ever downloaded.

    Args:
        place: a path, "hub:OWNER/REPOSITORY/FILE" for a file, or "hub:OWNER/REPOSITORY" for a folder; "@REVISION" may
            follow the repository.
        files: patterns of what is downloaded for a folder.

    Raises:
        InputError: the hub's client is not installed, or the download failed.
    """
    if not str(place).startswith(HUB):
        return Path(place).expanduser()
    owner, _, rest = str(place).removeprefix(HUB).partition("/")
    repository, _, file = rest.partition("/")
    repository, _, revision = repository.partition("@")
    if not owner or not repository:
        raise InputError(f"{place}: write hub:OWNER/REPOSITORY, or hub:OWNER/REPOSITORY/FILE for one file")
    try:
        import huggingface_hub as hub
    except ImportError:
        raise InputError(f"{place}: downloading needs pip install 'polymodal[hub]'") from None
    name = f"{owner}/{repository}"
    try:
        if file:
            return Path(hub.hf_hub_download(name, file, revision=revision or None))
        return Path(hub.snapshot_download(name, revision=revision or None, allow_patterns=list(files) or None))
    except (OSError, ValueError) as error:
        raise InputError(f"{place}: cannot be downloaded ({error}); give a local path") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a torch file; nothing that the file says is run.

    A state dict that stands under "state_dict" in a checkpoint is taken out, and the "module." of a wrapped model dropped.

    Raises:
        InputError: no such file, a truncated one, one that holds pickled code or other things than tensors.
    """
    if not path.is_file():
        raise InputError(f"weights {path}: no such file; put it there or name another local file")
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    if isinstance(tensors, Mapping) and isinstance(tensors.get("state_dict"), Mapping):
        tensors = tensors["state_dict"]
    if not isinstance(tensors, Mapping) or not tensors or not all(isinstance(one, Tensor) for one in tensors.values()):
        raise InputError(f"weights {path}: expected tensors by name (a state dict), found {_what(tensors)}")
    wrapped = all(name.startswith("module.") for name in tensors)
    return {name.removeprefix("module.") if wrapped else name: one for name, one in tensors.items()}


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"weights {path}: truncated, or no safetensors file ({error}); fetch it again") from error


def _torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "nsupported" in str(error):
            raise InputError(
                f"weights {path}: the file holds pickled code, which is never run; save its state dict alone with "
                "torch.save(model.state_dict(), ...) or as safetensors"
            ) from error
        raise InputError(f"weights {path}: truncated, or no torch file; fetch it again") from error
    except (EOFError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"weights {path}: truncated, or no file of weights ({str(error).splitlines()[0] if str(error) else 'empty'}); "
            "fetch it again"
        ) from error


def _what(found: Any) -> str:
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__}"
    strange = [str(name) for name, one in found.items() if not isinstance(one, Tensor)]
    return f"entries {_listed(strange)} that are no tensors" if found else "nothing"


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy `tensors` into `module`, all of them or none.

    BatchNorm's counters of batches, which old files lack, may be missing.

    Raises:
        InputError: names that are missing or unexpected, or shapes that differ, with a list of them.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in own]
    shapes = [
        f"{name} is {tuple(one.shape)}, expected {tuple(own[name].shape)}"
        for name, one in tensors.items()
        if name in own and own[name].shape != one.shape
    ]
    parts = [f"{what} {_listed(names)}" for what, names in (("missing", missing), ("unexpected", unexpected)) if names]
    parts += [_listed(shapes)] if shapes else []
    if parts:
        raise InputError(f"weights {source} do not fit {type(module).__name__}, nothing was loaded: {'; '.join(parts)}")
    module.load_state_dict({**own, **tensors})


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def without(tensors: Mapping[str, Tensor], prefixes: Iterable[str]) -> dict[str, Tensor]:
    """The tensors whose names begin with none of the prefixes."""
    dropped = tuple(prefixes)
    return {name: one for name, one in tensors.items() if not name.startswith(dropped)} if dropped else dict(tensors)


def inflate_channels(weight: Tensor, channels: int, how: str = "average") -> Tensor:
    """First convolution (D, 3, k, k) of RGB pictures for another number of channels C: (D, C, k, k).

    "average" gives every channel the mean over R, G and B; "repeat" deals R, G, B, R, ... out to the channels. Both are
    scaled by 3 / C, so that C equal channels give what three gave. One channel gets the sum either way.

    Raises:
        InputError: `how` is neither.

    Source: Wang et al. 2016 (temporal segment networks), section 3.2, "cross modality pre-training"; the scale is timm's.

    Example:
        >>> inflate_channels(torch.ones(1, 3, 1, 1), 2).flatten().tolist()
        [1.5, 1.5]
    """
    if how not in ("average", "repeat"):
        raise InputError(f"inflate={how!r}; expected 'average' or 'repeat'")
    if weight.shape[1] != 3 or channels == 3:
        return weight
    if how == "average" or channels == 1:
        return weight.sum(1, keepdim=True).div(channels).repeat(1, channels, 1, 1)
    return weight.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
