"""HF peft's folder of an adapter: `adapter_config.json` and `adapter_model.safetensors`, written and read without peft."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from polymodal.adapters.lora.files import read_tensors, write_tensors
from polymodal.adapters.lora.handle import LoRA, put_in
from polymodal.adapters.lora.plan import Layer, prepare
from polymodal.adapters.lora.targets import Spec, Target, adaptable
from polymodal.adapters.lora.updates import LinearUpdate
from polymodal.errors import InputError
from polymodal.run import write_atomically

__all__ = ["export_peft", "import_peft"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
"""peft's `init_lora_weights` that leave the base weights alone."""


def export_peft(lora: LoRA, folder: str | Path) -> None:
    """Write an adapter as HF peft reads it: `PeftModel.from_pretrained(plain_model, folder)` computes the same.

    A fused weight with an update of rank r for each of Q, K and V becomes one of rank 3 r with a block-diagonal B, and its
    alpha 3 alpha, which is exactly equal.

    Raises:
        InputError: a layer to which peft gives another meaning; nothing is written.
    """
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for name, layer in lora.layers.items():
        problem = _peft_problem(layer.target, layer.spec) or (
            "it is the model itself, without a name" if not name else ""
        )
        if problem:
            raise InputError(f"LoRA on {layer.target.place} cannot be written for HF peft: {problem}")
        a, b = _as_peft(layer)
        ranks[name], alphas[name] = a.shape[0], layer.update.scale * a.shape[0]
        tensors |= {f"{PREFIX}{name}.lora_A.weight": a, f"{PREFIX}{name}.lora_B.weight": b}
    own = {f"{name}.lora_{factor}" for name in lora.layers for factor in "AB"}
    tensors |= {f"{PREFIX}{key}": value for key, value in lora.adapter_state().items() if key not in own}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": lora.plan.dropout,
        "target_modules": list(ranks),
        "modules_to_save": list(lora.saved) or None,
        "rank_pattern": {name: one for name, one in ranks.items() if one != rank},
        "alpha_pattern": {name: one for name, one in alphas.items() if one != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
    }
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    with write_atomically(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _peft_problem(target: Target, spec: Spec) -> str | None:
    """Why peft computes something else on this layer; None if it does not."""
    if target.raw:
        return (
            "peft adapts a MultiheadAttention's input projection with one A for all three, always together with the output "
            "projection, to which peft 0.21 adds the update twice"
        )
    if spec.form == "kernel_times_channel":
        return "peft's convolutions are a k x k and then a 1 x 1 one (conv='conv_then_1x1'), which is not of this form"
    if target.is_conv:
        conv = cast(nn.Conv2d, target.module)
        if conv.groups > 1:
            return f"its {conv.groups} groups: peft's update of a grouped convolution sees all channels"
        if set(conv.dilation) != {1} or conv.padding_mode != "zeros":
            return f"peft drops its dilation {conv.dilation} and padding mode {conv.padding_mode!r}"
    return None


def _as_peft(layer: Layer) -> tuple[Tensor, Tensor]:
    """The two weights that peft keeps for a layer."""
    a, b = layer.update.A.detach(), layer.update.B.detach()
    if layer.spec.parts == 1:
        return a, b
    stacked: Tensor = torch.block_diag(  # type: ignore[no-untyped-call]
        *b.view(layer.spec.parts, -1, layer.spec.rank)
    )
    return a, cast(LinearUpdate, layer.update).in_place(stacked)


def import_peft(module: nn.Module, folder: str | Path, *, name: str = "default") -> LoRA:
    """Put an adapter that HF peft saved into the plain model.

    A fused weight keeps peft's one update for all of it.

    Args:
        module: what peft calls the base model.
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        name: of the adapter.

    Raises:
        InputError: a missing or broken file, a variant of LoRA that changes more than W + scale B A, or an adapter of
            another model; the module is as it was.
    """
    folder = Path(folder)
    config = _config(folder / CONFIG)
    raw, _ = read_tensors(folder / WEIGHTS)
    foreign = [key for key in raw if not key.startswith(PREFIX)]
    if foreign:
        raise InputError(
            f"{folder / WEIGHTS}: {foreign[0]!r} does not begin with {PREFIX!r}; no file of HF peft's LoRA?"
        )
    tensors = {_own_name(key): value for key, value in raw.items()}
    known = adaptable(module)
    specs: dict[str, tuple[Target, Spec]] = {}
    for key, a in tensors.items():
        layer, _, factor = key.rpartition(".")
        if factor != "lora_A":
            continue
        if layer not in known:
            raise InputError(
                f"{folder} belongs to another model: it adapts {layer}, which this {type(module).__name__} lacks (or which is no "
                "Linear, Conv1d or Conv2d); nothing was loaded"
            )
        specs[layer] = (known[layer], _spec(known[layer], config, layer, a.shape[0]))
    if not specs:
        raise InputError(f"{folder / WEIGHTS} holds no LoRA of a Linear, Conv1d or Conv2d; nothing was loaded")
    beside = config.get("modules_to_save") or []
    saved = {
        part: found
        for part, found in module.named_modules()
        if any(part == one or part.endswith(f".{one}") for one in beside)
        and any(key.startswith(f"{part}.") for key in tensors)
    }
    plan = prepare(module, specs, name=name, dropout=float(config.get("lora_dropout", 0.0)), saved=saved)
    plan.check(tensors, str(folder))
    lora = put_in(plan)
    lora.load_adapter_state(tensors)
    return lora


def _own_name(key: str) -> str:
    """A tensor's name here by its name in peft's file."""
    plain = key.removeprefix(PREFIX).replace(".base_layer.", ".")
    return re.sub(r"\.lora_([AB])\.weight$", r".lora_\1", plain)


def _spec(target: Target, config: Mapping[str, Any], layer: str, rank: int) -> Spec:
    alpha = next(
        (one for key, one in (config.get("alpha_pattern") or {}).items() if re.match(rf"(.*\.)?({key})$", layer)),
        config.get("lora_alpha", 8),
    )
    if config.get("use_rslora"):
        alpha *= math.sqrt(rank)
    spec = Spec(rank, alpha, "conv_then_1x1" if target.is_conv else "linear")
    problem = _peft_problem(target, spec)
    if problem:
        raise InputError(f"LoRA on {target.place} cannot be read from HF peft: {problem}")
    return spec


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name the folder that HF peft saved an adapter to") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not whole JSON ({error}); save the adapter again") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise InputError(f"{path}: peft_type is {kind!r}; only 'LORA' can be read")
    for key in (
        "use_dora",
        "lora_bias",
        "fan_in_fan_out",
        "target_parameters",
        "trainable_token_indices",
        "layer_replication",
    ):
        if config.get(key):
            raise InputError(f"{path}: {key} is set, which is more than W + scale B A; such an adapter cannot be read")
    if config.get("bias", "none") != "none":
        raise InputError(f"{path}: bias={config['bias']!r} changes biases too; only 'none' can be read")
    if config.get("init_lora_weights") not in PLAIN_STARTS:
        raise InputError(
            f"{path}: init_lora_weights={config['init_lora_weights']!r} changes the base weights; convert it with peft first"
        )
    return config
