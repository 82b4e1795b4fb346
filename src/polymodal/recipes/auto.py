"""Automatic choice among recipes, on validation, by a one-standard-error rule that favours the simpler one."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.balancers import MLB, Balancer, MultiLoss
from polymodal.distributed import rank
from polymodal.errors import InputError
from polymodal.evaluate import Evaluation
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.frozen import frozen_features
from polymodal.recipes.joint import train_jointly
from polymodal.recipes.mmlora import mmlora
from polymodal.recipes.ume import ume
from polymodal.recipes.unimodal import unimodal
from polymodal.run import logger

__all__ = ["CANDIDATES", "auto", "one_standard_error"]

CANDIDATES: dict[str, Callable[[Setup], Result]] = {
    "unimodal": unimodal,
    "ume_prob": lambda setup: ume(setup, "prob"),
    "ume_logit": lambda setup: ume(setup, "logit"),
    "joint": lambda setup: train_jointly(setup, Balancer(), "joint"),
    "multi_loss": lambda setup: train_jointly(setup, MultiLoss(), "multi_loss"),
    "mlb": lambda setup: train_jointly(setup, MLB(apply_to=_scaled(setup)), "mlb"),
    "frozen_features": frozen_features,
    "mmlora": lambda setup: mmlora(replace(setup, make_balancer=Balancer)),
}
"""What `auto` compares, the simplest (by stages, then by what a stage does) first; a further recipe joins by one line."""


def _scaled(setup: Setup) -> str:
    """What MLB scales: an optimiser that normalises gradients would not notice it in them."""
    return "grad" if setup.config.optimizer.name == "sgd" else "update"


ROUNDING = 1e-9
"""One sample in N is exactly one standard error: rounding must not make it more."""


@dataclass
class Trial:
    """One candidate trained with one learning rate, and what it reached on validation."""

    candidate: str
    lr: float
    result: Result
    found: Evaluation
    seconds: float


def one_standard_error(
    figures: Sequence[Sequence[NDArray[np.float64]]], main: Sequence[float] | None = None
) -> tuple[int, list[float]]:
    """Index of the first candidate that is not distinguishably worse than the best; and each one's standard error.

    `figures[i]` holds arrays (N,) of candidate i on the same validation samples, smaller is better: its error in the metric,
    then its loss. The best has the smallest mean of the first array (then of the second). Another counts as good if its
    mean exceeds the best's by no more than one standard error of the paired difference, in every one of its arrays.

    Args:
        figures: of each candidate, the simplest first.
        main: what the best is chosen by instead of the first array's mean, smaller is better (a metric such as F1 that
            is no mean over samples).

    Returns:
        The index, and the standard error of each candidate's paired difference to the best in the first array.

    Source: Breiman et al. 1984, section 3.4.3 (the rule); paired differences and the loss beside the metric are ours:
    on a hundred samples an error rate alone hardly tells two models apart.

    Example:
        >>> right, wrong = np.zeros(100), np.r_[np.ones(30), np.zeros(70)]
        >>> one_standard_error([[wrong], [right], [right]])[0]
        1
    """
    keys = [(f[0].mean() if main is None else main[i], *(a.mean() for a in f[1:])) for i, f in enumerate(figures)]
    best = min(range(len(figures)), key=lambda i: keys[i])
    errors, chosen = [], best
    for i in reversed(range(len(figures))):
        gaps = [mine - theirs for mine, theirs in zip(figures[i], figures[best], strict=True)]
        spread = [float(gap.std(ddof=1)) / math.sqrt(len(gap)) if len(gap) > 1 else math.inf for gap in gaps]
        errors.append(spread[0])
        if i < best and all(gap.mean() <= one + ROUNDING for gap, one in zip(gaps, spread, strict=True)):
            chosen = i
    return chosen, errors[::-1]


def auto(setup: Setup, trials: int = 1, candidates: Sequence[str] | None = None) -> Result:
    """Train every candidate under one equal budget and keep what validation says, favouring the simpler.

    Candidates are uni-modal models, their ensembles by probabilities and by logits, joint training, Multi-Loss, MLB, and what
    has a joint stage after the uni-modal ones: a classifier on frozen features, and MMLoRA.
    Each gets the same number of trials (learning rates lr, lr / 3, 3 lr, ...) and the same epochs; ensembles need no
    training of their own. The winner is the simplest that is not distinguishably worse than the best
    (`one_standard_error`). The configured balancer plays no part.

    Args:
        trials: learning rates a candidate.
        candidates: names of `CANDIDATES`; all by default.

    Raises:
        InputError: no validation split, or an unknown candidate.
    """
    if setup.valid is None:
        raise InputError("recipe 'auto' chooses on a validation split; give one")
    unknown = sorted(set(candidates or ()) - set(CANDIDATES))
    if unknown or trials < 1:
        raise InputError(
            f"recipe auto: candidates {unknown}, trials={trials}; there are {list(CANDIDATES)}, trials from 1"
        )
    names = [name for name in CANDIDATES if not candidates or name in candidates]
    if len(setup.modalities) == 1:
        names = names[:1]
    rates = [setup.config.optimizer.lr * factor for factor in _factors(trials)]
    metric = setup.config.train.metric or setup.task.default_metric
    done: list[Trial] = []
    for name in names:
        for number, rate in enumerate(rates):
            trial = setup if number == 0 else setup.with_rate(rate, f"_trial{number + 1}")
            before = sum(trial.seconds.values())
            result = CANDIDATES[name](trial)
            spent = sum(trial.seconds.values()) - before
            done.append(Trial(name, rate, result, setup.evaluate(result.model), spent))
    sign = 1.0 if metric in setup.task.lower_is_better else -1.0
    figures = [setup.task.figures(metric, one.found.probabilities, one.found.target) for one in done]
    chosen, errors = one_standard_error(figures, [sign * one.found.metrics[metric] for one in done])
    rows = [
        {
            "candidate": one.candidate,
            "lr": one.lr,
            metric: one.found.metrics[metric],
            "se_of_difference": error,
            "loss": one.found.metrics["loss"],
            "seconds": round(one.seconds, 3),
            "chosen": i == chosen,
        }
        for i, (one, error) in enumerate(zip(done, errors, strict=True))
    ]
    setup.leaderboard = rows
    total = sum(one.seconds for one in done)
    logger.info(
        "auto: %d trials in %.0f s, chosen %s (lr %g, valid %s %.4f)",
        len(done),
        total,
        done[chosen].candidate,
        done[chosen].lr,
        metric,
        done[chosen].found.metrics[metric],
        extra={"note": rank() == 0},
    )
    if setup.run is not None and rank() == 0:
        setup.run.write_text("leaderboard.csv", _csv(rows))
    best = done[chosen].result
    models = next((one.result.unimodal for one in done if one.result.unimodal), {})
    return Result(best.model, best.fusion, best.best_epoch, models, chosen=done[chosen].candidate)


def _factors(count: int) -> list[float]:
    """1, 1/3, 3, 1/9, 9, ..."""
    return [3.0 ** (-((i + 1) // 2) if i % 2 else i // 2) for i in range(count)]


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
