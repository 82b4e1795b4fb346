"""Weights of OpenCLIP's vision transformers in the layout of timm's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from polymodal.encoders.weights import without
from polymodal.errors import InputError

__all__ = ["is_openclip", "visual_to_timm"]

# The rest of a CLIP file: the text tower, in both of OpenCLIP's layouts, and the scale of the similarities.
OTHER_PARTS = (
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "text_projection",
    "text.",
    "logit_scale",
    "logit_bias",
    "attn_mask",
)
TOP = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1.weight": "patch_embed.proj.weight",
    "ln_pre.weight": "norm_pre.weight",
    "ln_pre.bias": "norm_pre.bias",
    "ln_post.weight": "norm.weight",
    "ln_post.bias": "norm.bias",
}
BLOCK = {
    "ln_1.weight": "norm1.weight",
    "ln_1.bias": "norm1.bias",
    "attn.in_proj_weight": "attn.qkv.weight",
    "attn.in_proj_bias": "attn.qkv.bias",
    "attn.out_proj.weight": "attn.proj.weight",
    "attn.out_proj.bias": "attn.proj.bias",
    "ls_1.gamma": "ls1.gamma",
    "ln_2.weight": "norm2.weight",
    "ln_2.bias": "norm2.bias",
    "mlp.c_fc.weight": "mlp.fc1.weight",
    "mlp.c_fc.bias": "mlp.fc1.bias",
    "mlp.c_proj.weight": "mlp.fc2.weight",
    "mlp.c_proj.bias": "mlp.fc2.bias",
    "ls_2.gamma": "ls2.gamma",
}
IN_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")


def is_openclip(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are a CLIP of OpenCLIP's own vision transformer, or that tower alone."""
    return "visual.class_embedding" in tensors or "class_embedding" in tensors


def visual_to_timm(tensors: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """The visual tower of a CLIP file, or that tower alone, by timm's names.

    The projection to the space shared with texts (`proj`) is left out: a classifier reads the features before it, as timm's
    model does.

    Args:
        tensors: by OpenCLIP's names.
        source: the file, for the error.

    Raises:
        InputError: a name that belongs to no part of a CLIP with a plain vision transformer.
    """
    if "visual.class_embedding" in tensors:
        rest = without(tensors, ["visual.", *OTHER_PARTS])
        if rest:
            raise InputError(f"weights {source}: {', '.join(sorted(rest)[:8])} belong to no part of an OpenCLIP model")
        tensors = {name.removeprefix("visual."): one for name, one in tensors.items() if name.startswith("visual.")}
    found, unknown = {}, []
    for name, one in tensors.items():
        inside = IN_BLOCK.fullmatch(name)
        if name == "proj":
            continue
        if name in TOP:
            found[TOP[name]] = one
        elif inside and inside[2] in BLOCK:
            found[f"blocks.{inside[1]}.{BLOCK[inside[2]]}"] = one
        else:
            unknown.append(name)
    if unknown:
        raise InputError(f"weights {source}: the visual tower has {', '.join(unknown[:8])}, which no plain ViT has")
    if "cls_token" in found:
        found["cls_token"] = found["cls_token"].reshape(1, 1, -1)
    if "pos_embed" in found:
        found["pos_embed"] = found["pos_embed"].reshape(1, *found["pos_embed"].shape[-2:])
    return found
