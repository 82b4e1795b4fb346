"""Any adapter in one safetensors file, without the encoders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from polymodal.adapters.base import Adapter
from polymodal.adapters.injected import Injected, check_state
from polymodal.adapters.lora.files import read_tensors, write_tensors
from polymodal.errors import InputError

__all__ = ["load_adapter", "save_adapter"]

FORMAT = "polymodal.adapter/1"


def save_adapter(adapter: Adapter, path: str | Path) -> None:
    """Write what an adapter trained, nothing else, to a safetensors file; `save_lora` does so for LoRA.

    The header holds the method's name and, for adapters that hang inside of encoders, a hash of those encoders' weights.

    Raises:
        InputError: the file cannot be written.
    """
    header = {"format": FORMAT, "method": type(adapter).__name__}
    if isinstance(adapter, Injected):
        header["encoders"] = adapter.fingerprint()
    write_tensors(Path(path), dict(_state(adapter)), {"polymodal": json.dumps(header)})


def load_adapter(adapter: Adapter, path: str | Path, *, same_weights: bool = True) -> None:
    """Give an adapter of the same kind and settings what a file holds.

    Args:
        adapter: made as the saved one was, for encoders of the same shapes.
        path: what `save_adapter` wrote.
        same_weights: of adapters that hang inside of encoders, require the very weights that it was trained in.

    Raises:
        InputError: no such file, a broken one, or one of another method or for other encoders; nothing is loaded then.
    """
    tensors, metadata = read_tensors(Path(path))
    try:
        header = json.loads(metadata["polymodal"])
        found, method = header["format"], header["method"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is no adapter that save_adapter wrote") from error
    if found != FORMAT:
        raise InputError(f"{path} has the format {found!r}; this version reads {FORMAT!r} (load_lora reads LoRA's)")
    if method != type(adapter).__name__:
        raise InputError(f"{path} holds {method}, and {type(adapter).__name__} was to be loaded; make that adapter")
    state = _state(adapter)
    check_state(state, tensors, str(path))
    if isinstance(adapter, Injected):
        if same_weights and header.get("encoders") != adapter.fingerprint():
            raise InputError(
                f"{path} was trained in encoders with other weights of the same shapes; load those, or pass same_weights=False "
                "if it is meant for these; nothing was loaded"
            )
        adapter.load_adapter_state(tensors)
    else:
        adapter.load_state_dict(tensors)


def _state(adapter: Adapter) -> Mapping[str, Tensor]:
    state: Mapping[str, Tensor] = adapter.adapter_state() if isinstance(adapter, Injected) else adapter.state_dict()
    return state
