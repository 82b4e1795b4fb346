"""Tiny models of every family that LoRA meets, each with an input and how many layers 'attention' adapts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from polymodal.adapters import LoRA


class Family(NamedTuple):
    model: nn.Module
    inputs: tuple[Tensor, ...]
    adapted: int
    updates: int
    """Low-rank updates, three in a fused layer."""


class LastHidden(nn.Module):
    """A transformers model as a function of token numbers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Any:
        return self.model(input_ids=ids).last_hidden_state


class SelfAttention(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, **settings)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.attn(x, x, x)[0])


SMALL: dict[str, Any] = {
    "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 16,
}  # fmt: skip
IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])


def vit() -> Family:
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(img_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=2, num_classes=3)
    return Family(model, (torch.randn(2, 3, 8, 8),), 2, 6)


def bert() -> Family:
    from transformers import BertConfig, BertModel

    return Family(LastHidden(BertModel(BertConfig(**SMALL), add_pooling_layer=False)), (IDS,), 6, 6)


def deberta() -> Family:
    from transformers import DebertaConfig, DebertaModel

    config = DebertaConfig(**SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"], position_biased_input=False)
    return Family(LastHidden(DebertaModel(config)), (IDS,), 2, 6)


def resnet() -> Family:
    from timm.models.resnet import BasicBlock, ResNet

    block: Any = BasicBlock  # timm's annotation asks for an instance
    model = ResNet(block, (1, 1, 1, 1), num_classes=3, channels=(4, 4, 8, 8), stem_width=4)
    convolutions = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    for part in model.modules():  # statistics that BatchNorm could lose; timm starts branches at zero, which hides them
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            part.running_mean.normal_(std=0.1)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, 0, 0.5)
    return Family(model, (torch.randn(2, 3, 16, 16),), convolutions, convolutions)


def transformer() -> Family:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return Family(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), (torch.randn(2, 5, 8),), 2, 6)


def attention() -> Family:
    return Family(SelfAttention(add_bias_kv=True), (torch.randn(5, 2, 8),), 1, 3)


def conv1d() -> Family:
    model = nn.Sequential(
        nn.Conv1d(3, 6, 3, stride=2, padding=2, dilation=2), nn.BatchNorm1d(6), nn.ReLU(),
        nn.Conv1d(6, 4, 3, padding="same", padding_mode="circular"),
    )  # fmt: skip
    return Family(model, (torch.randn(2, 3, 12),), 2, 2)


FAMILIES: dict[str, Callable[[], Family]] = {
    "vit": vit, "bert": bert, "deberta": deberta, "resnet": resnet, "transformer": transformer, "attention": attention,
    "conv1d": conv1d,
}  # fmt: skip


def family(name: str, dtype: torch.dtype = torch.float64) -> Family:
    """A family in eval mode and one type."""
    made = FAMILIES[name]()
    inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in made.inputs)
    return made._replace(model=made.model.to(dtype).eval(), inputs=inputs)


def fill(lora: LoRA, size: float = 0.3) -> None:
    """Give B, which starts at zero, numbers that matter."""
    with torch.no_grad():
        for layer in lora.layers.values():
            layer.update.B.normal_(std=size)
