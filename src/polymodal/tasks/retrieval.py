"""Which item of a gallery belongs to a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal import metrics
from polymodal.distributed import gather_rows, rank
from polymodal.errors import InputError
from polymodal.tasks.base import Array, Task
from polymodal.types import Batch, Output, Pair

__all__ = ["Retrieval", "similarity"]

_NO_HEADS = "retrieval has no uni-modal predictions to compare or to train; use balancer 'joint' and no uni-modal heads"


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
