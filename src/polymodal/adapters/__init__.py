"""Adapters: trainable parts put into or between frozen encoders."""

from polymodal.adapters.base import Adapter
from polymodal.adapters.freezing import Frozen, freeze
from polymodal.adapters.lora import (
    LoRA,
    export_peft,
    import_peft,
    inject_lora,
    load_lora,
    lora_adapters,
    save_lora,
    set_active,
)
from polymodal.adapters.wander import JointHead, Wander

__all__ = [
    "Adapter",
    "Frozen",
    "JointHead",
    "LoRA",
    "Wander",
    "export_peft",
    "freeze",
    "import_peft",
    "inject_lora",
    "load_lora",
    "lora_adapters",
    "save_lora",
    "set_active",
]
