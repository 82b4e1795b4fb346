"""Advice before a training: what uni-modal models, cheap heads on their frozen encoders and joint pilots tell of a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from polymodal.balancers import Balancer, MultiLoss
from polymodal.config import Config, Part
from polymodal.encoders.by_kind import DEFAULTS
from polymodal.encoders.presets import PRESETS, PRETRAINED
from polymodal.errors import InputError
from polymodal.evaluate import Evaluation
from polymodal.recipes.auto import one_standard_error
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.frozen import frozen_features
from polymodal.recipes.joint import train_jointly
from polymodal.recipes.ume import ume
from polymodal.recipes.unimodal import train_each, unimodal
from polymodal.recipes.wander import wander
from polymodal.run import logger
from polymodal.tasks import Retrieval

__all__ = ["CANDIDATES", "Advice", "Candidate", "advise"]


@dataclass(frozen=True)
class Candidate:
    """A way to train.

    Attributes:
        options: how it is asked for on the command line.
        why: what its being chosen says of the data.
        settings: the same as settings of a run.
        train: makes it from a set-up whose uni-modal stages are trained, which joint training makes no use of.
    """

    options: str
    why: str
    settings: Mapping[str, Any]
    train: Callable[[Setup], Result]


def _frozen(fusion: str) -> Callable[[Setup], Result]:
    def train(setup: Setup) -> Result:
        config = setup.config.model_copy(update={"fusion": Part(name=fusion)})
        return frozen_features(replace(setup, config=config))

    return train


def _together(fusion: str) -> Callable[[Setup], Result]:
    def train(setup: Setup) -> Result:
        config = setup.config.model_copy(update={"fusion": Part(name=fusion)})
        return train_jointly(replace(setup, config=config), MultiLoss(), "joint")

    return train


def _jointly(fusion: str) -> dict[str, Any]:
    return {"recipe": {"name": "joint"}, "fusion": {"name": fusion}, "balancer": {"name": "multi_loss"}}


CANDIDATES: dict[str, Candidate] = {
    "unimodal": Candidate(
        "--recipe unimodal",
        "nothing that uses several modalities is distinguishably better than the best of them alone",
        {"recipe": {"name": "unimodal"}},
        unimodal,
    ),
    "ume_logit": Candidate(
        "--recipe ume recipe.combine=logit",
        "the modalities add up: averaged logits are as good as anything that was trained on top",
        {"recipe": {"name": "ume", "combine": "logit"}},
        lambda setup: ume(setup, "logit"),
    ),
    "ume_prob": Candidate(
        "--recipe ume",
        "the modalities add up: averaged probabilities are as good as anything that was trained on top",
        {"recipe": {"name": "ume"}},
        lambda setup: ume(setup, "prob"),
    ),
    "frozen_features": Candidate(
        "--recipe frozen_features --fusion concat",
        "the modalities deserve weights that an average does not give them",
        {"recipe": {"name": "frozen_features"}, "fusion": {"name": "concat"}},
        _frozen("concat"),
    ),
    "frozen_mlp": Candidate(
        "--recipe frozen_features --fusion mlp",
        "what one modality says depends on another: only heads that see pairs of features are this good",
        {"recipe": {"name": "frozen_features"}, "fusion": {"name": "mlp"}},
        _frozen("mlp"),
    ),
    "wander": Candidate(
        "--recipe wander recipe.output=per_modality",
        "what counts lies in tokens that must meet before they are pooled",
        {"recipe": {"name": "wander", "output": "per_modality"}},
        lambda setup: wander(setup, output="per_modality"),
    ),
    "multi_loss": Candidate(
        "--recipe joint --fusion concat --balancer multi_loss",
        "encoders that are trained together learn more than each alone, as long as each has a loss of its own",
        _jointly("concat"),
        _together("concat"),
    ),
    "mlp_multi_loss": Candidate(
        "--recipe joint --fusion mlp --balancer multi_loss",
        "what one modality says depends on another, and encoders that are trained alone throw that away",
        _jointly("mlp"),
        _together("mlp"),
    ),
}
"""What is compared, the simplest first."""
DEFAULT = "multi_loss"
"""What is advised of encoders from scratch unless something is distinguishably better."""


@dataclass(frozen=True)
class Advice:
    """What to train with, and the validation figures that say so.

    Attributes:
        chosen: name of the candidate.
        metric: what was compared.
        alone: figure of each modality alone.
        rows: of each candidate its figure, the standard error of its difference to the best, and its loss.
    """

    chosen: str
    metric: str
    alone: dict[str, float]
    rows: dict[str, dict[str, float]]

    @property
    def settings(self) -> dict[str, Any]:
        """What to lay over a run's settings."""
        return dict(CANDIDATES[self.chosen].settings)

    def text(self) -> str:
        """A page for the terminal."""
        width = max(len(name) for name in (*self.alone, *self.rows)) + 6
        lines = [f"{self.metric} on validation", ""]
        lines += [f"  {f'{m} alone':{width}} {figure:.4f}" for m, figure in self.alone.items()]
        for name, row in self.rows.items():
            mark = "  <- chosen" if name == self.chosen else ""
            lines.append(f"  {name:{width}} {row[self.metric]:.4f}  ({row['se_of_difference']:.4f}){mark}")
        one = CANDIDATES[self.chosen]
        return "\n".join([*lines, "", f"Try: {one.options}", f"  as {one.why}."])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "chosen": self.chosen, "options": CANDIDATES[self.chosen].options, "metric": self.metric, "alone": self.alone,
            "candidates": self.rows,
        }  # fmt: skip


def advise(setup: Setup) -> Advice:
    """Train each modality alone, try what costs little on top of the frozen encoders, train jointly twice, and say how to train.

    Heads on frozen features tell, for the price of the uni-modal trainings, whether modalities add up (an average does), need
    weights of their own (a linear head), depend on each other (an MLP sees pairs of features that a linear head does not), or
    meet in their tokens alone (Wander). Two joint trainings with Multi-Loss, of a linear head and of an MLP, tell whether the
    encoders must learn together, as where what counts is thrown away by encoders that are trained alone; all takes about three
    times as long as one joint training.

    A hundred validation samples hardly tell such candidates apart, so that it matters what is taken where they cannot. The advice
    is the first, in a fixed order, that is not distinguishably worse than the best on validation
    (`recipes.auto.one_standard_error`): the simplest first where an encoder begins with weights, and where all begin from
    scratch the joint model with Multi-Loss before the simplest, as the papers find (Kontras et al. 2024, figure 3: uni-modal
    losses help encoders from scratch; MMLoRA, anonymous 2023, table 5: of pre-trained ones ensembles beat joint training).

    Args:
        setup: of a run, as `Predictor.setup` gives it; its balancer and fusion play no part.

    Raises:
        InputError: no validation split, one modality, or retrieval.

    Source: Du et al. 2023, section 4.3, for the comparison of an average with a linear head; the rest is ours.
    """
    if setup.valid is None:
        raise InputError("diagnosing a table compares on a validation split; give one")
    if len(setup.modalities) < 2:
        raise InputError(f"there is one modality, {setup.modalities[0]!r}, and so nothing to combine")
    if isinstance(setup.task, Retrieval):
        raise InputError("in retrieval no modality predicts alone, so that a table cannot be diagnosed")
    setup = replace(setup, make_balancer=Balancer)
    models, _ = train_each(setup)
    shared = dict(setup.finished)
    metric = setup.config.train.metric or setup.task.default_metric
    found: dict[str, Evaluation] = {}
    for name, one in CANDIDATES.items():
        try:
            result = one.train(replace(setup, finished=dict(shared)))
        except InputError as error:
            if name != "wander":
                raise
            logger.info("diagnose: no Wander on these encoders: %s", error)
            continue
        found[name] = setup.evaluate(result.model)
    found = {name: found[name] for name in _order(setup.config) if name in found}
    sign = 1.0 if metric in setup.task.lower_is_better else -1.0
    figures = [setup.task.figures(metric, one.probabilities, one.target) for one in found.values()]
    chosen, errors = one_standard_error(figures, [sign * one.metrics[metric] for one in found.values()])
    rows = {
        name: {metric: one.metrics[metric], "se_of_difference": error, "loss": one.metrics["loss"]}
        for (name, one), error in zip(found.items(), errors, strict=True)
    }
    alone = {m: setup.evaluate(model).metrics[metric] for m, model in models.items()}
    return Advice(list(found)[chosen], metric, alone, {name: rows[name] for name in CANDIDATES if name in rows})


def _order(config: Config) -> list[str]:
    """Names of the candidates: of several that validation cannot tell apart the first is advised."""
    names = list(CANDIDATES)
    return names if _begins_trained(config) else sorted(names, key=lambda name: name != DEFAULT)


def _begins_trained(config: Config) -> bool:
    """Whether an encoder begins with weights, as far as the settings say it."""
    parts = config.encoders.values()
    named = any(part.name.lower() in PRETRAINED or {"weights", "folder"} & set(part.arguments) for part in parts)
    return named or (config.preset is not None and PRESETS[config.preset] != DEFAULTS)
