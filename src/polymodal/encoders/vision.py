"""Image and video encoders from timm."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from polymodal.encoders.base import Encoder, masked_mean
from polymodal.errors import InputError
from polymodal.types import Features, Padded

__all__ = ["ResNet18"]


class ResNet18(Encoder):
    """ResNet-18 on images (B, C, H, W), spectrograms (B, C, F, T) or frames (B, T, C, H, W).

    Frames run as B T images; features are averaged over T, H and W, and tokens are the cells of the last maps. Of a padded
    spectrogram only columns with something real in them are averaged; a little of the padding's zeros reaches those beside it.

    Args:
        channels: C, any number; three-channel weights are adapted by timm (summed or repeated, then scaled).
        weights: a local file (safetensors or a state dict) in timm's layout; from scratch where None.

    Source: He et al. 2016.

    Example:
        >>> import torch
        >>> ResNet18(channels=1)(torch.zeros(2, 1, 64, 64)).pooled.shape
        torch.Size([2, 512])
    """

    dim = 512
    kinds: ClassVar[frozenset[str]] = frozenset({"image", "video", "audio"})

    def __init__(self, channels: int = 3, weights: str | Path | None = None) -> None:
        super().__init__()
        import timm

        overlay = None
        if weights is not None:
            if not Path(weights).is_file():
                raise InputError(
                    f"weights {str(weights)!r} of ResNet18: no such file; give a local file or leave it out"
                )
            overlay = {"file": str(weights)}
        self.net = timm.create_model(
            "resnet18", pretrained=overlay is not None, pretrained_cfg_overlay=overlay, in_chans=channels, num_classes=0
        )

    def forward(self, x: Tensor | Padded) -> Features:
        values = x.values if isinstance(x, Padded) else x
        clips = values.flatten(0, 1) if values.ndim == 5 else values
        maps: Tensor = self.net.forward_features(clips)  # type: ignore[operator]  # (B T, 512, h, w)
        tokens = maps.flatten(2).transpose(1, 2)
        if values.ndim == 5:
            tokens = tokens.reshape(values.shape[0], -1, self.dim)
        mask = None
        if isinstance(x, Padded):
            # A column of the last map is real if any column of the input that it stands for is.
            columns = nn.functional.adaptive_max_pool1d(x.mask.float()[:, None], maps.shape[-1]) > 0
            mask = columns.expand(-1, maps.shape[-2], -1).flatten(1)
        return Features(masked_mean(tokens, mask), tokens, mask)
