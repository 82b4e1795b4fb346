"""Any adapter in or between frozen encoders, trained with a head."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from polymodal import names
from polymodal.adapters import Adapter, insert, lora_adapters
from polymodal.adapters.by_name import options_of
from polymodal.adapters.injected import Injected
from polymodal.adapters.lora.handle import Counts
from polymodal.config import Part
from polymodal.distributed import gather_objects
from polymodal.encoders.base import LayeredEncoder, linear_heads, width
from polymodal.errors import InputError
from polymodal.fit import Sized
from polymodal.model import MultimodalModel
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.frozen import features_of, fresh, input_of, with_tokens
from polymodal.recipes.over_experts import over_experts
from polymodal.recipes.transfer import StartFrom, started
from polymodal.recipes.unimodal import Checkpoints, check_checkpoints, train_each
from polymodal.run import logger
from polymodal.tasks import Retrieval
from polymodal.types import Features

__all__ = ["adapter", "train_adapter"]

JOINT_HEAD = {"name": "polymodal.adapters.JointHead"}


def adapter(
    setup: Setup,
    method: str | Mapping[str, Any] = "wander",
    modalities: Sequence[str] | None = None,
    fine_tune: bool = True,
    checkpoints: Checkpoints = None,
    start_from: StartFrom = None,
    after: str | Mapping[str, Any] | None = None,
) -> Result:
    """Train each modality alone, freeze the encoders, put an adapter into or between them, train it with the fusion.

    Methods in one encoder are `lora`, `houlsby`, `ptuning` and `ptuning_v2`; across encoders `maple`, `pmf`, `mbt`, `uniadapter`,
    `aurora` and `wander` (see `polymodal list adapters`). All but `lora` and `wander` need encoders that run layer by layer.
    The head is the configured fusion; the configured balancer acts in the joint stage. Uni-modal heads, where fusion or
    balancer have any, go on from those of the uni-modal phase. LoRA is merged in the end.

    Args:
        method: its name, or the name with its settings (`recipe.method=houlsby recipe.method.down=8`), or a dotted path.
        modalities: of a method in one encoder, those that get it; all by default. The others run once a sample, and their
            features come from a cache.
        fine_tune: false leaves out the uni-modal phase, for encoders that are pre-trained.
        checkpoints: of the uni-modal phase, see `frozen_features`.
        start_from: a run's folder or a file of weights (or one a modality), whose encoders' tensors are what the encoders begin
            with wherever the shapes agree. Those that do not agree are named; without a uni-modal phase they train with the
            adapter.
        after: another recipe, by name or with its settings (`recipe.after=mmlora recipe.after.rank=2`), whose encoders are
            frozen in the place of those of a uni-modal phase. The configured balancer acts in the last stage alone; one of
            that recipe is named beside it (`recipe.after=joint recipe.after.balancer=mlb`). A fusion that is also the one
            configured here goes on from there, so that an adapter that changes nothing at first begins with that very model.

    Raises:
        InputError: settings that cannot be, before anything is trained.

    Source: each method's own, see `polymodal.adapters`.
    """
    part: dict[str, Any] = {"name": method} if isinstance(method, str) else dict(method)
    if not part.get("name"):
        raise InputError("adapter: name the method, for example recipe.method=houlsby")
    return train_adapter(setup, "adapter", part, modalities, fine_tune, checkpoints, start_from, after)


def train_adapter(
    setup: Setup,
    stage: str,
    part: Mapping[str, Any],
    modalities: Sequence[str] | None = None,
    fine_tune: bool = True,
    checkpoints: Checkpoints = None,
    start_from: StartFrom = None,
    after: str | Mapping[str, Any] | None = None,
) -> Result:
    """What `adapter` does, as a stage of that name; `part` is the method's name and settings.

    The most tokens of each modality, `lengths`, are those of training and validation where the settings leave them out, and
    longer sequences are then cut, unless `longer` says otherwise. For retrieval see `over_experts.over_experts`.
    """
    check_checkpoints(stage, fine_tune, checkpoints)
    if start_from is not None and checkpoints:
        raise InputError(f"{stage}: checkpoints are of a finished phase, start_from is what one begins with; give one")
    if after is not None and (checkpoints or start_from is not None or not fine_tune):
        raise InputError(
            f"{stage}: after={after!r} says where the encoders come from; leave out checkpoints, start_from and fine_tune, or "
            "give them to that recipe"
        )
    if isinstance(setup.task, Retrieval):
        if after is not None:
            raise InputError(
                f"{stage}: after={after!r}: no other recipe comes before an adapter in retrieval; use start_from"
            )
        if checkpoints:
            raise InputError(
                f"{stage}: checkpoints are of single modalities, which retrieval has none of; use start_from"
            )
        return over_experts(setup, stage, part, _longest, modalities, fine_tune, start_from)
    setup, unfit = started(setup, start_from)
    options = options_of(part["name"], setup.trust)
    settings = dict(part)
    given: Mapping[str, int] | None = settings.pop("lengths", None) if "lengths" in options else None
    if "longer" in options:
        settings.setdefault("longer", "cut")
    balancer = setup.make_balancer()

    def assemble(encoders: dict[str, nn.Module], lengths: Mapping[str, int]) -> MultimodalModel:
        before = dict(encoders)
        put = insert(settings, encoders, lengths=lengths, modalities=modalities, trust=setup.trust)
        if any(encoders[m] is not one for m, one in before.items()):
            raise InputError(f"{stage}: {part['name']!r} trains with an encoder of its own; use --recipe mmbt")
        for m, untrained in {} if fine_tune else unfit.items():
            known = dict(encoders[m].named_parameters())
            for name in untrained:  # what nothing has trained yet
                if name in known:
                    known[name].requires_grad_(True)
        dims = {m: width(encoder) for m, encoder in encoders.items()}
        fusion = setup.fusion(dims if put is None else put.dims_after(dims), head_part(setup, put))
        heads = None
        if balancer.needs_heads or getattr(fusion, "needs_heads", False):
            if put is not None and put.joins:
                raise InputError(
                    f"{stage}: all modalities have one joint output, which uni-modal heads cannot tell apart; take a balancer "
                    "and a fusion without heads, or output='per_modality'"
                )
            heads = linear_heads(encoders, setup.task.outputs)
        return MultimodalModel(encoders, fusion, heads, put)

    # Wrong settings must not cost the uni-modal phase.
    trial = {m: setup.make_encoder(m) for m in setup.modalities}
    shown = assemble(trial, given or dict.fromkeys(setup.modalities, 1))
    epochs: dict[str, int] = {}
    models: dict[str, MultimodalModel] = {}
    before: Result | None = None
    if fine_tune:
        if after is None:
            models, epochs = train_each(setup, checkpoints)
        else:
            before = _result_of(setup, stage, after)
            models, epochs = _taken_apart(setup, before.model), before.best_epoch
        encoders = {m: one.encoders[m] for m, one in models.items()}
    else:
        encoders = {m: fresh(setup, m) for m in setup.modalities}

    still = _still(shown, encoders)
    between = shown.adapter is not None and bool(shown.adapter.last)
    rich = with_tokens(setup, {m: encoders[m] for m in still})
    loaders = (
        setup.cached({m: encoders[m] for m in still}, setup.modalities, tokens=rich)
        if still
        else setup.loaders(setup.modalities)
    )
    lengths = dict(given or {})
    if "lengths" in options:
        longest = _longest(loaders, encoders, between)
        lengths = lengths or longest
        over = {m: n for m, n in longest.items() if n > lengths.get(m, n)}
        if over and settings.get("longer") == "error":
            raise InputError(
                f"{stage}: lengths={lengths}, and there are sequences of {over} tokens; allow them or longer='cut'"
            )

    def build() -> MultimodalModel:
        model = assemble(copy.deepcopy(encoders), lengths)
        for m, head in model.heads.items() if fine_tune else ():
            head.load_state_dict(models[m].heads[m].state_dict())
        if before is not None and before.fusion == head_part(setup, model.adapter):
            _go_on(model.fusion, before.model.fusion)
        every = list(model.parameters())
        counts = Counts(sum(p.numel() for p in every if p.requires_grad), sum(p.numel() for p in every))
        logger.info("%s, head included: %s", part["name"], counts)
        return model

    model, history = setup.fit(stage, build, balancer, loaders)
    kept: dict[str, Any] | None = {
        "part": settings,
        "lengths": lengths or None,
        "modalities": modalities and list(modalities),
    }
    for encoder in model.encoders.values():
        for lora in list(lora_adapters(encoder).values()):
            lora.remove(merge=True)
            kept = None
    return Result(
        model,
        head_part(setup, model.adapter),
        epochs | {setup.stage_name(stage): history.best_epoch},
        models,
        adapter=kept,
    )


def _result_of(setup: Setup, stage: str, after: str | Mapping[str, Any]) -> Result:
    """What another recipe ends with: a model with a head of each modality and no adapter."""
    part = Part.model_validate(after)
    arguments = part.arguments
    balancer = Part.model_validate(arguments.pop("balancer", "joint")).model_dump()
    setup.balancer(balancer)  # wrong settings must not wait for their stage
    inner = replace(setup, make_balancer=lambda: setup.balancer(balancer))
    recipe = names.resolve("recipes", part.name, trust=setup.trust)
    result: Result = recipe(**names.bind(recipe, arguments, {"setup": inner}, f"{stage}.after"))
    whole = result.model
    missing = [m for m in setup.modalities if m not in whole.heads]
    if missing or result.adapter is not None:
        what = f"has no head of {', '.join(missing)} alone" if missing else "keeps an adapter of its own"
        raise InputError(
            f"{stage}: after={part.name!r}: its model {what}; mmlora, ume and full_ume leave what is needed, and "
            "joint under a balancer that trains heads, such as recipe.after.balancer=mlb"
        )
    return result


def _taken_apart(setup: Setup, whole: MultimodalModel) -> dict[str, MultimodalModel]:
    """Each modality's encoder and head as models of their own."""
    models = {}
    for m in setup.modalities:
        models[m] = setup.unimodal_model(m)
        models[m].encoders[m], models[m].heads[m] = whole.encoders[m], whole.heads[m]
    return models


def _go_on(fusion: nn.Module, before: nn.Module) -> None:
    """Take over a fusion's weights, unless the adapter changed the widths that it reads."""
    own, theirs = fusion.state_dict(), before.state_dict()
    if {name: one.shape for name, one in own.items()} == {name: one.shape for name, one in theirs.items()}:
        fusion.load_state_dict(theirs)


def head_part(setup: Setup, put: Adapter | None) -> dict[str, Any]:
    """Name and settings of the fusion. One joint output is read once: `concat` would read its copies."""
    part = setup.config.fusion.model_dump()
    return dict(JOINT_HEAD) if put is not None and put.joins and part == {"name": "concat"} else part


def _still(model: MultimodalModel, encoders: Iterable[str]) -> list[str]:
    """Modalities whose encoders run alone and train nothing, so that their features can be kept."""
    if model.adapter is not None and (model.adapter.last or isinstance(model.adapter, Injected)):
        return []
    return [m for m in encoders if not any(p.requires_grad for p in model.encoders[m].parameters())]


@torch.no_grad()
def _longest(loaders: tuple[Sized, Sized | None], encoders: Mapping[str, nn.Module], between: bool) -> dict[str, int]:
    """The most tokens of each modality in training and validation, between the layers or behind them."""
    most = dict.fromkeys(encoders, 1)
    for loader in loaders:
        for batch in loader or ():
            for m, encoder in encoders.items():
                x = batch.inputs[m]
                tokens: Tensor | None
                if between and isinstance(encoder, LayeredEncoder):
                    tokens = encoder.embed(input_of(encoder, batch, m)).tokens
                else:
                    tokens = (x if isinstance(x, Features) else features_of(encoder, batch, m)).tokens
                most[m] = max(most[m], 1 if tokens is None else tokens.shape[1])
    return {m: max(one[m] for one in gather_objects(most)) for m in most}
