"""How each golden record of LoRA is compared with the library: `CHECKS[record](inputs, expected, tol)`."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from polymodal.adapters import LoRA, inject_lora
from polymodal.adapters.lora.targets import Conv as ConvForm
from tests.golden.fusion_checks import Check, Record, close, every_key, tensor


def counted(actual: int, expected: float, tol: float) -> None:
    assert abs(actual - expected) <= tol, f"{actual} is not {expected}"


def adapted(layer: Any, inputs: Record, conv: ConvForm = "conv_then_1x1") -> LoRA:
    """LoRA in a layer with a record's weight and factors."""
    layer.load_state_dict({"weight": tensor(inputs["W"])})
    lora = inject_lora(layer, inputs["r"], alpha=inputs["alpha"], targets="*", conv=conv)
    lora.load_adapter_state({"lora_A": tensor(inputs["A"]), "lora_B": tensor(inputs["B"])})
    return lora


def linear_merge(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"y", "W_merged", "y_zero_B"})
    x, weight = tensor(inputs["x"]), tensor(inputs["W"])
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).double()
    lora = adapted(layer, inputs)
    close(layer(x), expected["y"], tol)
    lora.merge()
    close(layer.weight, expected["W_merged"], tol)
    close(layer(x), expected["y"], tol)
    lora.unmerge()
    state = lora.adapter_state()
    lora.load_adapter_state(state | {"lora_B": torch.zeros_like(state["lora_B"])})
    close(layer(x), expected["y_zero_B"], tol)


def convolution(form: ConvForm) -> Check:
    def check(inputs: Record, expected: Record, tol: float) -> None:
        every_key(expected, {"y", "delta_W"})
        x, weight = tensor(inputs["x"]), tensor(inputs["W"])
        out, channels, *kernel = weight.shape
        layer = nn.Conv2d(
            channels, out, (kernel[0], kernel[1]), inputs["stride"], inputs["padding"], bias=False
        ).double()
        lora = adapted(layer, inputs, form)
        close(layer(x), expected["y"], tol)
        lora.merge()
        close(layer.weight - weight, expected["delta_W"], tol)
        close(layer(x), expected["y"], tol)

    return check


FORMS: dict[str, ConvForm] = {"conv_then_1x1": "conv_then_1x1", "channel_kernel": "kernel_times_channel"}


def conv_param_counts(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, set(FORMS))
    for key, form in FORMS.items():
        layer = nn.Conv2d(inputs["inp"], inputs["out"], inputs["k"], device="meta")
        counted(inject_lora(layer, inputs["r"], targets="*", conv=form).counts().trainable, expected[key], tol)


def resnet18_r1_totals(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"n_convs", *FORMS})
    for key, form in FORMS.items():
        net = nn.Sequential(*(nn.Conv2d(i, o, k, device="meta") for o, i, k in inputs["convs"]))
        lora = inject_lora(net, rank=1, conv=form)
        counted(len(lora.layers), expected["n_convs"], tol)
        counted(lora.counts().trainable, expected[key], tol)


def transformer_qkv_r1_totals(inputs: Record, expected: Record, tol: float) -> None:
    found = transformer_counts()
    every_key(expected, set(found))
    for key, value in expected.items():
        counted(found[key], value, tol)


@cache
def transformer_counts() -> dict[str, int]:
    return {
        "vit_b_12x768": trainable(vit("vit_base_patch16_224")),
        "vit_l_24x1024": trainable(vit("vit_large_patch14_224")),
        "bert_base": trainable(bert()),
        "deberta_large_qkv_only": trainable(deberta()),
        "deberta_large_fused_in_proj_single": trainable(deberta(), fused="shared"),
    }


def trainable(model: nn.Module, **settings: Any) -> int:
    return inject_lora(model, rank=1, **settings).counts().trainable


def vit(name: str) -> nn.Module:
    import timm

    with torch.device("meta"):
        return timm.create_model(name)


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        return BertModel(BertConfig())


def deberta() -> nn.Module:
    from transformers import DebertaConfig, DebertaModel

    config = DebertaConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
        relative_attention=True, pos_att_type=["c2p", "p2c"],
    )  # fmt: skip
    with torch.device("meta"):
        return DebertaModel(config)


def deberta_v1_in_proj_row_map(inputs: Record, expected: Record, tol: float) -> None:
    """Rows of the weight that change when only one part's B is not zero."""
    from transformers import DebertaConfig
    from transformers.models.deberta.modeling_deberta import DisentangledSelfAttention

    every_key(expected, {"q_rows", "k_rows", "v_rows"})
    heads, width = inputs["heads"], inputs["heads"] * inputs["head_dim"]
    attention = DisentangledSelfAttention(DebertaConfig(hidden_size=width, num_attention_heads=heads)).double()
    lora = inject_lora(attention)
    before = attention.in_proj.weight.clone()
    for part, key in enumerate(("q_rows", "k_rows", "v_rows")):
        b = torch.zeros(3, width, 1, dtype=torch.float64)
        b[part] = 1
        lora.load_adapter_state(
            {"in_proj.lora_A": torch.ones(3, width, dtype=torch.float64), "in_proj.lora_B": b.view(-1, 1)}
        )
        lora.merge()
        changed = (attention.in_proj.weight - before).abs().amax(1) > 0.5
        close(changed.nonzero().flatten().double(), expected[key], tol)
        lora.unmerge()


CHECKS: dict[str, Check] = {
    "lora/linear_merge": linear_merge,
    "lora/conv2d_kernel_times_channel_form": convolution("kernel_times_channel"),
    "lora/conv2d_conv_then_1x1_form": convolution("conv_then_1x1"),
    "lora/conv_param_counts": conv_param_counts,
    "lora/resnet18_r1_totals": resnet18_r1_totals,
    "lora/transformer_qkv_r1_totals": transformer_qkv_r1_totals,
    "lora/deberta_v1_in_proj_row_map": deberta_v1_in_proj_row_map,
}
