"""One `Input` class for each kind of modality, and how to make one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from polymodal.data.inputs.base import Input
from polymodal.data.inputs.sound import AudioInput
from polymodal.data.inputs.tokens import TokenInput
from polymodal.data.inputs.values import CategoricalInput, NumericInput
from polymodal.data.inputs.vectors import VectorInput
from polymodal.data.inputs.visual import ImageInput, VideoInput
from polymodal.data.inputs.words import TextInput
from polymodal.data.schema import Modality
from polymodal.data.table import nearest
from polymodal.errors import InputError

__all__ = ["CLASSES", "Input", "input_from_state", "make_input"]

CLASSES: dict[str, type[Input]] = {
    "image": ImageInput,
    "audio": AudioInput,
    "video": VideoInput,
    "text": TextInput,
    "numeric": NumericInput,
    "categorical": CategoricalInput,
    "vector": VectorInput,
}


def make_input(modality: Modality, **options: Any) -> Input:
    """The input of a modality; `options` are the fields of its class (for example `image_size=64`).

    Texts with the option `tokenizer` are cut by it; the others are hashed.

    Raises:
        InputError: an option that this kind does not have, or a value that it cannot have.
    """
    kind = _class(modality.kind, options)
    known = [field.name for field in fields(kind) if field.name != "modality"]
    for name in options:
        if name not in known:
            where = f"input {modality.name!r} ({modality.kind})"
            raise InputError(f"{where}: unknown option {name!r}{nearest(name, known)}")
    return kind(modality, **options)


def input_from_state(state: dict[str, Any], folder: Path | None = None) -> Input:
    """The input that `Input.state` describes, with the files that `Input.keep` wrote into `folder`."""
    return _class(state["modality"]["kind"], state).restore(state, folder)


def _class(kind: str, options: Mapping[str, Any]) -> type[Input]:
    return TokenInput if kind == "text" and "tokenizer" in options else CLASSES[kind]
