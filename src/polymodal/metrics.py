"""Figures of merit, each a pure function of arrays over the whole evaluated split."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Calibration",
    "Ranks",
    "acc2",
    "acc7",
    "accuracy",
    "calibration",
    "ece",
    "f1",
    "mae",
    "mse",
    "own_columns",
    "pearson",
    "ranks",
    "reliability",
    "retrieval",
    "sentiment",
]

Closed = Literal["right", "left"]
Signs = Literal["positive_vs_rest", "nonzero", "nonneg"]
CONVENTIONS: tuple[Signs, ...] = ("positive_vs_rest", "nonzero", "nonneg")


def accuracy(prediction: ArrayLike, target: ArrayLike) -> float:
    """Share of samples whose predicted class index (N,) equals the target (N,).

    Example:
        >>> accuracy([0, 1, 2, 2], [0, 1, 1, 2])
        0.75
    """
    prediction, target = np.asarray(prediction), np.asarray(target)
    return float((prediction == target).mean())


def f1(prediction: ArrayLike, target: ArrayLike, average: Literal["micro", "macro", "weighted"]) -> float:
    """F1 = 2 TP / (2 TP + FP + FN), averaged over classes (N,) or over labels (N, C) of 0 and 1.

    "micro" adds the counts up first, "macro" weighs every class alike, "weighted" by its number of true samples. A class
    that occurs neither in the target nor in the prediction is left out of "macro" for class indices and counts as 0 for
    labels, as scikit-learn does.

    Example:
        >>> round(f1([[1, 0, 0], [0, 1, 1], [0, 1, 1]], [[1, 0, 1], [0, 1, 1], [1, 1, 0]], "macro"), 4)
        0.7222
    """
    from sklearn.metrics import f1_score

    return float(f1_score(np.asarray(target), np.asarray(prediction), average=average, zero_division=0))


def mae(prediction: ArrayLike, target: ArrayLike) -> float:
    """Mean absolute error, in the unit of the target.

    Example:
        >>> mae([1.0, 3.0], [2.0, 3.0])
        0.5
    """
    return float(np.abs(np.asarray(prediction, float) - np.asarray(target, float)).mean())


def mse(prediction: ArrayLike, target: ArrayLike) -> float:
    """Mean squared error, in the squared unit of the target.

    Example:
        >>> mse([1.0, 3.0], [2.0, 3.0])
        0.5
    """
    return float(((np.asarray(prediction, float) - np.asarray(target, float)) ** 2).mean())


def pearson(prediction: ArrayLike, target: ArrayLike) -> float:
    """Pearson's correlation of two arrays (N,); 0 where one of them is constant, so that an epoch can still be compared.

    Example:
        >>> round(pearson([1.0, 2.0, 3.0], [2.0, 4.0, 7.0]), 4)
        0.9934
    """
    x, y = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x**2).sum()) * np.sqrt((y**2).sum()))
    return float((x * y).sum()) / scale if scale > 0 else 0.0


def acc7(prediction: ArrayLike, target: ArrayLike) -> float:
    """Share of samples whose values (N,) agree after clipping to [-3, 3] and rounding, halves to the even number.

    Source: the code of Tsai et al. 2019 (MulT); 1.5 and 2.5 both become 2.

    Example:
        >>> acc7([1.5, 3.4, -0.4], [2.4, 3.0, -0.6])
        0.6666666666666666
    """
    seven = [np.round(np.clip(np.asarray(one, np.float64), -3, 3)) for one in (prediction, target)]
    return accuracy(*seven)


def _signs(prediction: ArrayLike, target: ArrayLike, convention: Signs) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    x, y = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    if convention == "positive_vs_rest":
        return x > 0, y > 0
    if convention == "nonzero":
        return x[y != 0] > 0, y[y != 0] > 0
    if convention == "nonneg":
        return x >= 0, y >= 0
    raise ValueError(f"convention {convention!r}; it is one of {', '.join(CONVENTIONS)}")


def acc2(prediction: ArrayLike, target: ArrayLike, convention: Signs) -> float:
    """Share of samples whose sign is right, by one of the three conventions in use, whose figures do not compare.

    Args:
        prediction, target: sentiment (N,), 0 is neutral.
        convention: "positive_vs_rest" is > 0 against the rest, zeros included; "nonzero" the same without the samples
            whose target is 0; "nonneg" is >= 0 against < 0. NaN where "nonzero" leaves no sample.

    Raises:
        ValueError: another convention.

    Source: the codes of the field; "nonzero" is that of Tsai et al. 2019 (MulT).

    Example:
        >>> [acc2([-1.0, 1.0, 2.0], [0.0, 0.0, 1.0], one) for one in ("positive_vs_rest", "nonzero", "nonneg")]
        [0.6666666666666666, 1.0, 0.6666666666666666]
    """
    x, y = _signs(prediction, target, convention)
    return accuracy(x, y) if len(y) else float("nan")


def sentiment(prediction: ArrayLike, target: ArrayLike) -> dict[str, float]:
    """`pearson`, `acc7`, and `acc2` with its weighted F1 by each convention: the figures of the sentiment data sets.

    Example:
        >>> sorted(sentiment([-1.0, 1.0], [-2.0, 1.0]))[:4]
        ['acc2_nonneg', 'acc2_nonzero', 'acc2_positive_vs_rest', 'acc7']
    """
    found = {"pearson": pearson(prediction, target), "acc7": acc7(prediction, target)}
    for convention in CONVENTIONS:
        x, y = _signs(prediction, target, convention)
        found[f"acc2_{convention}"] = acc2(prediction, target, convention)
        found[f"f1_{convention}"] = f1(x, y, "weighted") if len(y) else float("nan")
    return found


class Ranks(NamedTuple):
    """Ranks from 1 on: of each query's own item among all items (N,), of each item's best own query among all queries (G,)."""

    query: NDArray[np.int64]
    gallery: NDArray[np.int64]


def own_columns(item: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Column (N,) of each query's own item, and the row (G,) where each column's item first appears.

    Example:
        >>> [one.tolist() for one in own_columns([7, 3, 7, 5])]
        [[0, 1, 0, 2], [0, 1, 3]]
    """
    _, first, inverse = np.unique(np.asarray(item), return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place[inverse.reshape(-1)], first[order]


def ranks(similarity: ArrayLike, item: ArrayLike | None = None) -> Ranks:
    """Rank = number of strictly better ones + 1, both ways.

    Args:
        similarity: (N, G) of N queries and G items.
        item: (N,) names of the queries' own items, whose columns stand in the order in which they first appear; by default
            each row has its own column. Of an item with several queries the best of them counts, and no query of its own
            is ever better.

    Raises:
        ValueError: not as many columns as items.

    Source: Faghri et al. 2018 for several queries an item. Differs from the authors' code: ties count for the model, where
    Gabeur et al. 2020 average over them.

    Example:
        >>> [one.tolist() for one in ranks([[0.9, 0.2], [0.7, 0.3]])]
        [[1, 2], [1, 1]]
    """
    values = np.asarray(similarity)
    column, first = own_columns(np.arange(len(values)) if item is None else item)
    if values.shape != (len(column), len(first)):
        raise ValueError(f"similarity {values.shape} of {len(column)} queries with {len(first)} different items")
    own = values[np.arange(len(values)), column]
    best = np.full(len(first), -np.inf)
    np.maximum.at(best, column, own)
    return Ranks(1 + (values > own[:, None]).sum(1), 1 + (values > best).sum(0))


def retrieval(similarity: ArrayLike, item: ArrayLike | None = None) -> dict[str, float]:
    """R@1, R@5 and R@10 in percent, median and mean rank, from queries to items ("q2g") and back ("g2q"), and "rsum".

    "rsum" adds up the six recalls. With videos as items and captions as queries, "q2g" is what papers call text to video.

    Args:
        similarity, item: as for `ranks`.

    Example:
        >>> found = retrieval([[0.9, 0.2, 0.1], [0.3, 0.3, 0.8], [0.5, 0.6, 0.4]])
        >>> round(found["r_at_1_q2g"], 1), found["mdr_q2g"], found["mnr_q2g"]
        (33.3, 2.0, 2.0)
    """
    found: dict[str, float] = {}
    for way, one in zip(("q2g", "g2q"), ranks(similarity, item), strict=True):
        found |= {f"r_at_{k}_{way}": 100 * float((one <= k).mean()) for k in (1, 5, 10)}
        found |= {f"mdr_{way}": float(np.median(one)), f"mnr_{way}": float(one.mean())}
    return found | {"rsum": sum(value for name, value in found.items() if name.startswith("r_at_"))}


class Calibration(NamedTuple):
    """Expected and maximum calibration error."""

    ece: float
    mce: float


class Reliability(NamedTuple):
    """Bins of a reliability diagram, each array (bins,): `edges` (bins + 1,), `count`, mean `accuracy`, `confidence`.

    The means are NaN in an empty bin.
    """

    edges: NDArray[np.float64]
    count: NDArray[np.int64]  # type: ignore[assignment]  # a field hides tuple.count on purpose
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]


def reliability(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15, closed: Closed = "right") -> Reliability:
    """Accuracy and mean confidence in equal bins of confidence, `confidence` (N,) in [0, 1] and `correct` (N,) of 0 and 1.

    Bins are ((b-1)/B, b/B] when `closed` is "right" (a confidence of exactly 0 then belongs to none), [(b-1)/B, b/B) when
    "left" (a confidence of 1 joins the last bin).

    Raises:
        ValueError: a confidence outside [0, 1], or arrays of different length.

    Source: Guo et al. 2017, section 2.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if confidence.shape != correct.shape or confidence.ndim != 1:
        raise ValueError(f"confidence {confidence.shape} and correct {correct.shape} must be two arrays (N,) alike")
    if confidence.size and not (confidence.min() >= 0 and confidence.max() <= 1):
        raise ValueError(
            f"confidences lie in [{confidence.min()}, {confidence.max()}]; hand over probabilities in [0, 1]"
        )
    edges = np.linspace(0, 1, bins + 1)
    if closed == "right":
        index = np.searchsorted(edges, confidence, side="left") - 1
        kept = index >= 0
    elif closed == "left":
        index = np.minimum(np.searchsorted(edges, confidence, side="right") - 1, bins - 1)
        kept = np.ones_like(index, bool)
    else:
        raise ValueError(f"closed={closed!r}; it is 'right' or 'left'")
    count = np.bincount(index[kept], minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_correct = np.bincount(index[kept], correct[kept], minlength=bins) / count
        mean_confidence = np.bincount(index[kept], confidence[kept], minlength=bins) / count
    return Reliability(edges, count, mean_correct, mean_confidence)


def calibration(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15, closed: Closed = "right") -> Calibration:
    """ECE = sum_b n_b / N |acc_b - conf_b| and MCE = max_b |acc_b - conf_b| over the non-empty bins of `reliability`.

    Source: Guo et al. 2017, eq. 3 and 5.
    Differs from the authors' code: no; MLB's code uses left-closed bins (`closed="left"`).

    Example:
        >>> round(calibration([0.95, 0.55], [1, 0], bins=5).ece, 3)
        0.3
    """
    table = reliability(confidence, correct, bins=bins, closed=closed)
    full = table.count > 0
    if not full.any():
        return Calibration(float("nan"), float("nan"))
    gap = np.abs(table.accuracy - table.confidence)[full]
    return Calibration(float((gap * table.count[full]).sum() / np.asarray(confidence).size), float(gap.max()))


def ece(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15, closed: Closed = "right") -> float:
    """Expected calibration error of `calibration`."""
    return calibration(confidence, correct, bins=bins, closed=closed).ece
