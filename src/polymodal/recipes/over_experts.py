"""Adapters in a model that retrieves: over the experts of its gallery or between the layers that these share, or in single
encoders, never between query and gallery.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from polymodal.adapters import Adapter, insert, lora_adapters
from polymodal.adapters.by_name import options_of
from polymodal.adapters.experts import BetweenExperts, ExpertLayers
from polymodal.adapters.freezing import freeze
from polymodal.encoders.weights import read_weights
from polymodal.errors import InputError
from polymodal.fit import Sized
from polymodal.fusion.retrieval import MMT, Pairing
from polymodal.model import MultimodalModel
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.transfer import StartFrom, take_over
from polymodal.run import logger

__all__ = ["acts_between_layers", "over_experts", "put_over_experts", "take_whole"]

Longest = Callable[[tuple[Sized, Sized | None], Mapping[str, nn.Module], bool], dict[str, int]]


def over_experts(
    setup: Setup,
    stage: str,
    part: Mapping[str, Any],
    longest: Longest,
    modalities: Sequence[str] | None = None,
    fine_tune: bool = True,
    start_from: StartFrom = None,
) -> Result:
    """Train the whole model (stage "retrieval"), freeze it, put an adapter into it, train that with the query's side.

    The query's side are its gated units and mixture weights; encoders and Transformer stay as they are.

    Args:
        longest: tells the most tokens of each of some encoders in training and validation.
        part, modalities: as for `train_adapter`; methods across encoders act on the experts alone.
        fine_tune: false leaves out the first stage, for a model that `start_from` gives.
        start_from: a run's folder or a file of weights, whose tensors the model begins with wherever the shapes agree.

    Raises:
        InputError: settings that cannot be, before anything is trained.
    """
    fusion = setup.config.fusion.model_dump()

    def whole() -> MultimodalModel:
        model = setup.model(setup.modalities, fusion, heads=False)
        if start_from is not None:
            take_whole(model, start_from, stage)
        return model

    setup.seed("check")
    put_over_experts(whole(), part, None, modalities, setup.trust)  # wrong settings must not cost the first stage
    epochs: dict[str, int] = {}
    if fine_tune:
        model, history = setup.fit("retrieval", whole)
        epochs[setup.stage_name("retrieval")] = history.best_epoch
    else:
        setup.seed(setup.stage_name("retrieval"))
        model = whole()
    lengths = None
    if "lengths" in options_of(part["name"], setup.trust):
        experts = {m: model.encoders[m] for m in cast(Pairing, model.fusion).experts}
        lengths = longest(setup.loaders(setup.modalities), experts, False)

    def build() -> MultimodalModel:
        adapted = copy.deepcopy(model)
        put_over_experts(adapted, part, lengths, modalities, setup.trust)
        return adapted

    adapted, history = setup.fit(stage, build)
    kept: dict[str, Any] | None = {
        "part": dict(part),
        "lengths": lengths,
        "modalities": modalities and list(modalities),
    }
    for encoder in adapted.encoders.values():
        for lora in list(lora_adapters(encoder).values()):
            lora.remove(merge=True)
            kept = None
    return Result(adapted, fusion, epochs | {setup.stage_name(stage): history.best_epoch}, adapter=kept)


def put_over_experts(
    model: MultimodalModel,
    part: Mapping[str, Any],
    lengths: Mapping[str, int] | None,
    modalities: Sequence[str] | None = None,
    trust: Sequence[str] | None = None,
) -> None:
    """Freeze a model that retrieves but for the query's side, and put an adapter into it.

    Args:
        model: changed in place.
        part: name and settings of the adapter.
        lengths: the most tokens of each expert; 1 of each where None.
        modalities: of methods that act in one encoder, which get it.
        trust: as for `adapters.insert`.
    """
    pairing = cast(Pairing, model.fusion)
    freeze(model, keep=[pairing.units, *([] if pairing.weigh is None else [pairing.weigh])])
    settings = dict(part)
    given = settings.pop("lengths", None) or lengths
    options = options_of(part["name"], trust)
    if isinstance(pairing, MMT) and acts_between_layers(options, settings):
        hosts = {m: ExpertLayers(pairing.layers, pairing.dims[m]) for m in pairing.experts}
        put = insert(settings, hosts, modalities=modalities, trust=trust)
        if put is not None:
            pairing.insert(BetweenExperts(put, hosts))
        return
    single = bool({"encoder", "module"} & set(options))
    own: dict[str, nn.Module] = {m: one for m, one in model.encoders.items() if single or m in pairing.experts}
    if "longer" in options:
        settings.setdefault("longer", "cut")
    if "output" in options:
        settings.setdefault("output", "per_modality")
    put = insert(settings, own, lengths=given or dict.fromkeys(own, 1), modalities=modalities, trust=trust)
    if put is not None:
        pairing.insert(_checked(put, part))


def acts_between_layers(options: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether the method of these options (`adapters.by_name.options_of`) acts between layers; experts share theirs."""
    return "encoders" in options or (bool(settings.get("last", options.get("last"))) and "lengths" not in options)


def _checked(put: Adapter, part: Mapping[str, Any]) -> Adapter:
    if not getattr(put, "dims", None):
        raise InputError(
            f"adapter {part['name']!r} shares its parts between encoders; in retrieval put one over the experts (wander) or into "
            "single encoders (lora, houlsby)"
        )
    return put


def take_whole(model: MultimodalModel, source: StartFrom, stage: str) -> None:
    """Copy into a model that retrieves the tensors of a run or a file whose names and shapes are its own.

    Raises:
        InputError: a source for each modality, no such file, or one of which nothing fits.
    """
    if not isinstance(source, (str, Path)):
        raise InputError(
            f"{stage}: start_from is one run or file in retrieval, whose Transformer belongs to no modality"
        )
    path = Path(source)
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{stage}: start_from={source}: no such file; name a run's folder or its model.safetensors")
    taken = take_over(model, read_weights(path), str(path))
    logger.info("%s: %d tensors from %s, %d as they were made", stage, len(taken.kept), path, len(taken.fresh))
