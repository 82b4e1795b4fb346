"""An adapter in one safetensors file: what was trained, with its settings and the model it belongs to in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from polymodal.adapters.lora.handle import LoRA, put_in
from polymodal.adapters.lora.plan import prepare
from polymodal.adapters.lora.targets import Spec, Target, adaptable
from polymodal.errors import InputError
from polymodal.run import write_atomically

__all__ = ["load_lora", "read_tensors", "save_lora", "write_tensors"]

FORMAT = "polymodal.lora/1"


def save_lora(lora: LoRA, path: str | Path) -> None:
    """Write what an adapter trained, nothing else, to a safetensors file.

    Its header holds rank, alpha and form of every layer, the modules trained beside, and a hash of the original weights of
    the adapted layers.

    Raises:
        InputError: the file cannot be written.
    """
    layers = {name: layer.spec._asdict() | {"shape": list(layer.update.shape)} for name, layer in lora.layers.items()}
    header = {
        "format": FORMAT,
        "name": lora.name,
        "dropout": lora.plan.dropout,
        "layers": layers,
        "modules_to_save": list(lora.saved),
        "fingerprint": lora.plan.fingerprint(),
    }
    write_tensors(Path(path), lora.adapter_state(), {"polymodal": json.dumps(header)})


def load_lora(module: nn.Module, path: str | Path, *, name: str | None = None, same_weights: bool = True) -> LoRA:
    """Put the adapter of a file into a model of the kind it was trained in.

    Args:
        module: the plain model, or one with other adapters.
        path: what `save_lora` wrote.
        name: of the adapter; as it was saved by default.
        same_weights: require the very weights that it was trained on. Without, an adapter also goes onto, say, a model of
            another precision, or one that was fine-tuned further.

    Raises:
        InputError: no such file, a broken one, or one that belongs to another model; the module is as it was.
    """
    tensors, metadata = read_tensors(Path(path))
    header = _header(metadata, path)
    found = adaptable(module)
    specs: dict[str, tuple[Target, Spec]] = {}
    for key, one in header["layers"].items():
        shape = tuple(one["shape"])
        if key not in found or tuple(getattr(found[key].weight, "shape", ())) != shape:
            here = "is missing" if key not in found else f"has {tuple(getattr(found[key].weight, 'shape', ()))}"
            raise InputError(
                f"{path} belongs to another model: it adapts {key or 'the module itself'} with a weight {shape}, which {here} in "
                f"this {type(module).__name__}; nothing was loaded"
            )
        specs[key] = (found[key], Spec(**{field: one[field] for field in Spec._fields}))
    parts = dict(module.named_modules())
    absent = [key for key in header["modules_to_save"] if key not in parts]
    if absent:
        raise InputError(
            f"{path} belongs to another model: this {type(module).__name__} has no {absent}; nothing was loaded"
        )
    plan = prepare(
        module,
        specs,
        name=name or header["name"],
        dropout=header["dropout"],
        saved={key: parts[key] for key in header["modules_to_save"]},
    )
    plan.check(tensors, str(path))
    if same_weights and plan.fingerprint() != header["fingerprint"]:
        raise InputError(
            f"{path} was trained on other weights of the same shapes; load those, or pass same_weights=False if it is meant for "
            "these; nothing was loaded"
        )
    lora = put_in(plan)
    lora.load_adapter_state(tensors)
    return lora


def _header(metadata: dict[str, str], path: str | Path) -> dict[str, Any]:
    try:
        header = json.loads(metadata["polymodal"])
        if header["format"] != FORMAT:
            raise InputError(f"{path} has the format {header['format']!r}; this version reads {FORMAT!r}")
        for one in header["layers"].values():
            Spec(**{field: one[field] for field in Spec._fields}), one["shape"]
        {key: header[key] for key in ("name", "dropout", "modules_to_save", "fingerprint")}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} is no adapter that polymodal saved (its header lacks what save_lora writes); HF peft's folders are read by "
            "import_peft"
        ) from error
    return cast("dict[str, Any]", header)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and a text header as safetensors; with one entry the same always gives the same bytes."""
    from safetensors.torch import save_file

    with write_atomically(path) as temporary:
        plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(plain, temporary, metadata=metadata)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file.

    Raises:
        InputError: no such file, or not a whole one.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path}: no such file; name the file of a saved adapter")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise InputError(f"{path} is truncated or no safetensors file ({error}); save the adapter again") from error
