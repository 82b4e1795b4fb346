"""Which encoder an input of each kind gets by default, and what an encoder's constructor is told of the input."""

from __future__ import annotations

from typing import Any

from polymodal.errors import InputError

__all__ = ["DEFAULTS", "facts"]

DEFAULTS = {
    "image": "image_cnn",
    "audio": "spectrogram_cnn",
    "video": "frame_cnn",
    "text": "text_bag",
    "numeric": "mlp",
    "categorical": "mlp",
    "vector": "mlp",
}


def facts(kind: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """What is known of an input, by the names that constructors use; each takes what it needs.

    Args:
        kind: a kind of modality.
        shape: of one sample, without the batch: image (C, H, W), video (T, C, H, W), spectrogram (1, F, T) or
            K of them (K, 1, F, T), waveform (1, S), text (buckets,), vector (D,) or (L, D).

    Example:
        >>> facts("audio", (1, 40, 48))
        {'channels': 1, 'bins': 40, 'length': 48}
    """
    if kind == "image":
        return {"channels": shape[0], "height": shape[1], "width_pixels": shape[2]}
    if kind == "video":
        return {"frames": shape[0], "channels": shape[1], "height": shape[2], "width_pixels": shape[3]}
    if kind == "audio":
        if len(shape) >= 3:
            return {"channels": shape[-3], "bins": shape[-2], "length": shape[-1]}
        return {"samples": shape[-1]}
    if kind == "text":
        return {"buckets": shape[0]}
    if kind in ("numeric", "categorical", "vector"):
        return {"in_dim": shape[-1]} | ({"length": shape[0]} if len(shape) > 1 else {})
    raise InputError(f"kind {kind!r} is unknown; there are {', '.join(DEFAULTS)}")
