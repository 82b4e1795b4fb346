"""What LoRA refuses: one clear error each, and the module as it was."""

import re
from typing import Any

import pytest
import torch
from torch import nn

from polymodal.adapters import inject_lora, lora_adapters, set_active
from polymodal.errors import InputError
from tests.adapters.models import SelfAttention, vit
from tests.adapters.test_lora import layout, same, values


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.query = nn.Linear(4, 7, bias=False)
        self.query.weight = self.embed.weight


class Own(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight / self.weight.norm(), self.bias)


def integer():
    layer = nn.Linear(3, 3).requires_grad_(False)
    layer.weight = nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False)
    return nn.Sequential(layer)


def conv(**settings):
    return nn.Sequential(nn.Linear(3, 3), nn.Conv2d(4, 6, 3, **settings))


def normed():
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))


CASES: dict[str, tuple[nn.Module, dict[str, Any], str]] = {
    "rank above the layer": (nn.Sequential(nn.Linear(8, 3)), {"rank": 4, "targets": "0"}, "LoRA on 0: rank 4 is above 3"),
    "rank above each of q, k, v": (SelfAttention(), {"rank": 9}, "LoRA on attn: rank 9 is above 8"),
    "rank above a kernel": (conv(), {"rank": 7, "targets": "1"}, "LoRA on 1: rank 7 is above 6"),
    "rank 0": (SelfAttention(), {"rank": 0}, "LoRA rank=0; a whole number of at least 1"),
    "rank 1.5": (SelfAttention(), {"rank": 1.5}, "LoRA rank=1.5"),
    "alpha 0": (SelfAttention(), {"alpha": 0}, "LoRA alpha=0"),
    "alpha nan": (SelfAttention(), {"alpha": float("nan")}, "LoRA alpha=nan"),
    "dropout 1": (SelfAttention(), {"dropout": 1.0}, "LoRA dropout=1.0; a probability"),
    "unknown form": (conv(), {"conv": "kernel"}, "LoRA conv='kernel'; it is one of"),
    "unknown fusing": (conv(), {"fused": "share"}, "did you mean 'shared'?"),
    "nothing matches": (
        vit().model,
        {"targets": ["qkv", "quary"]},
        "'quary' matches nothing; there are patch_embed.proj, blocks.*.attn.qkv, blocks.*.attn.proj, blocks.*.mlp.fc1, "
        "blocks.*.mlp.fc2, head (Linear,",
    ),
    "a slip": (vit().model, {"targets": "atn.qkv"}, "MultiheadAttention); did you mean 'qkv'?"),
    "no pattern": (vit().model, {"targets": []}, "no pattern is given"),
    "no regular match": (vit().model, {"targets": re.compile(r"blocks\.\d\.attn")}, r"'blocks\\.\\d\\.attn' matches nothing"),
    "nothing to adapt": (nn.Sequential(nn.ReLU()), {}, "no linear layer; there are none"),
    "depthwise alone": (
        nn.Sequential(nn.Conv1d(4, 4, 3, groups=4)), {}, "groups divide rank 1 and no linear layer; there are *",
    ),
    "groups": (conv(groups=2), {"rank": 3, "targets": "1"}, "LoRA on 1: rank 3 does not divide into its 2 groups"),
    "kernel not square": (
        nn.Sequential(nn.Conv2d(2, 2, (3, 1))), {"conv": "kernel_times_channel"}, "a 3x1 kernel is not square",
    ),
    "weight norm": (normed(), {"targets": "0"}, "its weight is made from other parameters"),
    "shared weight": (Tied(), {}, "LoRA on query: its weight is shared (embed.weight, query.weight)"),
    "forward of its own": (nn.Sequential(Own(3, 3)), {"targets": "0"}, "Own computes more than a Linear"),
    "not floating point": (integer(), {"targets": "0"}, "its weight is torch.int8, not floating point"),
    "three weights": (
        nn.Sequential(nn.MultiheadAttention(4, 1, kdim=2)), {}, "keeps queries, keys and values in three weights",
    ),
    "saved matches nothing": (
        SelfAttention(),
        {"modules_to_save": "haed"},
        "modules_to_save in SelfAttention: 'haed' matches nothing; there are attn, attn.out_proj, head (modules with "
        "parameters); did you mean 'head'?",
    ),
    "target trained beside": (
        SelfAttention(), {"targets": "head", "modules_to_save": "head"}, "'head' matches nothing",
    ),
    "no name": (SelfAttention(), {"name": ""}, "LoRA adapter: it needs a name"),
    "dotted name": (SelfAttention(), {"name": "a.b"}, "has a dot"),
    "taken name": (SelfAttention(), {"name": "items"}, "'items' is taken by torch"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused(name):
    module, settings, message = CASES[name]
    before, weights = layout(module), values(module)
    with pytest.raises(InputError, match=re.escape(message)):
        inject_lora(module, **settings)
    assert layout(module) == before
    assert same(values(module), weights)


def test_default_targets_leave_out_what_the_rank_cannot_serve():
    """Depthwise convolutions have as many groups as channels."""
    net = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1))
    assert list(inject_lora(net, rank=1).layers) == ["0", "2"]


def test_default_targets_without_attention_and_convolutions():
    assert list(inject_lora(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))).layers) == ["0", "2"]


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ("fc1", ["blocks.0.mlp.fc1", "blocks.1.mlp.fc1"]),
        ("blocks.1.*", ["blocks.1.attn.qkv", "blocks.1.attn.proj", "blocks.1.mlp.fc1", "blocks.1.mlp.fc2"]),
        (["attn.proj", "head"], ["blocks.0.attn.proj", "blocks.1.attn.proj", "head"]),
        (re.compile(r"blocks\.[01]\.attn\.qkv"), ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]),
    ],
)
def test_patterns(targets, found):
    assert list(inject_lora(vit().model, targets=targets).layers) == found


def test_names_of_adapters():
    model = SelfAttention()
    first = inject_lora(model, name="one", modules_to_save="head")
    with pytest.raises(InputError, match="has an adapter 'one' already"):
        inject_lora(model, name="one")
    second = inject_lora(model, name="two", modules_to_save="head")
    with pytest.raises(InputError, match=r"'three' is unknown; there are \['one', 'two'\]"):
        set_active(model, "three")
    with pytest.raises(InputError, match=r"train \['head'\] more than once"):
        set_active(model, "one", "two")
    with pytest.raises(InputError, match="both train"):
        first.enable()
    assert (first.enabled, second.enabled) == (False, True)
    second.remove(merge=False)
    with pytest.raises(InputError, match="not in the model"):
        second.remove(merge=False)
    first.enable()
    first.merge()
    with pytest.raises(InputError, match="trained by the merged adapter 'one'"):
        inject_lora(model, name="three", modules_to_save="head")
    assert list(lora_adapters(model)) == ["one"]


def test_a_layer_with_a_part_called_lora():
    net = nn.Sequential(nn.Linear(3, 3))
    net[0].lora = nn.Identity()
    with pytest.raises(InputError, match="an attribute `lora` of its own"):
        inject_lora(net, targets="0")
