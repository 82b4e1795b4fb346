"""MMLoRA: uni-modally fine-tuned encoders, frozen and adapted to each other by low-rank updates; and its full-rank rival."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from polymodal.adapters.lora import inject_lora, lora_adapters
from polymodal.balancers import Balancer
from polymodal.distributed import rank as process
from polymodal.errors import InputError
from polymodal.evaluate import evaluate
from polymodal.model import MultimodalModel
from polymodal.names import nearest
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.frozen import fresh
from polymodal.recipes.unimodal import Checkpoints, check_checkpoints, train_each
from polymodal.run import logger

__all__ = ["full_ume", "mmlora"]


def mmlora(
    setup: Setup,
    rank: int = 1,
    alpha: float | None = None,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "attention",
    conv: Literal["conv_then_1x1", "kernel_times_channel"] = "conv_then_1x1",
    modalities: Sequence[str] | None = None,
    combine: Literal["prob", "logit"] = "prob",
    fine_tune: bool = True,
    checkpoints: Checkpoints = None,
    keep: Literal["better", "adapted"] = "better",
) -> Result:
    """Fine-tune each encoder alone, freeze all, train low-rank updates jointly on the averaged probabilities, merge.

    L = -log (1/M) sum_m P_m(y | x_m), P_m = softmax(z_m): a mixture, whose gradient goes to the modality that is already
    right. Of several labels, each is a mixture of Bernoullis. Heads and BatchNorm statistics stay as the uni-modal phase
    left them. The adapted model starts exactly at the ensemble (UME), and with `keep="better"` the better of the two on
    validation is the result, which is an ordinary model: the updates are part of its weights. Modalities that are not
    adapted run once a sample; their features come from a cache. The configured balancer acts in the joint stage.

    Args:
        rank: r of each update.
        alpha: numerator of the scale alpha / r; r by default.
        dropout: probability at the input of the updates.
        targets: "attention" is Q, K and V of every block, all convolutions of a CNN, or all linear layers of an encoder
            with neither; or patterns of layer names, see `adapters.lora.inject_lora`.
        conv: the form of a convolution's update.
        modalities: which are adapted; all by default.
        combine: "logit" trains and predicts by averaged logits instead.
        fine_tune: false leaves out the uni-modal phase; the heads then train beside the updates.
        checkpoints: of the uni-modal phase, see `frozen_features`.
        keep: "adapted" keeps the adapted model even where the ensemble is better on validation.

    Raises:
        InputError: settings that cannot be, before anything is trained.

    Source: anonymous 2023 (MMLoRA), eq. 1 to 3 and section 3.3.
    Differs from the authors' code: none is public. Keeping the better of the two, alpha = r, and the multi-label mixture
    are ours.
    """
    adapted = list(setup.modalities if modalities is None else modalities)
    foreign = [m for m in adapted if m not in setup.modalities]
    if foreign or not adapted:
        hint = nearest(foreign[0], setup.modalities) if foreign else ""
        raise InputError(f"mmlora: modalities {adapted}{hint}; name some of {', '.join(setup.modalities)}")
    if keep not in ("better", "adapted"):
        raise InputError(f"mmlora: keep={keep!r}; it is 'better' or 'adapted'")
    check_checkpoints("mmlora", fine_tune, checkpoints)
    part = {"name": "mixture", "combine": combine}
    fusion = setup.fusion(dict.fromkeys(setup.modalities, 0), part)

    def inject(encoder: nn.Module) -> None:
        inject_lora(encoder, rank, alpha=alpha, dropout=dropout, targets=targets, conv=conv)

    for m in adapted:  # wrong settings must not cost the uni-modal phase
        inject(setup.make_encoder(m))
    epochs: dict[str, int] = {}
    if fine_tune:
        models, epochs = train_each(setup, checkpoints)
    else:
        models = {}
        for m in setup.modalities:
            encoder = fresh(setup, m)
            models[m] = setup.unimodal_model(m)
            models[m].encoders[m] = encoder

    def build() -> MultimodalModel:
        encoders = {m: copy.deepcopy(one.encoders[m]) for m, one in models.items()}
        heads = {m: copy.deepcopy(one.heads[m]) for m, one in models.items()}
        for m, encoder in encoders.items():
            encoder.requires_grad_(False)
            heads[m].requires_grad_(not fine_tune)
            if m in adapted:
                inject(encoder)
        return MultimodalModel(encoders, fusion, heads)

    still = {m: models[m].encoders[m] for m in setup.modalities if m not in adapted}
    loaders = setup.cached(still, setup.modalities)
    ensemble = MultimodalModel(
        {m: one.encoders[m] for m, one in models.items()}, fusion, {m: one.heads[m] for m, one in models.items()}
    )
    found: dict[str, dict[str, float]] = {}
    if fine_tune and loaders[1] is not None:
        setup.seed(setup.stage_name("mmlora"))
        start = build().to(next(ensemble.parameters()).device)
        found = {
            "ume": evaluate(ensemble, loaders[1], setup.task).metrics,
            "start": evaluate(start, loaders[1], setup.task).metrics,
        }
        if abs(found["ume"]["loss"] - found["start"]["loss"]) > 1e-4 * max(1.0, found["ume"]["loss"]):
            raise InputError(
                f"mmlora: the adapted model starts at validation loss {found['start']['loss']:.6f} and the ensemble has "
                f"{found['ume']['loss']:.6f}; an encoder draws at random even in eval mode, which freezing cannot stop"
            )
    model, history = setup.fit("mmlora", build, setup.make_balancer(), loaders)
    for m in adapted:
        for lora in list(lora_adapters(model.encoders[m]).values()):
            lora.remove(merge=True)
    result = Result(model, part, epochs | {setup.stage_name("mmlora"): history.best_epoch}, models if fine_tune else {})
    if found:
        result = _better(setup, result, ensemble, found) if keep == "better" else result
    return result


def _better(setup: Setup, result: Result, ensemble: MultimodalModel, found: dict[str, dict[str, float]]) -> Result:
    """The result, or the ensemble where that is better on validation; told in the log and in RUN/mmlora.json."""
    found["mmlora"] = setup.evaluate(result.model).metrics
    kept = setup.best({name: found[name] for name in ("mmlora", "ume")})
    logger.info(
        "validation loss %.4f of the ensemble, %.4f after adaptation: %s is kept",
        found["ume"]["loss"], found["mmlora"]["loss"], "the adapted model" if kept == "mmlora" else "the ensemble",
    )  # fmt: skip
    if setup.run is not None and process() == 0:
        setup.run.write_json(f"{setup.stage_name('mmlora')}.json", {**found, "kept": kept})
    result.chosen = kept
    if kept == "ume":
        result.model = ensemble
    return result


def full_ume(setup: Setup, combine: Literal["prob", "logit"] = "prob", checkpoints: Checkpoints = None) -> Result:
    """Train each modality alone, then all of them jointly from there, every weight, on the averaged predictions.

    MMLoRA's second stage with nothing frozen. The configured balancer plays no part.

    Args:
        combine: "prob" averages probabilities, "logit" logits.
        checkpoints: of the uni-modal phase, see `frozen_features`.

    Source: anonymous 2023 (MMLoRA), the baseline "UME fully fine-tuned" of its tables.
    """
    part: Mapping[str, str] = {"name": "mixture", "combine": combine}
    fusion = setup.fusion(dict.fromkeys(setup.modalities, 0), part)
    models, epochs = train_each(setup, checkpoints)

    def build() -> MultimodalModel:
        encoders = {m: copy.deepcopy(one.encoders[m]) for m, one in models.items()}
        return MultimodalModel(encoders, fusion, {m: copy.deepcopy(one.heads[m]) for m, one in models.items()})

    model, history = setup.fit("full_ume", build, Balancer())
    return Result(model, dict(part), epochs | {setup.stage_name("full_ume"): history.best_epoch}, models)
