"""Tasks: the loss, the per-sample score, the prediction and the metrics that go with a kind of target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from polymodal import metrics
from polymodal.distributed import gather_rows, rank
from polymodal.errors import InputError
from polymodal.types import Batch, Output, Pair

__all__ = ["Classification", "MultiLabel", "Regression", "Retrieval", "Task", "similarity"]

Array = NDArray[Any]


class Task:
    """What a model is trained for.

    A task gives losses and scores for each sample (B,), never their mean: means are formed once, over micro-batches and
    processes (`polymodal.types.Totals`). A subclass for retrieval overrides `fused_losses`, which sees the whole output.
    """

    score_is_error: ClassVar[bool] = False
    """True where a larger score means a worse modality (regression)."""
    default_metric: ClassVar[str]
    """What model selection goes by when the user names nothing."""
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "ece", "mae", "mse"})
    mixture: ClassVar[str]
    """How probabilities of several models are averaged: "categorical", "bernoulli" or "mean"."""

    outputs: int
    """C, the width of the logits."""

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Weighted loss of each sample (B,)."""
        raise NotImplementedError

    def fused_losses(self, output: Output, batch: Batch) -> Tensor:
        """Weighted loss of each sample's fused prediction (B,)."""
        if output.logits is None:
            raise TypeError(f"{type(self).__name__} needs fused logits, and the model's fusion yields none")
        return self.losses(output.logits, batch.target)

    def weights(self, target: Tensor) -> Tensor:
        """What each sample adds to the denominator of a mean loss (B,)."""
        return torch.ones(len(target), device=target.device, dtype=_count_dtype(target))

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        """How well a modality does on each sample (B,)."""
        raise NotImplementedError

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (B, C), or the predicted value (B, 1) for regression."""
        raise NotImplementedError

    def over_split(self, output: Output) -> tuple[Tensor, ...]:
        """What of a batch is kept until the whole split is there, each (B, ...)."""
        if output.logits is None:
            raise TypeError("the model yields no fused logits; a retrieval model is evaluated with the task Retrieval")
        wide = output.logits.float() if output.logits.device.type == "mps" else output.logits.double()
        return (self.probabilities(wide),)

    def joined(self, kept: Sequence[Array], target: Array) -> Array:
        """Probabilities (N, C) of the whole split from the concatenated parts of `over_split`."""
        return np.asarray(kept[0], np.float64)

    def predict(self, probabilities: Array) -> Array:
        """The decision: class index (N,), labels (N, C) or value (N,)."""
        raise NotImplementedError

    def metrics(self, probabilities: Array, target: Array) -> dict[str, float]:
        """Figures of merit by name over a whole split, from probabilities (N, C)."""
        raise NotImplementedError

    def figures(self, metric: str, probabilities: Array, target: Array) -> list[NDArray[np.float64]]:
        """What each sample adds to the error and to the loss, two arrays (N,) of which smaller is better.

        `metric` chooses the first where it is a mean over samples; otherwise (F1, ECE) the share of wrong decisions stands
        for it.
        """
        decided = self.predict(probabilities)
        wrong = (decided != target).astype(np.float64)
        return [wrong if wrong.ndim == 1 else wrong.mean(-1), self.sample_losses(probabilities, target)]

    def sample_losses(self, probabilities: Array, target: Array) -> NDArray[np.float64]:
        """The unweighted loss of each sample (N,), from probabilities (N, C)."""
        raise NotImplementedError


class Classification(Task):
    """One class a sample: target (B,) class index, loss the cross-entropy, score the probability of the true class.

    Args:
        classes: number of classes C.
        class_weights: (C,) weight of each class in the loss, whose mean then divides by the sum of the weights.
    """

    default_metric = "accuracy"
    mixture = "categorical"

    def __init__(self, classes: int, class_weights: Sequence[float] | None = None) -> None:
        if classes < 2:
            raise InputError(f"{classes} class: classification needs two or more")
        if class_weights is not None and len(class_weights) != classes:
            raise InputError(f"{len(class_weights)} class weights for {classes} classes; give one a class")
        self.outputs = classes
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64)

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        weight = None if self.class_weights is None else self.class_weights.to(logits)
        return F.cross_entropy(logits, target, weight=weight, reduction="none")

    def weights(self, target: Tensor) -> Tensor:
        if self.class_weights is None:
            return super().weights(target)
        return self.class_weights.to(target.device, _count_dtype(target))[target]

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        # In half precision the probability of a hopeless class would round to zero and the ratio of scores to infinity.
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return wide.softmax(-1).gather(-1, target[:, None]).squeeze(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    def predict(self, probabilities: Array) -> Array:
        return np.asarray(probabilities.argmax(-1))

    def metrics(self, probabilities: Array, target: Array) -> dict[str, float]:
        prediction = self.predict(probabilities)
        confidence = probabilities.max(-1).clip(0, 1)
        return {
            "accuracy": metrics.accuracy(prediction, target),
            "f1_macro": metrics.f1(prediction, target, "macro"),
            "f1_weighted": metrics.f1(prediction, target, "weighted"),
            "ece": metrics.ece(confidence, prediction == target),
            "loss": float(self.sample_losses(probabilities, target).mean()),
        }

    def sample_losses(self, probabilities: Array, target: Array) -> NDArray[np.float64]:
        true = np.take_along_axis(probabilities, target[:, None].astype(np.int64), -1)[:, 0]
        return np.asarray(-np.log(true.clip(1e-12)), np.float64)


class MultiLabel(Task):
    """Any number of C labels a sample: target (B, C) of 0 and 1, loss the binary cross-entropy averaged over labels.

    The score is the mean probability given to each label's true value.

    Args:
        labels: number of labels C.
        positive_weights: (C,) weight of each label's positive term (Kiela et al. 2019 use N / n_c on MM-IMDB).
        threshold: a label is predicted where its probability reaches this.
    """

    default_metric = "f1_macro"
    mixture = "bernoulli"

    def __init__(self, labels: int, positive_weights: Sequence[float] | None = None, threshold: float = 0.5) -> None:
        if positive_weights is not None and len(positive_weights) != labels:
            raise InputError(f"{len(positive_weights)} positive weights for {labels} labels; give one a label")
        self.outputs = labels
        self.positive_weights = (
            None if positive_weights is None else torch.tensor(positive_weights, dtype=torch.float64)
        )
        self.threshold = threshold

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        weight = None if self.positive_weights is None else self.positive_weights.to(logits)
        losses = F.binary_cross_entropy_with_logits(logits, target.to(logits), pos_weight=weight, reduction="none")
        return losses.mean(-1)

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return torch.where(target > 0.5, wide, -wide).sigmoid().mean(-1)

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def predict(self, probabilities: Array) -> Array:
        return (probabilities >= self.threshold).astype(np.int64)

    def metrics(self, probabilities: Array, target: Array) -> dict[str, float]:
        prediction = self.predict(probabilities)
        return {
            "f1_micro": metrics.f1(prediction, target, "micro"),
            "f1_macro": metrics.f1(prediction, target, "macro"),
            "f1_weighted": metrics.f1(prediction, target, "weighted"),
            "accuracy": float((prediction == target).all(-1).mean()),
            "loss": float(self.sample_losses(probabilities, target).mean()),
        }

    def sample_losses(self, probabilities: Array, target: Array) -> NDArray[np.float64]:
        given = np.where(target > 0.5, probabilities, 1 - probabilities)
        return np.asarray(-np.log(given.clip(1e-12)).mean(-1), np.float64)


class Regression(Task):
    """One number a sample: target (B,), loss the squared or absolute error of the logit (B, 1), score the squared error.

    Targets keep their unit; centre and scale the output with `mean` and `std` of the training targets, so that a network
    whose outputs are of order one starts near the answer.

    Args:
        loss: "mse" or "mae".
        mean, std: prediction = mean + std * logit, in the unit of the target.
        sentiment: also give the figures of `metrics.sentiment`, for targets in [-3, 3].
    """

    score_is_error = True
    default_metric = "mae"
    mixture = "mean"

    def __init__(self, loss: str = "mse", mean: float = 0.0, std: float = 1.0, sentiment: bool = False) -> None:
        if loss not in ("mse", "mae"):
            raise InputError(f"loss {loss!r} of a regression; it is 'mse' or 'mae'")
        if not std > 0:
            raise InputError(f"std {std} of the training targets; it must be above 0 (are all targets equal?)")
        self.outputs, self.loss, self.mean, self.std, self.sentiment = 1, loss, mean, std, sentiment

    def _error(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.squeeze(-1) - (target.to(logits) - self.mean) / self.std

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        error = self._error(logits, target)
        return error.square() if self.loss == "mse" else error.abs()

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        return self._error(logits, target).square()

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.mean + self.std * logits

    def predict(self, probabilities: Array) -> Array:
        return np.asarray(probabilities[:, 0])

    def metrics(self, probabilities: Array, target: Array) -> dict[str, float]:
        value = self.predict(probabilities)
        loss = float(self.sample_losses(probabilities, target).mean())
        errors = {"mae": metrics.mae(value, target), "mse": metrics.mse(value, target), "loss": loss}
        return errors | (metrics.sentiment(value, target) if self.sentiment else {})

    def figures(self, metric: str, probabilities: Array, target: Array) -> list[NDArray[np.float64]]:
        error = np.abs(self.predict(probabilities) - target).astype(np.float64)
        return [error**2 if metric == "mse" else error, self.sample_losses(probabilities, target)]

    def sample_losses(self, probabilities: Array, target: Array) -> NDArray[np.float64]:
        error = np.abs(self.predict(probabilities) - target) / self.std
        return np.asarray(error**2 if self.loss == "mse" else error, np.float64)


class Retrieval(Task):
    """Which item of a gallery belongs to a query: target (B,) is the number of the row's item.

    The loss is the max-margin ranking loss over the batch, gathered over processes. With S_ij the similarity of query i and
    the item of row j,

        l_i = 1 / (2 n_i) sum_j [max(0, m + S_ij - S_ii) + max(0, m + S_ji - S_ii)]

    over the n_i rows j of another item. Rows of one item (several captions of a video) never stand against each other.
    Instead of probabilities there are similarities (N, G) of all N queries and G items of a split, a column an item in the
    order in which they first appear; metrics are those of `metrics.retrieval`.

    Args:
        margin: m.

    Raises:
        InputError: a margin that is not above 0; in training a batch of one row, which has nothing to rank, or a model whose
            fusion makes no pairs.

    Source: Gabeur et al. 2020, eq. 4, with the mean of their code over all pairs and both ways.
    Differs from the authors' code: rows of the same item are left out.

    Example:
        >>> task = Retrieval(margin=0.1)
        >>> one = torch.eye(2)[:, None]  # two rows, one expert
        >>> task.fused_losses(Output(None, {}, {}, Pair(one, one.flip(0), torch.ones(2, 1))), Batch({}, torch.arange(2)))
        tensor([1.1000, 1.1000])
    """

    default_metric = "rsum"
    mixture = "mean"
    lower_is_better: ClassVar[frozenset[str]] = frozenset({"loss", "mdr_q2g", "mdr_g2q", "mnr_q2g", "mnr_g2q"})
    outputs = 0

    def __init__(self, margin: float = 0.05) -> None:
        if not margin > 0:
            raise InputError(f"margin {margin} of the ranking loss; it must be above 0")
        self.margin = margin

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        raise InputError(_NO_HEADS)

    def score(self, logits: Tensor, target: Tensor) -> Tensor:
        raise InputError(_NO_HEADS)

    def fused_losses(self, output: Output, batch: Batch) -> Tensor:
        pair = _pair(output)
        whose = torch.full_like(batch.target, rank())
        *parts, item, whose = map(gather_rows, (*pair, batch.target, whose))
        if len(item) < 2:
            raise InputError(
                "a batch of one row: the ranking loss compares a query with the items of other rows; use a batch size of 2 "
                "or more, and leave out a last batch of one"
            )
        scores = similarity(Pair(*parts))
        own, other = scores.diagonal(), item[:, None] != item
        costs = (self.margin + scores - own[:, None]).relu() + (self.margin + scores.mT - own[:, None]).relu()
        losses = torch.where(other, costs, torch.zeros_like(costs)).sum(1) / (2 * other.sum(1)).clamp_min(1)
        return losses[whose == rank()]

    def over_split(self, output: Output) -> tuple[Tensor, ...]:
        return tuple(one if one.dtype == torch.float64 else one.float() for one in _pair(output))

    def joined(self, kept: Sequence[Array], target: Array) -> Array:
        query, gallery, weights = (torch.from_numpy(one) for one in kept)
        _, first = metrics.own_columns(target)
        return np.asarray(similarity(Pair(query, gallery[torch.from_numpy(first)], weights)))

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits

    def predict(self, probabilities: Array) -> Array:
        """Column (N,) of the most similar item."""
        return np.asarray(probabilities.argmax(-1))

    def metrics(self, probabilities: Array, target: Array) -> dict[str, float]:
        return metrics.retrieval(probabilities, target) | {
            "loss": float(self.sample_losses(probabilities, target).mean())
        }

    def sample_losses(self, probabilities: Array, target: Array) -> NDArray[np.float64]:
        """The ranking loss of each query (N,) over the whole split; of an item with several queries the best one stands
        against the queries of others.
        """
        scores = np.asarray(probabilities, np.float64)
        column, first = metrics.own_columns(target)
        rows = np.arange(len(scores))
        own, other = scores[rows, column], np.ones(scores.shape, bool)
        other[rows, column] = False
        best = np.full(len(first), -np.inf)
        np.maximum.at(best, column, own)
        ahead = np.where(other, (self.margin + scores - own[:, None]).clip(0), 0).sum(1) / other.sum(1).clip(1)
        back = np.where(other, (self.margin + scores - best).clip(0), 0).sum(0) / other.sum(0).clip(1)
        return np.asarray((ahead + back[column]) / 2)


_NO_HEADS = "retrieval has no uni-modal predictions to compare or to train; use balancer 'joint' and no uni-modal heads"


def similarity(pair: Pair) -> Tensor:
    """S_ij = sum_e w_ie <q_ie, g_je> / sum_e w_ie [item j has expert e]: (Q, E, D), (G, E, D), (Q, E) -> (Q, G).

    The weights of a query are shared out again over the experts that an item has; an expert of zeros is one that it lacks.
    An item without any expert has similarity 0. Half precision is widened first.

    Source: Miech et al. 2018 (MoEE), eq. 7 and 8.
    Differs from the authors' code: that of Gabeur et al. 2020 keeps the weight of missing experts in its published settings.

    Example:
        >>> query, gallery = torch.ones(1, 2, 1), torch.tensor([[[0.4], [0.8]], [[0.4], [0.0]]])
        >>> similarity(Pair(query, gallery, torch.tensor([[0.5, 0.5]])))
        tensor([[0.6000, 0.4000]])
    """
    query, gallery, weights = (one if one.dtype == torch.float64 else one.float() for one in pair)
    there = (gallery != 0).any(-1).to(weights.dtype)
    with torch.autocast(query.device.type, enabled=False):  # bfloat16 knows no steps below 0.004 near 1
        share = (weights @ there.mT).clamp_min(torch.finfo(weights.dtype).tiny)
        return (query * weights[..., None]).flatten(1) @ gallery.flatten(1).mT / share


def _pair(output: Output) -> Pair:
    if output.pair is None:
        raise InputError(
            "the model yields no pair of query and gallery embeddings; retrieval needs a fusion that does, such as 'moee' or "
            "'mmt' (polymodal.fusion.retrieval)"
        )
    return output.pair


def _count_dtype(like: Tensor) -> torch.dtype:
    # Counts are sums over whole epochs; Apple's GPUs alone have no float64.
    return torch.float32 if like.device.type == "mps" else torch.float64
