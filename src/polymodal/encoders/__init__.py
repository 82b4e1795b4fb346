"""Encoders: from the input of one modality to its features."""

from typing import TYPE_CHECKING, Any

from polymodal.encoders.base import Encoder, LayeredEncoder, State, linear_heads
from polymodal.encoders.small import MLP, FrameCNN, ImageCNN, SpectrogramCNN, TextBag

if TYPE_CHECKING:
    from polymodal.encoders.vision import ResNet18

__all__ = [
    "MLP",
    "Encoder",
    "FrameCNN",
    "ImageCNN",
    "LayeredEncoder",
    "ResNet18",
    "SpectrogramCNN",
    "State",
    "TextBag",
    "linear_heads",
]


def __getattr__(name: str) -> Any:
    # timm takes a second to import, and only its users should wait for it.
    if name == "ResNet18":
        from polymodal.encoders.vision import ResNet18

        return ResNet18
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
