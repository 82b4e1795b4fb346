"""Advice before a training: what uni-modal models, cheap heads on their frozen encoders and joint pilots tell of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.balancers import MLB, Balancer, MultiLoss
from polymodal.config import Part
from polymodal.errors import Diverged, InputError
from polymodal.evaluate import Evaluation, evaluate
from polymodal.fit import Sized
from polymodal.model import MultimodalModel
from polymodal.recipes.auto import one_standard_error
from polymodal.recipes.base import Only, Result, Setup
from polymodal.recipes.frozen import frozen_features
from polymodal.recipes.joint import train_jointly
from polymodal.recipes.ume import ume
from polymodal.recipes.unimodal import train_each, unimodal
from polymodal.recipes.wander import wander
from polymodal.run import logger
from polymodal.tasks import Retrieval, Task

__all__ = ["CANDIDATES", "Advice", "Candidate", "Judged", "advise", "decide", "judge"]


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


def _together(fusion: str, balancer: Callable[[], Balancer]) -> Callable[[Setup], Result]:
    def train(setup: Setup) -> Result:
        config = setup.config.model_copy(update={"fusion": Part(name=fusion)})
        return train_jointly(replace(setup, config=config), balancer(), "joint")

    return train


def _jointly(fusion: str, balancer: str, **arguments: Any) -> dict[str, Any]:
    return {"recipe": {"name": "joint"}, "fusion": {"name": fusion}, "balancer": {"name": balancer, **arguments}}


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
        _jointly("concat", "multi_loss"),
        _together("concat", MultiLoss),
    ),
    "mlb": Candidate(
        "--recipe joint --fusion concat --balancer mlb balancer.apply_to=update",
        "one encoder learns more slowly than another, and coefficients let it catch up",
        _jointly("concat", "mlb", apply_to="update"),
        _together("concat", lambda: MLB(apply_to="update")),
    ),
    "mlp_multi_loss": Candidate(
        "--recipe joint --fusion mlp --balancer multi_loss",
        "what one modality says depends on another, and encoders that are trained alone throw that away",
        _jointly("mlp", "multi_loss"),
        _together("mlp", MultiLoss),
    ),
}
"""What is compared, the simplest first."""
ENOUGH = 2000
"""Samples judged after which no further fold is trained: what two candidates differ by is then known to half a point."""


@dataclass(frozen=True)
class Judged:
    """What models said of samples that they were not trained on.

    Attributes:
        task: of the models.
        metric: what is compared.
        target: (N, ...) of the samples.
        alone: probabilities (N, C) of each modality alone.
        found: of each candidate.
    """

    task: Task
    metric: str
    target: NDArray[Any]
    alone: dict[str, NDArray[np.float64]]
    found: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Advice:
    """What to train with, and the figures over all held-out samples that say so.

    Attributes:
        chosen: name of the candidate that is best.
        simplest: the first of `CANDIDATES` that is not distinguishably worse; the same if there is none simpler.
        metric: what was compared.
        samples: that the figures are of.
        alone: figure of each modality alone.
        rows: of each candidate its figure, the standard error of its difference to the best, and its loss.
    """

    chosen: str
    simplest: str
    metric: str
    samples: int
    alone: dict[str, float]
    rows: dict[str, dict[str, float]]

    @property
    def settings(self) -> dict[str, Any]:
        """What to lay over a run's settings."""
        return dict(CANDIDATES[self.chosen].settings)

    def text(self) -> str:
        """A page for the terminal."""
        width = max(len(name) for name in (*self.alone, *self.rows)) + 6
        lines = [f"{self.metric} on {self.samples} samples, each held out once", ""]
        lines += [f"  {f'{m} alone':{width}} {figure:.4f}" for m, figure in self.alone.items()]
        for name, row in self.rows.items():
            mark = "  <- best" if name == self.chosen else ""
            lines.append(f"  {name:{width}} {row[self.metric]:.4f}  ({row['se_of_difference']:.4f}){mark}")
        lines += ["", f"Try: {CANDIDATES[self.chosen].options}", f"  as {CANDIDATES[self.chosen].why}."]
        if self.simplest != self.chosen:
            lines.append(f"Simpler, and as good as far as these samples tell: {CANDIDATES[self.simplest].options}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "chosen": self.chosen,
            "options": CANDIDATES[self.chosen].options,
            "simplest": self.simplest,
            "metric": self.metric,
            "samples": self.samples,
            "alone": self.alone,
            "candidates": self.rows,
        }


def advise(rounds: Iterable[tuple[Setup, Sized]]) -> Advice:
    """Train each modality alone, heads on the frozen encoders, and joint models, on every fold of the data; say which to take.

    Heads on frozen features tell, for the price of the uni-modal trainings, whether modalities add up (an average does), need
    weights of their own (a linear head), depend on each other (an MLP sees pairs of features that a linear head does not), or
    meet in their tokens alone (Wander). Three joint trainings, Multi-Loss with a linear head and with an MLP, and MLB, tell
    whether the encoders must learn together, as where what counts is thrown away by encoders that are trained alone.

    The hundred samples of a validation split hardly tell such candidates apart, and the same split chooses the epoch of each,
    which flatters those whose figures go up and down. All is trained on several folds therefore: each sample of training and
    validation is judged once, by models that neither were trained nor had their epoch chosen on it. The best over all of them is
    advised. A fold takes about four times as long as one joint training; large data need fewer folds, as the last are left out
    once 2,000 samples have been judged.

    Args:
        rounds: of each fold a run's set-up and batches of what it holds out, as `Predictor.rounds` gives them; balancer and
            fusion of the set-ups play no part.

    Raises:
        InputError: no round, no validation split, one modality, or retrieval.

    Source: Du et al. 2023, section 4.3, for the comparison of an average with a linear head; the rest is ours.
    """
    judged: list[Judged] = []
    advice: Advice | None = None
    for setup, held_out in rounds:
        judged.append(judge(setup, held_out))
        advice = decide(judged)
        if advice.samples >= ENOUGH:
            break
        row = advice.rows[advice.chosen]
        told = (advice.samples, advice.chosen, advice.metric, row[advice.metric])
        logger.info("%d samples judged; best so far %s, %s %.4f", *told, extra={"note": True})
    if advice is None:
        raise InputError("there is no fold to train and judge on; give at least one round")
    return advice


def judge(setup: Setup, held_out: Sized) -> Judged:
    """What the uni-modal models and all candidates of one fold say of what it holds out; see `advise`."""
    if setup.valid is None:
        raise InputError("diagnosing a table chooses epochs on a validation split; give one")
    if len(setup.modalities) < 2:
        raise InputError(f"there is one modality, {setup.modalities[0]!r}, and so nothing to combine")
    if isinstance(setup.task, Retrieval):
        raise InputError("in retrieval no modality predicts alone, so that a table cannot be diagnosed")
    setup = replace(setup, make_balancer=Balancer)
    models, _ = train_each(setup)
    shared = dict(setup.finished)
    told = {m: _evaluated(model, held_out, setup) for m, model in models.items()}
    found: dict[str, Evaluation] = {}
    for name, one in CANDIDATES.items():
        try:
            result = one.train(replace(setup, finished=dict(shared)))
            found[name] = _evaluated(result.model, held_out, setup)
        except Diverged as error:
            logger.info("%s diverged, and is left out: %s", name, error, extra={"note": True})
        except InputError as error:
            if name != "wander":
                raise
            logger.info("no Wander on these encoders: %s", error, extra={"note": True})
    return Judged(
        setup.task,
        setup.config.train.metric or setup.task.default_metric,
        next(iter(told.values())).target,
        {m: one.probabilities for m, one in told.items()},
        {name: one.probabilities for name, one in found.items()},
    )


def decide(folds: Sequence[Judged]) -> Advice:
    """The advice, from what was said in all folds; a candidate that failed in one of them is left out."""
    task, metric = folds[0].task, folds[0].metric
    target = np.concatenate([one.target for one in folds])
    alone = {m: np.concatenate([one.alone[m] for one in folds]) for m in folds[0].alone}
    names = [name for name in CANDIDATES if all(name in one.found for one in folds)]
    found = {name: np.concatenate([one.found[name] for one in folds]) for name in names}
    metrics = {name: task.metrics(one, target) for name, one in found.items()}
    sign = 1.0 if metric in task.lower_is_better else -1.0
    figures = [task.figures(metric, one, target) for one in found.values()]
    simplest, errors = one_standard_error(figures, [sign * one[metric] for one in metrics.values()])
    rows = {
        name: {metric: one[metric], "se_of_difference": error, "loss": one["loss"]}
        for (name, one), error in zip(metrics.items(), errors, strict=True)
    }
    best = min(names, key=lambda name: (sign * rows[name][metric], rows[name]["loss"]))
    figure = {m: task.metrics(one, target)[metric] for m, one in alone.items()}
    return Advice(best, names[simplest], metric, len(target), figure, rows)


def _evaluated(model: MultimodalModel, loader: Sized, setup: Setup) -> Evaluation:
    return evaluate(model, Only(loader, model.modalities), setup.task)
