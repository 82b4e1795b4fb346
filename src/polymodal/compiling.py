"""torch.compile of encoders and fusion, for as long as training lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from polymodal.blocks import replacing
from polymodal.encoders.base import LayeredEncoder
from polymodal.errors import InputError
from polymodal.model import MultimodalModel

__all__ = ["compiled"]


@contextmanager
def compiled(model: MultimodalModel, *, layers: bool = False) -> Iterator[None]:
    """Within the block the encoders and the fusion run as torch.compile makes them; afterwards they are what they were.

    Modules, parameters and their names stay, so that a state dict is the same with and without. Code is made at the first
    batch, again for evaluation, and again for an input of another shape, which then holds for all.

    Args:
        layers: compile the layers of encoders that have them one by one, for those who run them one by one (activation
            checkpointing, adapters between layers).

    Raises:
        InputError: at the first batch, a module that torch.compile cannot make code of, or a compiler that is missing.
    """
    layers = layers or (model.adapter is not None and model.adapter.last > 0)
    parts: dict[str, nn.Module] = {"fusion": model.fusion}
    for m, encoder in model.encoders.items():
        if layers and isinstance(encoder, LayeredEncoder):
            parts |= {f"layer {i} of encoder {m!r}": layer for i, layer in enumerate(encoder.layers)}
        else:
            parts[f"encoder {m!r}"] = encoder
    with ExitStack() as stack:
        for name, part in parts.items():
            stack.enter_context(replacing(part, "forward", _told(name, torch.compile(part.forward))))
        yield


def _told(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
    from torch._dynamo.exc import TorchDynamoException

    def forward(*inputs: Any, **options: Any) -> Any:
        try:
            return run(*inputs, **options)
        except TorchDynamoException as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"train.compile=true: torch.compile makes no code of the {name} ({type(error).__name__}: {reason}); leave it "
                "out, or install what it asks for (on a processor, a C++ compiler)"
            ) from error

    return forward
