"""What pre-trained encoders of pictures ask of their pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["pixel_options"]


def pixel_options(model: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Size, channels, mean and deviation of the pictures that a timm model was trained on, as options of the input.

    Args:
        model: timm's name.
        given: options of the input that the user set: a size of any kind replaces the model's, and one channel gets
            the average of the three means and deviations.
    """
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(model)
    if config is None:
        return {}
    _, height, width = config.input_size
    channels = given.get("channels", 3)
    mean, std = list(config.mean), list(config.std)
    if channels == 1:
        mean, std = [sum(mean) / 3], [sum(std) / 3]
    sized = {"height", "width", "image_size"} & set(given)
    size = {} if sized else {"height": height, "width": width}
    return size | {"channels": channels, "mean": mean, "std": std}
