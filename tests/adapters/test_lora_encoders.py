"""LoRA in every encoder of the library: what it starts as, what learns, what merging leaves, and export of the result."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polymodal.adapters import inject_lora, lora_adapters
from polymodal.encoders import EfficientNet, FrameCNN, ImageCNN, ResNet, ResNet18, SpectrogramCNN
from polymodal.types import Features, Padded
from tests.adapters.hosts import FAMILIES, host
from tests.adapters.models import fill

CNNS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "resnet18": (lambda: ResNet18(1), lambda: torch.randn(2, 1, 33, 32)),
    "resnet50": (lambda: ResNet(50), lambda: torch.randn(2, 3, 32, 32)),
    "flow_resnet": (lambda: ResNet(18, channels=20), lambda: torch.randn(2, 20, 32, 32)),
    "efficientnet": (lambda: EfficientNet("tf_efficientnet_lite0"), lambda: torch.randn(2, 3, 32, 32)),
    "image_cnn": (lambda: ImageCNN(3, width=4), lambda: torch.randn(2, 3, 16, 16)),
    "frame_cnn": (lambda: FrameCNN(4, 1, width=4), lambda: torch.randn(2, 4, 1, 16, 16)),
    "spectrogram_cnn": (lambda: SpectrogramCNN(16, width=4), lambda: torch.randn(2, 1, 16, 20)),
}
EACH = pytest.mark.parametrize("family", [*FAMILIES, *CNNS])


def made(family: str) -> tuple[nn.Module, Any]:
    """An encoder in float64 and evaluation mode, with statistics and weights that are not those of the start; its input."""
    if family in FAMILIES:
        one = host(family)
        return one.encoder, one.x
    torch.manual_seed(0)
    make, draw = CNNS[family]
    encoder = make().double()
    for part in encoder.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            part.running_mean.normal_(std=0.1)
            nn.init.uniform_(part.weight, 0.5, 1.0)
    return encoder.eval(), draw().double()


def narrow(x: Any) -> Any:
    """The same input in float32."""
    if isinstance(x, Padded):
        return Padded(narrow(x.values), x.mask)
    return x.float() if x.is_floating_point() else x


def far(one: Features, two: Features) -> float:
    """Largest difference of the pooled features, against their size where that is above 1."""
    return float(((one.pooled - two.pooled).abs().max() / two.pooled.abs().max().clamp_min(1)).detach())


@EACH
def test_lora_in_every_encoder(family: str) -> None:
    encoder, x = made(family)
    keys, before = list(encoder.state_dict()), encoder(x)
    lora = inject_lora(encoder, rank=1)
    assert far(encoder(x), before) <= 1e-15

    fill(lora)
    adapted = encoder(x)
    assert far(adapted, before) > 1e-4
    adapted.pooled.square().sum().backward()
    learnt = {id(p) for p in encoder.parameters() if p.grad is not None and p.grad.any()}
    assert learnt == {id(p) for p in lora.parameters()}

    single, y = copy.deepcopy(encoder).float(), narrow(x)
    wide = single(y)
    (own,) = lora_adapters(single).values()
    own.remove(merge=True)
    assert far(single(y), wide) <= 1e-5

    lora.remove(merge=True)
    assert far(encoder(x), adapted) <= 1e-12
    assert list(encoder.state_dict()) == keys

    program = torch.export.export(encoder, (x,)).module()
    assert far(program(x), adapted) <= 1e-10
