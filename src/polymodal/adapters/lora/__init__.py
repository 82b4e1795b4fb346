"""LoRA: low-rank updates of the weights of a frozen module."""

from polymodal.adapters.lora.files import load_lora, save_lora
from polymodal.adapters.lora.handle import Counts, LoRA, lora_adapters, set_active
from polymodal.adapters.lora.inject import inject_lora
from polymodal.adapters.lora.peft_format import export_peft, import_peft

__all__ = [
    "Counts", "LoRA", "export_peft", "import_peft", "inject_lora", "load_lora", "lora_adapters", "save_lora", "set_active",
]  # fmt: skip
