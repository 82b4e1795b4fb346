"""Linear probes: how much of the class an encoder's features tell, whatever the fusion makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from polymodal.blocks import evaluating
from polymodal.errors import InputError
from polymodal.model import MultimodalModel
from polymodal.types import Batch, move

__all__ = ["encoder_features", "linear_probe", "probe_encoders"]

Array = NDArray[Any]


def linear_probe(
    features_train: ArrayLike, y_train: ArrayLike, features_test: ArrayLike, y_test: ArrayLike, *, C: float = 0.1
) -> float:
    """Test accuracy of multinomial logistic regression on standardised features.

    It minimises sum_i CE(W h_i + b, y_i) + |W|^2 / (2 C) over the training part, whose mean and deviation standardise
    both parts.

    Args:
        features_train: (N, D).
        y_train: (N,) classes.
        features_test: (N', D).
        y_test: (N',).
        C: inverse strength of the penalty.

    Raises:
        InputError: features that are not finite, or a training part of one class.

    Source: Alain and Bengio 2016; C = .1 is the set-up of SCIENCE.

    Example:
        >>> x, y = np.array([[0.0], [0.1], [1.0], [1.1]]), np.array([0, 0, 1, 1])
        >>> linear_probe(x, y, x, y)
        1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x_train, x_test = np.asarray(features_train, np.float64), np.asarray(features_test, np.float64)
    if not (np.isfinite(x_train).all() and np.isfinite(x_test).all()):
        raise InputError("the features hold values that are not finite; the encoder that made them has diverged")
    if len(np.unique(np.asarray(y_train))) < 2:
        raise InputError("a probe tells classes apart, and the training part has only one")
    scaler = StandardScaler().fit(x_train)
    probe = LogisticRegression(C=C, max_iter=5000).fit(scaler.transform(x_train), np.asarray(y_train))
    return float(probe.score(scaler.transform(x_test), np.asarray(y_test)))


@torch.no_grad()
def encoder_features(
    model: MultimodalModel, loader: Iterable[Batch]
) -> tuple[dict[str, Array], Array, dict[str, Array]]:
    """Pooled features of every sample, in evaluation mode; the model's modes are restored.

    Returns:
        Features (N, D_m) of each modality of the model, targets (N,), and for each modality which samples have it (N,).
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    features: dict[str, list[Array]] = {m: [] for m in model.modalities}
    there: dict[str, list[Array]] = {m: [] for m in model.modalities}
    targets: list[Array] = []
    with evaluating(model):
        for batch in loader:
            targets.append(batch.target.cpu().numpy())
            batch = move(batch, device)
            present = {m: one for m, one in (batch.present or {}).items() if m in features}
            for m, one in model.encode({m: batch.inputs[m] for m in model.modalities}, present).items():
                features[m].append(one.pooled.double().cpu().numpy())
                whole = np.ones(len(batch.target), bool)
                there[m].append(present[m].cpu().numpy() if m in present else whole)
    if not targets:
        raise InputError("the loader gave no batch to probe on")
    join = np.concatenate
    return {m: join(rows) for m, rows in features.items()}, join(targets), {m: join(rows) for m, rows in there.items()}


def probe_encoders(
    model: MultimodalModel, train_loader: Iterable[Batch], test_loader: Iterable[Batch], *, C: float = 0.1
) -> dict[str, float]:
    """`linear_probe` of each encoder of a model, fitted on one split and scored on another.

    The features of each split are computed once. A sample that lacks a modality takes no part in its probe.

    Args:
        model: a classifier; loaders may hold more modalities than it has.
        train_loader: the training split, in any order.
        test_loader: the split that is scored.
        C: see `linear_probe`.

    Example:
        >>> from polymodal import encoders, fusion
        >>> model = MultimodalModel({"a": encoders.MLP(2, dim=4)}, fusion.Concat({"a": 4}, outputs=2))
        >>> batch = Batch({"a": torch.eye(2).repeat(8, 1)}, torch.tensor([0, 1]).repeat(8))
        >>> probe_encoders(model, [batch], [batch])
        {'a': 1.0}
    """
    x_train, y_train, in_train = encoder_features(model, train_loader)
    x_test, y_test, in_test = encoder_features(model, test_loader)
    return {
        m: linear_probe(x_train[m][in_train[m]], y_train[in_train[m]], x_test[m][in_test[m]], y_test[in_test[m]], C=C)
        for m in model.modalities
    }
