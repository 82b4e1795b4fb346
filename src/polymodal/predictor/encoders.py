"""The encoders that a run's settings name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from polymodal import names
from polymodal.config import Config, Part
from polymodal.data.inputs import Input
from polymodal.data.schema import Modality
from polymodal.encoders.by_kind import facts
from polymodal.encoders.presets import choose, expand
from polymodal.errors import InputError

__all__ = ["Encoders", "rebuilt"]


@dataclass(frozen=True)
class Encoders:
    """Finds and builds encoders: by the name that a modality is given, else by preset and kind.

    Attributes:
        config: settings of the run.
        trust: modules outside polymodal that they may name; None, where the user typed them, is any.
    """

    config: Config
    trust: Sequence[str] | None

    def part(self, modality: Modality) -> Part:
        """Class and settings of a modality's encoder, a preset's name replaced by what it stands for."""
        part = self.config.encoders.get(modality.name) or choose(modality.kind, self.config.preset)
        return expand(part, f"encoders.{modality.name}")

    def preprocessing(self, modality: Modality, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a modality's input that its encoder calls for, from those that the user set."""
        part = self.part(modality)
        wanted = getattr(self._class(part), "preprocessing", None)
        return wanted(modality.kind, part.arguments, given) if wanted else {}

    def make(self, modality: Modality, source: Input, part: Part | None = None) -> nn.Module:
        """A fresh encoder of what `source` yields; by `part` where it is given.

        Raises:
            InputError: it does not read the modality's kind, is given wrong settings, or is no torch module.
        """
        part = part or self.part(modality)
        make, name = self._class(part), modality.name
        kinds = getattr(make, "kinds", None)
        if kinds and modality.kind not in kinds:
            raise InputError(
                f"encoder {part.name!r} of {name!r} reads {', '.join(sorted(kinds))} and the column's kind is {modality.kind}"
            )
        built = names.build(make, part.arguments, facts(modality.kind, source.shape), f"encoders.{name}")
        if not isinstance(built, nn.Module):
            raise InputError(f"encoder {part.name!r} of {name!r} is a {type(built).__name__}, not a torch module")
        return built

    def _class(self, part: Part) -> Any:
        return names.resolve("encoders", part.name, bases=("Encoder", "LayeredEncoder", "State"), trust=self.trust)


def rebuilt(part: Part, encoder: nn.Module) -> Part:
    """Class and settings that build a trained encoder again, without any file of pre-trained weights."""
    return Part(name=part.name, **{**part.arguments, **getattr(encoder, "rebuild", {})})
