"""G-Blending: gradient blending by overfitting and generalisation (Wang et al. 2020)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from polymodal.balancers import Balancer, MultiLoss
from polymodal.distributed import rank
from polymodal.errors import InputError
from polymodal.evaluate import evaluate
from polymodal.fit import Sized
from polymodal.model import MultimodalModel
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.joint import train_jointly
from polymodal.recipes.unimodal import train_each
from polymodal.run import logger
from polymodal.types import Batch, Model, Step

__all__ = ["Blend", "gblend", "gblend_overfitting", "gblend_ratios", "gblend_weights"]

FUSED = "fused"
Builds = Mapping[str, tuple[str, Callable[[], MultimodalModel]]]
"""For each head (modalities, then `FUSED`) the stage that trains it alone, and what makes the model it starts from."""


# The rule -------------------------------------------------------------------------------------------------------------


def gblend_overfitting(train_n: Tensor, val_n: Tensor, train_N: Tensor, val_N: Tensor) -> tuple[Tensor, Tensor]:
    """Generalisation G_k and overfitting O_k of each head between checkpoints n < N, from mean losses (K,).

    G_k = Lval_k(n) - Lval_k(N); O_k = (Lval_k - Ltrain_k)(N) - (Lval_k - Ltrain_k)(n).

    Source: Wang et al. 2020, section 3.1.

    Example:
        >>> one = torch.ones(1)
        >>> gblend_overfitting(2.0 * one, 2.5 * one, 1.0 * one, 1.75 * one)
        (tensor([0.7500]), tensor([0.2500]))
    """
    return val_n - val_N, (val_N - train_N) - (val_n - train_n)


def gblend_ratios(generalization: Tensor, overfitting: Tensor) -> Tensor:
    """G_k / O_k^2, the optimal weights before they are scaled to sum to 1; (K,), (K,) -> (K,).

    A head that did not generalise (G < 0) gets 0, and O^2 is at least 1e-8.

    Source: Wang et al. 2020, proposition 1; the guards are ours.

    Example:
        >>> gblend_ratios(torch.tensor([0.5, -0.1]), torch.tensor([0.5, 0.2]))
        tensor([2., 0.])
    """
    return generalization.clamp_min(0) / overfitting.square().clamp_min(1e-8)


def gblend_weights(train_n: Tensor, val_n: Tensor, train_N: Tensor, val_N: Tensor) -> Tensor:
    """w_k = (1 / Z) G_k / O_k^2, summing to 1, of the heads (modalities and fused) from mean losses (K,) -> (K,).

    Losses are means over samples, of training and validation at the checkpoints n < N. If no head generalised the
    weights are equal.

    Source: Wang et al. 2020, eq. 2 to 6.

    Example:
        >>> train, val = torch.tensor([2.0, 2.0]), torch.tensor([2.0, 2.0])
        >>> gblend_weights(train, val, torch.tensor([1.0, 1.0]), torch.tensor([1.5, 1.25]))
        tensor([0.1429, 0.8571])
    """
    raw = gblend_ratios(*gblend_overfitting(train_n, val_n, train_N, val_N))
    return torch.where(
        raw.sum() > 0, raw / raw.sum().clamp_min(torch.finfo(raw.dtype).tiny), torch.full_like(raw, 1 / len(raw))
    )


# The loss -------------------------------------------------------------------------------------------------------------


class Blend(MultiLoss):
    """L = w_fused CE(z, y) + sum_m w_m CE(z_m, y), whose weights may be estimated anew as training goes on.

    The weights are kept in a buffer, and appear as coefficients (with one named "fused") in the history.

    Args:
        modalities: in the order of the weights.
        weights: (M + 1,), that of the fused head last; equal by default.
        estimate: new weights from the model, the number of the super-epoch (from 0) and the learning rate of the moment.
        super_epoch: epochs between two estimates; the first comes before the first epoch.
    """

    blend: Tensor

    def __init__(
        self,
        modalities: Sequence[str],
        weights: Tensor | None = None,
        estimate: Callable[[Model, int, float], Tensor] | None = None,
        super_epoch: int = 1,
    ) -> None:
        super().__init__()
        self.names = (*modalities, FUSED)
        equal = torch.full((len(self.names),), 1 / len(self.names))
        self.register_buffer("blend", equal if weights is None else weights.float())
        self.estimate, self.super_epoch = estimate, super_epoch
        self._optimizer: torch.optim.Optimizer | None = None

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def start_epoch(self, model: Model, loader: Iterable[Batch]) -> None:
        super().start_epoch(model, loader)
        number, rest = divmod(int(self.epoch), self.super_epoch)
        if self.estimate is not None and not rest and self._optimizer is not None:
            rate = float(self._optimizer.param_groups[0]["lr"])
            self.blend.copy_(self.estimate(model, number, rate))

    def loss(self, step: Step) -> Tensor:
        weights = dict(zip(self.names, self.blend, strict=True))
        terms = [weights[m] * step.unimodal_loss(m) for m in step.output.unimodal]
        return torch.stack([weights[FUSED] * step.fused_loss(), *terms]).sum()

    def modulate(self, step: Step) -> dict[str, Tensor]:
        """The weights have acted in the loss already; no gradient is scaled."""
        self.last_coefficients = dict(zip(self.names, self.blend, strict=True))
        return {}


# The recipe -----------------------------------------------------------------------------------------------------------


def gblend(setup: Setup, mode: str = "offline", super_epoch: int = 10) -> Result:
    """Train jointly with uni-modal losses, each head weighted by how well it generalises for how much it overfits.

    L = sum_k w_k CE(z_k, y) over the modalities' heads and the fused one, with w_k of `gblend_weights`; the fused head
    predicts. Every head is trained alone for its estimate, from checkpoint n to N, and its losses are means over the
    samples of each split (that have the modality), in eval mode:

    * "offline": w once, from whole uni-modal runs and a joint one (the stages of `unimodal` and `joint`); n is before
      training, N the epoch that `train.select` keeps.
    * "online": w anew before every super-epoch, from copies of the current model that are trained for that long, each with
      one head's loss at the learning rate of the moment. This takes as long again for each head.

    Guards: O^2 is at least 1e-8, a head that did not generalise gets weight 0, and if none did weights are equal. The
    configured balancer plays no part.

    Args:
        mode: "offline" or "online".
        super_epoch: epochs from one estimate to the next ("online"; 10 in a public benchmark).

    Raises:
        InputError: no validation split, an unknown mode, a super-epoch below 1, a modality called "fused".

    Source: Wang et al. 2020, algorithms 1 and 2.
    Differs from the authors' code: none was found. A public benchmark sums losses over sets of unequal size, so that O
    mixes scales.
    """
    if setup.valid is None:
        raise InputError("recipe 'gblend' measures overfitting on a validation split; give one")
    if mode not in ("offline", "online") or super_epoch < 1:
        raise InputError(
            f"gblend: mode={mode!r}, super_epoch={super_epoch}; 'offline' or 'online', and 1 epoch or more"
        )
    if FUSED in setup.modalities:
        raise InputError(f"gblend: a modality is called {FUSED!r}, as the joint head is; name it otherwise")
    part = setup.config.fusion.model_dump()
    if mode == "offline":
        models, epochs = train_each(setup)
        joint = train_jointly(setup, Balancer(), "joint")
        builds: Builds = {
            **{m: (f"unimodal_{m}", partial(setup.unimodal_model, m)) for m in setup.modalities},
            FUSED: ("joint", partial(setup.model, setup.modalities, part, heads=False)),
        }
        balancer = Blend(setup.modalities, _estimate(setup, builds))
        result = train_jointly(setup, balancer, "gblend")
        return Result(result.model, part, epochs | joint.best_epoch | result.best_epoch, models)

    def estimate(model: Model, number: int, rate: float) -> Tensor:
        left = setup.config.train.epochs - number * super_epoch
        changed = {"epochs": min(super_epoch, left), "select": "last", "schedule": "constant", "trackers": []}
        config = setup.config.model_copy(
            update={
                "train": setup.config.train.model_copy(update=changed),
                "optimizer": setup.config.optimizer.model_copy(update={"lr": rate}),
            }
        )
        # The loader is copied because its epoch is that of the run which waits for this estimate.
        copied = replace(setup, config=config, train=copy.copy(setup.train), show=False)
        builds = {k: (f"gblend_{number}_{k}", partial(_alone, model, k)) for k in (*setup.modalities, FUSED)}
        with torch.random.fork_rng():
            return _estimate(copied, builds)

    return train_jointly(setup, Blend(setup.modalities, None, estimate, super_epoch), "gblend")


def _estimate(setup: Setup, builds: Builds) -> Tensor:
    """Weights (K,) of the heads, each trained alone."""
    found = []
    for head, (stage, build) in builds.items():
        setup.seed(setup.stage_name(stage))  # as the stage does, so that this is the model it starts from
        before = build()
        after, _ = setup.fit(stage, build)
        found.append([*_losses(setup, head, before), *_losses(setup, head, after)])
    weights = gblend_weights(*torch.tensor(found, dtype=torch.float64).T)
    shown = ", ".join(f"{head} {weight:.3f}" for head, weight in zip(builds, weights.tolist(), strict=True))
    logger.info("gblend: weights %s", shown, extra={"note": rank() == 0})
    if not weights[-1] > 0:
        logger.warning(
            "gblend: the fused head did not generalise, so that its weight is 0 and nothing trains what predicts"
        )
    return weights


def _losses(setup: Setup, head: str, model: MultimodalModel) -> list[float]:
    """Mean loss of a head on the training and on the validation split."""
    train, valid = setup.loaders(model.modalities)
    found = [evaluate(model, cast(Sized, loader), setup.task) for loader in (train, valid)]
    return [(one.metrics if head == FUSED else one.unimodal_metrics[head])["loss"] for one in found]


def _alone(model: Model, head: str) -> MultimodalModel:
    """A copy of all that one head needs."""
    if head != FUSED:
        return copy.deepcopy(cast(MultimodalModel, model).only(head))
    heads = model.heads if getattr(model.fusion, "needs_heads", False) else None
    return copy.deepcopy(MultimodalModel(dict(model.encoders.items()), model.fusion, heads))
