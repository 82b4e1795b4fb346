"""What each modality contributes to a trained model's predictions: Shapley shares, and use when it is taken away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from polymodal.analysis.bootstrap import Interval, bootstrap_mean
from polymodal.balancers.passes import check_zeroing, shapley_parts
from polymodal.blocks import evaluating
from polymodal.errors import InputError
from polymodal.evaluate import masked_logits
from polymodal.model import MultimodalModel
from polymodal.tasks import Classification, MultiLabel, Regression, Task
from polymodal.types import Batch, Features, Output, move

__all__ = ["Contribution", "Use", "conditional_use", "sample_values", "shapley", "shapley_values"]

Array = NDArray[np.float64]
Value = Literal["decision", "probability"]


class Contribution(NamedTuple):
    """Shapley shares: `shares[m]` add up to `everything` - `nothing`, the values with all modalities and with none."""

    shares: dict[str, Interval]
    everything: float
    nothing: float


class Use(NamedTuple):
    """How much the model loses on average where a modality is `removed`, and where it comes from another sample."""

    removed: Interval
    shuffled: Interval


def sample_values(task: Task, probabilities: Array, target: NDArray[Any], value: Value = "decision") -> Array:
    """What a prediction is worth for each sample (N,), more is better.

    Args:
        task, probabilities (N, C), target: as in `Task.metrics`.
        value: "decision" is 1 for a right class, the share of right labels, or minus the absolute error; "probability" is
            that of the true class (of several labels the geometric mean).

    Raises:
        InputError: another value, or the probability of a regression.
    """
    if value == "decision":
        error = task.figures(task.default_metric, probabilities, target)[0]
        return -error if isinstance(task, Regression) else 1 - error
    if value != "probability" or isinstance(task, Regression):
        raise InputError(f"value {value!r} of {type(task).__name__}; it is 'decision', or 'probability' of classes")
    return np.exp(-task.sample_losses(probabilities, target))


def shapley_values(values: Mapping[frozenset[str], Array]) -> dict[str, Array]:
    """Shapley shares (N,) of the players in v(all) - v(none), to which they add up for each sample.

    phi_m = sum_S |S|! (M - |S| - 1)! / M! (v(S + m) - v(S)) over the sets S without m.

    Args:
        values: v(S) (N,) of every subset S, the empty one too.

    Source: Shapley 1953.

    Example:
        >>> v = {"": 0.1, "a": 0.5, "v": 0.3, "av": 0.9}
        >>> {m: round(float(x[0]), 3) for m, x in shapley_values({frozenset(s): np.array([x]) for s, x in v.items()}).items()}
        {'a': 0.5, 'v': 0.3}
    """
    nothing = values[frozenset()]
    gains = {subset: torch.from_numpy(np.asarray(one - nothing)) for subset, one in values.items() if subset}
    return {m: one.numpy() for m, one in shapley_parts(gains).items()}


def shapley(
    model: MultimodalModel,
    loader: Iterable[Batch],
    task: Task,
    *,
    value: Value = "decision",
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Contribution:
    """Shapley contribution of each modality to the accuracy (or probability) of the fused prediction.

    v(S) is the mean value where each sample has only the modalities S (`present` masks; the encoders run once), and v of
    nothing that of the same prediction for all, by the frequencies of the targets.

    Args:
        model, loader, task: what is taken apart, and on which labelled split.
        value: see `sample_values`.
        seed, resamples, level: of the bootstrap over samples.

    Raises:
        InputError: more modalities than 2^M subsets are run of.
    """
    check_zeroing(model)
    names = model.modalities
    subsets = [frozenset(one) for size in range(1, len(names) + 1) for one in combinations(names, size)]
    target, found = _predictions(model, loader, task, {one: (one, None) for one in subsets}, seed)
    values = {subset: sample_values(task, rows, target, value) for subset, rows in found.items()}
    values[frozenset()] = sample_values(task, prior(task, target), target, value)
    shares = shapley_values(values)
    return Contribution(
        {m: bootstrap_mean(shares[m], seed=seed, resamples=resamples, level=level) for m in names},
        float(values[frozenset(names)].mean()),
        float(values[frozenset()].mean()),
    )


def conditional_use(
    model: MultimodalModel,
    loader: Iterable[Batch],
    task: Task,
    *,
    value: Value = "decision",
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, Use]:
    """What the fused prediction loses, given all other modalities, without one, and with that of another sample.

    Shuffling is the milder question: the model meets a modality that looks as usual and tells nothing. Samples change
    places within their batch, among those that have the modality, and none keeps its own.

    Args:
        model, loader, task: what is taken apart, and on which labelled split, in batches of more than one sample.
        value: see `sample_values`.
        seed: of the places and of the bootstrap.
        resamples, level: of the bootstrap over samples.

    Source: Breiman 2001 (permutation importance).
    """
    names = model.modalities
    everything = frozenset(names)
    wanted: dict[Any, tuple[frozenset[str], str | None]] = {"all": (everything, None)}
    wanted |= {("removed", m): (everything - {m}, None) for m in names}
    wanted |= {("shuffled", m): (everything, m) for m in names}
    target, found = _predictions(model, loader, task, wanted, seed)
    values = {key: sample_values(task, rows, target, value) for key, rows in found.items()}

    def lost(way: str, m: str) -> Interval:
        return bootstrap_mean(values["all"] - values[way, m], seed=seed, resamples=resamples, level=level)

    return {m: Use(lost("removed", m), lost("shuffled", m)) for m in names}


def prior(task: Task, target: NDArray[Any]) -> Array:
    """The prediction (N, C) that is best where nothing is known: the frequencies, or the mean, of the targets."""
    if isinstance(task, Classification):
        row = np.bincount(target.astype(np.int64), minlength=task.outputs) / len(target)
    else:
        row = np.atleast_1d(target.mean(0)) if isinstance(task, MultiLabel) else np.array([target.mean()])
    return np.tile(row.astype(np.float64), (len(target), 1))


@torch.no_grad()
def _predictions(
    model: MultimodalModel,
    loader: Iterable[Batch],
    task: Task,
    wanted: Mapping[Any, tuple[frozenset[str], str | None]],
    seed: int,
) -> tuple[NDArray[Any], dict[Any, Array]]:
    """Targets, and predictions (N, C) with some modalities kept and one of them, perhaps, shuffled."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    rng = np.random.default_rng(seed)
    targets: list[NDArray[Any]] = []
    found: dict[Any, list[Array]] = {key: [] for key in wanted}
    with evaluating(model):
        for batch in loader:
            targets.append(batch.target.cpu().numpy())
            present = {m: one for m, one in (batch.present or {}).items() if m in model.modalities}
            inputs = {m: batch.inputs[m] for m in model.modalities}
            batch = move(batch._replace(inputs=inputs, present=present or None), device)
            output = model(batch.inputs, batch.present)
            moved = {m: _moved(model, batch, output, m, rng) for m in dict.fromkeys(m for _, m in wanted.values() if m)}
            for key, (kept, shuffled) in wanted.items():
                if not kept:
                    continue
                one, seen = moved[shuffled] if shuffled else (batch, output)
                logits = masked_logits(model, one, seen, kept)
                found[key].append(task.probabilities(logits.double()).cpu().numpy())
    if not targets:
        raise InputError("the loader gave no batch")
    target = np.concatenate(targets)
    return target, {key: np.concatenate(rows) if rows else prior(task, target) for key, rows in found.items()}


def _moved(
    model: MultimodalModel, batch: Batch, output: Output, m: str, rng: np.random.Generator
) -> tuple[Batch, Output]:
    """The batch, and its output, with modality `m` of other samples."""
    places = np.arange(len(batch.target))
    there = (batch.present or {}).get(m)
    own = places if there is None else np.flatnonzero(there.cpu().numpy())
    ring = rng.permutation(own)
    places[ring] = np.roll(ring, 1)  # one ring: nobody stays, unless alone
    index = torch.from_numpy(places).to(batch.target.device)
    if model.adapter is not None:
        return batch._replace(inputs=batch.inputs | {m: _rows(batch.inputs[m], index)}), output
    features: Features = _rows(output.features[m], index)
    heads = {m: output.unimodal[m][index]} if m in output.unimodal else {}
    return batch, output._replace(features=output.features | {m: features}, unimodal=output.unimodal | heads)


def _rows(value: Any, index: Tensor) -> Any:
    """The same nested value with the samples of every tensor in another order."""
    if isinstance(value, Tensor):
        return value[index]
    if isinstance(value, Mapping):
        return {key: _rows(item, index) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        items = [_rows(item, index) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)  # type: ignore[call-arg]
    return value
