"""Convolutional encoders from timm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, channels_last, nn

from polymodal.encoders.base import Encoder, masked_mean
from polymodal.encoders.pixels import pixel_options
from polymodal.encoders.weights import inflate_channels, load_strictly, locate, read_weights, without
from polymodal.errors import InputError
from polymodal.types import Features, Padded

__all__ = ["EfficientNet", "ResNet", "ResNet18"]


class _CNN(Encoder):
    """A convolutional model of timm on images (B, C, H, W), spectrograms (B, C, F, T) or frames (B, T, C, H, W).

    Frames run as B T images; features are averaged over T, H and W, and tokens are the cells of the last maps. Of a padded
    spectrogram only columns with something real in them are averaged; a little of the padding's zeros reaches those beside it.
    """

    kinds: ClassVar[frozenset[str]] = frozenset({"image", "video", "audio"})
    rebuild: Mapping[str, Any] = {"weights": None}

    def __init__(self, model: str, channels: int, weights: str | Path | None, inflate: str, stack: bool) -> None:
        super().__init__()
        self.stack = stack
        self.net = _timm_model(model, channels)
        self.dim: int = self.net.num_features
        if weights is None:
            return
        file = locate(weights)
        tensors = read_weights(file)
        if "_conv_stem.weight" in tensors:
            tensors = _efficientnet_to_timm(tensors, [len(stage) for stage in self.net.blocks])
        config = self.net.pretrained_cfg
        tensors = without(tensors, [f"{config['classifier']}."])
        first = f"{config['first_conv']}.weight"
        if first in tensors:
            tensors[first] = inflate_channels(tensors[first], channels, inflate)
        load_strictly(self.net, tensors, file)

    def forward(self, x: Tensor | Padded) -> Features:
        values = x.values if isinstance(x, Padded) else x
        if values.ndim == 5 and self.stack:
            values = values.flatten(1, 2)
        clips = values.flatten(0, 1) if values.ndim == 5 else values
        # Channels last: depth-wise convolutions run 1.6 times as fast on a processor, and no weight is stored otherwise.
        maps: Tensor = self.net.forward_features(clips.contiguous(memory_format=channels_last))  # (B T, D, h, w)
        tokens = maps.flatten(2).transpose(1, 2)
        if values.ndim == 5:
            tokens = tokens.reshape(values.shape[0], -1, self.dim)
        mask = None
        if isinstance(x, Padded):
            # A column of the last map is real if any column of the input that it stands for is.
            columns = nn.functional.adaptive_max_pool1d(x.mask.float()[:, None], maps.shape[-1]) > 0
            mask = columns.expand(-1, maps.shape[-2], -1).flatten(1)
        return Features(masked_mean(tokens, mask), tokens, mask)


def _timm_model(model: str, channels: int) -> Any:
    import timm

    return timm.create_model(model, in_chans=channels, num_classes=0)


class ResNet(_CNN):
    """ResNet on images (B, C, H, W), spectrograms (B, C, F, T) or frames (B, T, C, H, W).

    Frames run as B T images; features are averaged over T, H and W, and tokens are the cells of the last maps. Of a padded
    spectrogram only columns with something real in them are averaged; a little of the padding's zeros reaches those beside it.

    Args:
        depth: 18, 34, 50, 101 or 152.
        channels: C, any number.
        weights: a local file (safetensors or a state dict) in timm's or torchvision's layout, or
            "hub:OWNER/REPOSITORY/FILE"; from scratch where None.
        inflate: how the first convolution of RGB weights gets C channels, see `weights.inflate_channels`.
        stack: take the T frames as T x C channels of one image, as of optical flow (C = 2).
        frames: T, told by the data; read with `stack` alone.

    Raises:
        InputError: another depth, or weights that do not fit.

    Source: He et al. 2016.

    Example:
        >>> import torch
        >>> ResNet(50, channels=2, stack=True, frames=5)(torch.zeros(2, 5, 2, 64, 64)).pooled.shape
        torch.Size([2, 2048])
    """

    def __init__(
        self,
        depth: int = 18,
        *,
        channels: int = 3,
        weights: str | Path | None = None,
        inflate: str = "average",
        stack: bool = False,
        frames: int = 1,
    ) -> None:
        if depth not in (18, 34, 50, 101, 152):
            raise InputError(f"ResNet of depth {depth}; there are 18, 34, 50, 101 and 152")
        super().__init__(f"resnet{depth}", channels * frames if stack else channels, weights, inflate, stack)

    @classmethod
    def preprocessing(cls, kind: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        if settings.get("weights") is None or kind == "audio" or settings.get("stack"):
            return {}
        return pixel_options(f"resnet{settings.get('depth', 18)}", given)


class ResNet18(ResNet):
    """ResNet-18 on images (B, C, H, W), spectrograms (B, C, F, T) or frames (B, T, C, H, W); see `ResNet`.

    Args:
        channels: C, any number; three-channel weights are summed or repeated, then scaled.
        weights: a local file (safetensors or a state dict) in timm's layout; from scratch where None.

    Example:
        >>> import torch
        >>> ResNet18(channels=1)(torch.zeros(2, 1, 64, 64)).pooled.shape
        torch.Size([2, 512])
    """

    def __init__(self, channels: int = 3, weights: str | Path | None = None) -> None:
        super().__init__(18, channels=channels, weights=weights, inflate="repeat")


class EfficientNet(_CNN):
    """EfficientNet on images (B, C, H, W), spectrograms (B, C, F, T) or frames (B, T, C, H, W); see `ResNet`.

    Args:
        model: timm's name, e.g. "efficientnet_b2" or "tf_efficientnet_lite0".
        channels, inflate: as for `ResNet`.
        weights: a local file in timm's layout or in that of the packages efficientnet-pytorch and efficientnet-lite-pytorch
            (which were converted from TensorFlow and belong to timm's "tf_" models); from scratch where None.

    Raises:
        InputError: a model that is no EfficientNet, or weights that do not fit.

    Source: Tan and Le 2019.

    Example:
        >>> import torch
        >>> EfficientNet("tf_efficientnet_lite0", channels=1)(torch.zeros(2, 1, 64, 64)).pooled.shape
        torch.Size([2, 1280])
    """

    def __init__(
        self,
        model: str = "efficientnet_b2",
        *,
        channels: int = 3,
        weights: str | Path | None = None,
        inflate: str = "average",
    ) -> None:
        import timm

        if "efficientnet" not in model or not timm.is_model(model):
            raise InputError(f"EfficientNet model {model!r}: timm has none of that name; try efficientnet_b2")
        super().__init__(model, channels, weights, inflate, stack=False)

    @classmethod
    def preprocessing(cls, kind: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        if settings.get("weights") is None or kind == "audio":
            return {}
        return pixel_options(settings.get("model", "efficientnet_b2"), given)


TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
PLAIN = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
EXPANDED = PLAIN | {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip


def _efficientnet_to_timm(tensors: Mapping[str, Tensor], stages: list[int]) -> dict[str, Tensor]:
    """Names of efficientnet-pytorch by timm's; blocks are counted through there and by `stages` here."""
    places = [f"blocks.{stage}.{block}" for stage, count in enumerate(stages) for block in range(count)]
    found = {}
    for name, one in tensors.items():
        inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        top, _, last = name.partition(".")
        if inside and int(inside[1]) < len(places):
            names = EXPANDED if f"_blocks.{inside[1]}._expand_conv.weight" in tensors else PLAIN
            name = f"{places[int(inside[1])]}.{names.get(inside[2], inside[2])}.{inside[3]}"
        elif top in TOP:
            name = f"{TOP[top]}.{last}"
        found[name] = one
    return found
