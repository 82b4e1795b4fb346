"""Adapters: trainable parts put into or between frozen encoders."""

from polymodal.adapters.aurora import Aurora
from polymodal.adapters.base import Adapter
from polymodal.adapters.bottleneck import MBT
from polymodal.adapters.by_name import insert
from polymodal.adapters.files import load_adapter, save_adapter
from polymodal.adapters.freezing import Frozen, freeze
from polymodal.adapters.houlsby import Houlsby
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
from polymodal.adapters.maple import MaPLe
from polymodal.adapters.mmbt import MMBT, MMBTText
from polymodal.adapters.pmf import PMF
from polymodal.adapters.ptuning import PTuning, PTuningV2
from polymodal.adapters.uniadapter import UniAdapter
from polymodal.adapters.wander import JointHead, Wander

__all__ = [
    "MBT",
    "MMBT",
    "PMF",
    "Adapter",
    "Aurora",
    "Frozen",
    "Houlsby",
    "JointHead",
    "LoRA",
    "MMBTText",
    "MaPLe",
    "PTuning",
    "PTuningV2",
    "UniAdapter",
    "Wander",
    "export_peft",
    "freeze",
    "import_peft",
    "inject_lora",
    "insert",
    "load_adapter",
    "load_lora",
    "lora_adapters",
    "save_adapter",
    "save_lora",
    "set_active",
]
