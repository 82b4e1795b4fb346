"""Agreement matrix: how often the fused model is right where this or that uni-modal model is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polymodal.errors import InputError
from polymodal.evaluate import Evaluation
from polymodal.tasks import Regression, Task

__all__ = ["Agreement", "agreement", "agreement_matrix"]


class Agreement(NamedTuple):
    """Groups of samples by which of the M uni-modal models are right, against the fused model.

    Row g of the 2^M is the group where model i is right if bit i of g is set: for M = 2 none, the first only, the second
    only, both (Kontras et al. call the first synergy and the last coexistence). Columns: fused wrong, fused right.

    Attributes:
        names: M names, in the order of the bits.
        counts: (2^M, 2) samples.
        percent: (2^M, 2) of all samples.
        rate: (2^M,) share of a group that the fused model gets right; NaN for an empty group.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    percent: NDArray[np.float64]
    rate: NDArray[np.float64]

    @property
    def groups(self) -> list[str]:
        """Name of each row."""
        right = [[m for i, m in enumerate(self.names) if g >> i & 1] for g in range(len(self.counts))]
        everyone = len(self.names)
        return [
            "none right" if not one else "all right" if len(one) == everyone > 1 else f"only {' and '.join(one)} right"
            for one in right
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the rate of an empty group is None."""
        return {
            "names": list(self.names),
            "groups": self.groups,
            "counts": self.counts.tolist(),
            "percent": self.percent.tolist(),
            "rate": [None if np.isnan(one) else float(one) for one in self.rate],
        }


def agreement_matrix(unimodal: Mapping[str, ArrayLike], fused: ArrayLike) -> Agreement:
    """Counts of every combination of right and wrong, from which samples each model gets right.

    Args:
        unimodal: (N,) of 0 and 1, or bool, of each separately trained uni-modal model.
        fused: (N,) of the fused model on the same samples in the same order.

    Raises:
        InputError: no model, or arrays that are not (N,) of 0 and 1 alike.

    Source: Kontras et al. 2024, figure 4; beyond two modalities our extension.
    Differs from the authors' code: no; it too divides by all samples, though its comment says by row.

    Example:
        >>> agreement_matrix({"a": [1, 0, 1], "v": [1, 0, 0]}, [1, 1, 0]).counts.tolist()
        [[0, 1], [1, 0], [0, 0], [0, 1]]
    """
    whole, right = np.asarray(fused), {m: np.asarray(one) for m, one in unimodal.items()}
    for who, one in [("the fused model", whole), *((f"modality {m!r}", one) for m, one in right.items())]:
        if one.ndim != 1 or one.shape != whole.shape or not np.isin(one, (0, 1)).all():
            raise InputError(f"{who}: right answers of shape {one.shape}; give (N,) of 0 and 1 for the same N samples")
    if not right or not len(whole):
        raise InputError("an agreement matrix needs one uni-modal model and one sample at least")
    group = np.zeros(len(whole), np.int64)
    for bit, one in enumerate(right.values()):
        group |= one.astype(np.int64) << bit
    counts = np.bincount(2 * group + whole.astype(np.int64), minlength=2 ** (len(right) + 1)).reshape(-1, 2)
    with np.errstate(invalid="ignore"):
        rate = counts[:, 1] / counts.sum(1)
    return Agreement(tuple(right), counts, 100 * counts / len(whole), rate)


def agreement(unimodal: Mapping[str, Evaluation], fused: Evaluation, task: Task) -> Agreement:
    """`agreement_matrix` of evaluated models; a multi-label sample is right where all its labels are.

    Raises:
        InputError: evaluations of other samples, or in another order, or with other targets; a regression.
    """
    if isinstance(task, Regression):
        raise InputError("an agreement matrix counts right and wrong decisions; a regression has none")
    for m, one in unimodal.items():
        if one.ids != fused.ids:
            raise InputError(
                f"the model of {m!r} was evaluated on other samples than the fused one, or in another order"
            )
        if not np.array_equal(one.target, fused.target):
            raise InputError(f"the model of {m!r} was evaluated against other targets than the fused one")

    def right(found: Evaluation) -> NDArray[np.bool_]:
        same = np.asarray(task.predict(found.probabilities) == found.target, bool)
        right: NDArray[np.bool_] = np.all(same.reshape(len(same), -1), axis=1)
        return right

    return agreement_matrix({m: right(one) for m, one in unimodal.items()}, right(fused))
