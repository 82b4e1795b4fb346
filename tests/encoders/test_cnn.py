from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from polymodal.encoders import EfficientNet, ResNet, ResNet18
from polymodal.errors import InputError

LITE = "tf_efficientnet_lite0"


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)


def settled(encoder: Any) -> Any:
    """Without the zeros that timm starts the last norm of each block with, so that every layer acts."""
    for name, one in encoder.named_parameters():
        if name.endswith("weight") and one.ndim == 1:
            torch.nn.init.uniform_(one, 0.5, 1.0)
    return encoder.eval()


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = settled(timm.create_model("resnet18", num_classes=10))
    file = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    torch.save(net.state_dict(), file)
    return file


@pytest.mark.parametrize("channels", [1, 2, 3, 10, 20])
def test_any_number_of_channels_reads_rgb_weights(resnet_file: Path, channels: int) -> None:
    encoder = ResNet(channels=channels, weights=resnet_file).eval()
    reference = timm.create_model("resnet18", num_classes=0).eval()
    reference.load_state_dict(
        {name: one for name, one in torch.load(resnet_file, weights_only=True).items() if not name.startswith("fc.")}
    )
    grey = torch.randn(2, 1, 33, 40)
    with torch.no_grad():
        found, expected = encoder(grey.expand(-1, channels, -1, -1)), reference(grey.expand(-1, 3, -1, -1))
    close(found.pooled, expected, 1e-4)  # equal channels count as much as the three did
    assert found.tokens.shape == (2, 4, 512)


def test_stacked_flow_is_one_image_of_all_its_frames(resnet_file: Path) -> None:
    flow = torch.randn(2, 5, 2, 33, 33)
    stacked = ResNet(channels=2, stack=True, frames=5, weights=resnet_file).eval()
    plain = ResNet(channels=10, weights=resnet_file).eval()
    apart = ResNet(channels=2, weights=resnet_file).eval()
    with torch.no_grad():
        close(stacked(flow).pooled, plain(flow.flatten(1, 2)).pooled)
        close(apart(flow).pooled, torch.stack([apart(flow[:, t]).pooled for t in range(5)]).mean(0), 1e-5)


@pytest.mark.parametrize(("depth", "dim"), [(50, 2048), (152, 2048)])
def test_deeper_ones(depth: int, dim: int) -> None:
    with torch.device("meta"):
        encoder = ResNet(depth, channels=10).eval()
        assert encoder(torch.zeros(1, 10, 32, 32)).pooled.shape == (1, dim)
    assert encoder.dim == dim
    reference = {50: 23_508_032, 152: 58_143_808}[depth]  # torchvision's without the classifier
    assert sum(p.numel() for p in encoder.parameters()) == reference + 7 * 49 * 64


def test_unknown_depth_and_model() -> None:
    with pytest.raises(InputError, match="depth 20; there are 18"):
        ResNet(20)
    with pytest.raises(InputError, match="'efficientnet_b99'"):
        EfficientNet("efficientnet_b99")
    with pytest.raises(InputError, match="'resnet18'"):
        EfficientNet("resnet18")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.conv1.weight": None}, r"missing layer1\.0\.conv1\.weight"),
        ({"odd": 1}, "unexpected odd"),
        ({"bn1.bias": 2}, r"bn1\.bias is \(2,\)"),
    ],
)
def test_files_that_do_not_fit(resnet_file: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    tensors = torch.load(resnet_file, weights_only=True)
    for name, size in change.items():
        tensors.pop(name, None)
        if size:
            tensors[name] = torch.ones(size)
    torch.save(tensors, tmp_path / "other.pt")
    with pytest.raises(InputError, match=f"nothing was loaded: {message}"):
        ResNet18(weights=tmp_path / "other.pt")
    with pytest.raises(InputError, match="do not fit"):
        EfficientNet(LITE, weights=resnet_file)


def test_efficientnet_b2() -> None:
    with torch.device("meta"):
        encoder = EfficientNet(channels=2).eval()
        assert encoder(torch.zeros(1, 4, 2, 64, 64)).pooled.shape == (1, 1408) == (1, encoder.dim)


def published_names(net: Any) -> dict[str, Tensor]:
    """A state dict of timm's by the names of efficientnet-lite-pytorch, written down independently block by block."""
    found = {}
    state = net.state_dict()
    pairs = [
        ("conv_stem", "_conv_stem"),
        ("bn1", "_bn0"),
        ("conv_head", "_conv_head"),
        ("bn2", "_bn1"),
        ("classifier", "_fc"),
    ]
    count = 0
    for s, stage in enumerate(net.blocks):
        for b, _ in enumerate(stage):
            here, there = f"blocks.{s}.{b}", f"_blocks.{count}"
            plain = s == 0
            inner = (
                [("conv_dw", "_depthwise_conv"), ("bn1", "_bn1"), ("conv_pw", "_project_conv"), ("bn2", "_bn2")]
                if plain
                else [
                    ("conv_pw", "_expand_conv"),
                    ("bn1", "_bn0"),
                    ("conv_dw", "_depthwise_conv"),
                    ("bn2", "_bn1"),
                    ("conv_pwl", "_project_conv"),
                    ("bn3", "_bn2"),
                ]
            )
            inner += [("se.conv_reduce", "_se_reduce"), ("se.conv_expand", "_se_expand")]
            pairs += [(f"{here}.{one}", f"{there}.{other}") for one, other in inner]
            count += 1
    for ours, theirs in pairs:
        for name, one in state.items():
            if name.rpartition(".")[0] == ours:
                found[f"{theirs}.{name.rpartition('.')[2]}"] = one
    assert len(found) == len(state)
    return found


@pytest.mark.parametrize("model", [LITE, "tf_efficientnet_b0"])
def test_efficientnet_reads_the_packages_layout(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = settled(timm.create_model(model, num_classes=5))
    torch.save(published_names(net), tmp_path / "lite.pth")
    encoder = EfficientNet(model, weights=tmp_path / "lite.pth").eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        close(encoder(x).pooled, net.forward_head(net.forward_features(x), pre_logits=True), 1e-5)
    broken = published_names(net) | {"_blocks.3._odd.weight": torch.ones(1)}
    del broken["_blocks.2._bn0.bias"]
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(InputError, match=r"missing blocks\.1\.1\.bn1\.bias; unexpected blocks\.2\.0\._odd\.weight"):
        EfficientNet(model, weights=tmp_path / "broken.pth")


def test_preprocessing_comes_with_the_weights() -> None:
    assert ResNet.preprocessing("image", {}, {}) == {}
    assert ResNet.preprocessing("audio", {"weights": "x"}, {}) == {}
    assert ResNet.preprocessing("video", {"weights": "x", "stack": True}, {}) == {}
    found = ResNet18.preprocessing("image", {"weights": "x"}, {"height": 64, "width": 64})
    assert found == {"channels": 3, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    lite = EfficientNet.preprocessing("image", {"weights": "x", "model": LITE}, {})
    assert lite == {"height": 224, "width": 224, "channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert json.loads(json.dumps(dict(ResNet(18).rebuild))) == {"weights": None}
