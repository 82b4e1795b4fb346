"""How each golden record of adapters is compared with the library: `CHECKS[record](inputs, expected, tol)`."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from polymodal.adapters import MBT, PMF, MaPLe, PTuning, PTuningV2
from polymodal.adapters.aurora import aurora_core, aurora_update
from polymodal.adapters.bottleneck import next_bottleneck
from polymodal.adapters.houlsby import HoulsbyLayer
from polymodal.adapters.mmbt import mmbt_ids
from polymodal.adapters.uniadapter import Affine, crossmodal_update, narrowed, unimodal_update
from polymodal.encoders import Bert, LayeredEncoder, SequenceTransformer, linear_heads
from polymodal.encoders.base import State
from tests.golden.fusion_checks import Check, Record, close, every_key, fill, tensor
from tests.golden.lora_checks import counted

FOOD101 = 101


def size(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def houlsby_adapter(inputs: Record, expected: Record, tol: float) -> None:
    for key, value in expected.items():
        sizes = re.fullmatch(r"n_params_(\d+)_(\d+)", key)
        if sizes:
            width, down = map(int, sizes.groups())
            with torch.device("meta"):
                counted(size(HoulsbyLayer(width, down)), value, tol)
            continue
        activation = {"y_gelu_tanh": "gelu", "y_relu": "relu"}.get(key)
        assert activation, f"nothing computes {key}"
        down, width = len(inputs["Wd"]), len(inputs["Wu"])
        layer = HoulsbyLayer(width, down, activation).double()
        fill(layer.down, inputs["Wd"], inputs["bd"])
        fill(layer.up, inputs["Wu"], inputs["bu"])
        close(layer(tensor(inputs["x"])), value, tol)


def aurora_delta(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"core", "delta"})
    x, u, v, c, p = (tensor(inputs[key]) for key in ("x", "U", "V", "C", "p"))
    core = aurora_core(c, p)
    close(core, expected["core"], tol)
    close(aurora_update(x, u, core, v), expected["delta"], tol)


def uniadapter(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"text", "multimodal"})
    down, text, multi = (
        Affine(tensor(inputs[weight]), tensor(inputs[bias]))
        for weight, bias in (("Wd", "bd"), ("W_up_text", "b_up_text"), ("W_up_multi", "b_up_multi"))
    )
    z = narrowed(tensor(inputs["x"]), down)
    close(unimodal_update(z, text, inputs["scale"]), expected["text"], tol)
    close(crossmodal_update(z, multi, text, inputs["scale"]), expected["multimodal"], tol)


def shallow(width: int, depth: int) -> LayeredEncoder:
    return SequenceTransformer(1, width, depth, heads=1)


def bert_base(width: int) -> LayeredEncoder:
    return Bert(config={"hidden_size": width, "num_attention_heads": 1, "intermediate_size": 1, "vocab_size": 2})


def counted_parameters(key: str, width: int) -> Any:
    """Trainable parameters of the setting that a record's key names, tokens of `width` where it names none."""
    numbers = [int(one) for one in re.findall(r"\d+", key)]
    if key in ("pmf", "pmf_total"):
        dims = {"image": width, "text": width}
        pmf = PMF(dims, last=2)
        heads = linear_heads({m: shallow(dim, 1) for m, dim in dims.items()}, FOOD101)
        found = {"prompts": size(pmf.prompts), "maps": size(pmf.maps), "heads": size(heads)}
        assert size(pmf) == found["prompts"] + found["maps"]
        return found if key == "pmf" else size(nn.ModuleList([pmf, heads]))
    if re.fullmatch(r"maple_n\d+_depth\d+_\d+to\d+", key):
        tokens, depth, first, second = numbers
        return size(MaPLe({"text": shallow(first, depth), "image": shallow(second, depth)}, tokens, depth))
    if re.fullmatch(r"ptuning_v2_len\d+_bert_base", key):
        return size(PTuningV2(bert_base(width), numbers[1]))
    assert re.fullmatch(r"ptuning_v1_len\d+_\d+", key), f"nothing computes {key}"
    return size(PTuning(shallow(numbers[2], 1), numbers[1]))


def param_counts(inputs: Record, expected: Record, tol: float) -> None:
    assert expected
    with torch.device("meta"):
        for key, wanted in expected.items():
            found = counted_parameters(key, inputs["D"])
            if isinstance(wanted, dict):
                every_key(wanted, set(found))
                for part, value in wanted.items():
                    counted(found[part], value, tol)
            else:
                counted(found, wanted, tol)


def mbt_bottleneck_update(inputs: Record, expected: Record, tol: float) -> None:
    """The rule alone, and the adapter between two layers."""
    every_key(expected, {"next_bottleneck"})
    found = {key.removeprefix("bottleneck_after_"): tensor(value) for key, value in inputs.items()}
    close(next_bottleneck(found), expected["next_bottleneck"], tol)
    _, tokens, width = next(iter(found.values())).shape
    mbt = MBT(dict.fromkeys(found, width), last=2, tokens=tokens).double()
    own = torch.zeros(1, 1, width, dtype=torch.float64)
    states = mbt.between(
        0, {m: State(torch.cat([x, own.expand(len(x), -1, -1)], 1), extra=tokens) for m, x in found.items()}
    )
    for state in states.values():
        close(state.extras(), expected["next_bottleneck"], tol)


def mmbt(inputs: Record, expected: Record, tol: float) -> None:
    ids = mmbt_ids(inputs["n_image_embeds"], inputs["text_tokens"])
    every_key(expected, {*ids._fields, "total_length"})
    for key in ids._fields:
        close(getattr(ids, key).double(), expected[key], tol)
    counted(ids.total_length, expected["total_length"], tol)


CHECKS: dict[str, Check] = {
    "peft/houlsby_adapter": houlsby_adapter,
    "peft/aurora_delta": aurora_delta,
    "peft/uniadapter": uniadapter,
    "peft/param_counts": param_counts,
    "fusion/mbt_bottleneck_update": mbt_bottleneck_update,
    "fusion/mmbt_ids": mmbt,
}
