"""Synthetic sets of two modalities x1 and x2 whose Bayes accuracy is known, so that what training loses can be told.

D1 has a fast and a slow modality, D2 tells the class by the pair alone in part of the samples, D4 always. Each set is a
pure function of its seed; `N` below is standard normal noise.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from polymodal.data.features import FeatureColumn
from polymodal.data.loader import batch_bounds, permutation
from polymodal.data.missing import ModalityDropout
from polymodal.errors import InputError
from polymodal.types import Batch

__all__ = [
    "D1A",
    "D1B",
    "D3",
    "ArrayLoader",
    "Arrays",
    "D1Settings",
    "bayes_d1",
    "bayes_d2",
    "bayes_d4",
    "d1",
    "d2",
    "d4",
]

NOISE = 0.3
"""Standard deviation of the noise of D1 and D2."""


class Arrays(NamedTuple):
    """A whole set in memory: `inputs[m]` (N, ...) float32 and `target` (N,) int64."""

    inputs: dict[str, Tensor]
    target: Tensor


class D1Settings(TypedDict):
    """Arguments of `d1`: training samples, shares without each modality, width of the nuisance."""

    n: int
    e1: float
    e2: float
    nuisance: int


D1A: D1Settings = {"n": 400, "e1": 0.3, "e2": 0.05, "nuisance": 10}
"""Bayes accuracy .704 (x1), .955 (x2), .985 (both)."""
D1B: D1Settings = {"n": 800, "e1": 0.15, "e2": 0.05, "nuisance": 30}
"""Bayes accuracy .828 (x1), .954 (x2), .991 (both)."""
D3: D1Settings = {**D1A, "n": 1000}
"""D1a with more samples; at rate .1 a large beta_max kills the slow modality."""


# D1: a fast modality and a slow one -----------------------------------------------------------------------------------


def d1(n: int, seed: int, *, e1: float, e2: float, nuisance: int) -> Arrays:
    """Eight classes that x1 shows at once and x2 only in products, which are slow to learn.

    x1 = onehot(y) + .3 N (n, 8), all zero with probability e1. x2 = [u, u * bits(y), v] + .3 N (n, 6 + nuisance), all zero
    with probability e2, where u in {-1, 1}^3 and v in {-1, 1}^nuisance are random and bits(y) in {-1, 1}^3 are the three
    binary digits of y.

    Example:
        >>> {m: tuple(x.shape) for m, x in d1(100, seed=0, e1=0.3, e2=0.05, nuisance=10).inputs.items()}
        {'x1': (100, 8), 'x2': (100, 16)}
    """
    _check(n, e1, e2)
    random = _generator(seed)
    target = _integers(8, (n,), random)
    u, v = _signs((n, 3), random), _signs((n, nuisance), random)
    x1 = _noisy(F.one_hot(target, 8).float(), NOISE, random)
    x2 = _noisy(torch.cat([u, u * _bits(target), v], 1), NOISE, random)
    return Arrays({"x1": _erased(x1, e1, random), "x2": _erased(x2, e2, random)}, target)


def bayes_d1(n: int, seed: int, *, e1: float, e2: float) -> dict[str, float]:
    """Bayes accuracies of D1 from "x1", "x2" and "both": the mean largest exact posterior over n samples.

    log p(x1 | y) = x1_y / .3^2 + const; log p(x2 | y) = sum_i log cosh((a_i + bits(y)_i b_i) / .3^2) + const with
    x2 = [a, b, v], u summed over; an empty vector tells nothing. The nuisance plays no part.
    """
    data = d1(n, seed, e1=e1, e2=e2, nuisance=0)
    x1, x2 = (data.inputs[m].double() for m in ("x1", "x2"))
    a, b = x2[:, None, :3], x2[:, None, 3:]
    from_x1 = x1 / NOISE**2
    from_x2 = _log_cosh((a + _bits(torch.arange(8)) * b) / NOISE**2).sum(-1)
    return _accuracies(from_x1, from_x2, from_x1 + from_x2)


# D2: part of the samples tells the class by the pair alone ------------------------------------------------------------


def d2(n: int, seed: int, *, e1: float = 0.2, e2: float = 0.2, paired: float = 0.4) -> Arrays:
    """Four classes; both modalities show a code, x = [onehot(c) + .3 N, flag] (n, 5).

    In a flagged share `paired` of the samples c1 is uniform and c2 = (y - c1) mod 4, so that only the pair decides. In the
    rest c1 = c2 = y, flag = 0, and x1 is all zero with probability e1, x2 with e2.

    Source: SCIENCE, D2; that the flag is shown and that flagged samples keep both modalities follows from its Bayes
    accuracies.

    Example:
        >>> d2(6, seed=0).inputs["x1"].shape
        torch.Size([6, 5])
    """
    _check(n, e1, e2, paired)
    random = _generator(seed)
    target = _integers(4, (n,), random)
    flag = torch.rand(n, generator=random) < paired
    c1 = torch.where(flag, _integers(4, (n,), random), target)
    c2 = torch.where(flag, (target - c1) % 4, target)
    inputs = {}
    for name, code, share in (("x1", c1, e1), ("x2", c2, e2)):
        x = torch.cat([_noisy(F.one_hot(code, 4).float(), NOISE, random), flag[:, None].float()], 1)
        inputs[name] = torch.where(flag[:, None], x, _erased(x, share, random))
    return Arrays(inputs, target)


def bayes_d2(n: int, seed: int, *, e1: float = 0.2, e2: float = 0.2, paired: float = 0.4) -> dict[str, float]:
    """Bayes accuracies of D2 from "x1", "x2" and "both": the mean largest exact posterior over n samples."""
    data = d2(n, seed, e1=e1, e2=e2, paired=paired)
    x1, x2 = (data.inputs[m].double() for m in ("x1", "x2"))
    flag = (x1[:, 4:] + x2[:, 4:]) > 0
    code1, code2 = x1[:, :4] / NOISE**2, x2[:, :4] / NOISE**2
    nothing = torch.zeros_like(code1)
    pair = torch.where(flag, _sum_mod(code1, code2), code1 + code2)
    return _accuracies(torch.where(flag, nothing, code1), torch.where(flag, nothing, code2), pair)


# D4: token sequences of which only the pair tells the class -----------------------------------------------------------


def d4(n: int, seed: int, *, lengths: tuple[int, int] = (6, 8), width: int = 16, noise: float = 0.7) -> Arrays:
    """Six classes y = (c1 + c2) mod 6 of two random codes; every token of x_m (n, L_m, width) is onehot(c_m) + noise N.

    Each modality alone is at chance, 1/6, and so is every fusion that adds uni-modal logits.

    Example:
        >>> [tuple(x.shape) for x in d4(5, seed=0).inputs.values()]
        [(5, 6, 16), (5, 8, 16)]
    """
    _check(n)
    random = _generator(seed)
    c1, c2 = _integers(6, (n,), random), _integers(6, (n,), random)
    inputs = {}
    for name, code, length in zip(("x1", "x2"), (c1, c2), lengths, strict=True):
        inputs[name] = _noisy(F.one_hot(code, width).float()[:, None].expand(-1, length, -1), noise, random)
    return Arrays(inputs, (c1 + c2) % 6)


def bayes_d4(n: int, seed: int, *, lengths: tuple[int, int] = (6, 8), noise: float = 0.7) -> dict[str, float]:
    """Bayes accuracies of D4 from "x1", "x2" and "both": the mean largest exact posterior over n samples."""
    data = d4(n, seed, lengths=lengths, noise=noise)
    code1, code2 = (data.inputs[m].double()[..., :6].sum(1) / noise**2 for m in ("x1", "x2"))
    nothing = torch.zeros_like(code1)
    return _accuracies(nothing, nothing, _sum_mod(code1, code2))


# Batches --------------------------------------------------------------------------------------------------------------


class ArrayLoader:
    """Batches of arrays in memory, for `polymodal.fit`.

    Args:
        data: the whole set.
        batch_size: samples a batch; a rest of one joins the batch before it, as BatchNorm cannot train on it.
        shuffle: a new order each epoch, a pure function of `seed` and the epoch.
        seed: of that order.

    Example:
        >>> loader = ArrayLoader(d1(100, seed=0, e1=0, e2=0, nuisance=2), 32, shuffle=True)
        >>> [len(batch.target) for batch in loader]
        [32, 32, 32, 4]
    """

    def __init__(self, data: Arrays, batch_size: int, *, shuffle: bool = False, seed: int = 0) -> None:
        self.data, self.batch_size, self.shuffle, self.seed = data, batch_size, shuffle, seed
        self.bounds = batch_bounds(len(data.target), batch_size, 2)
        self.epoch = self._start = 0
        self._dropout: ModalityDropout | None = None

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __iter__(self) -> Iterator[Batch]:
        count, start = len(self.data.target), self._start
        self._start = 0
        order = torch.from_numpy(permutation(count, self.seed, self.epoch)) if self.shuffle else torch.arange(count)
        everyone = torch.ones(count, dtype=torch.bool)
        dropout = self._dropout
        left = dropout.left(dict.fromkeys(dropout.modalities, everyone), self.seed, self.epoch) if dropout else {}
        for low, high in list(pairwise(self.bounds))[start:]:
            places = order[low:high]
            present = {m: one[places] for m, one in left.items()}
            inputs = {m: x[places] for m, x in self.data.inputs.items()}
            yield Batch(inputs, self.data.target[places], present or None)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch
        for column in self.data.inputs.values():
            if isinstance(column, FeatureColumn):
                column.epoch = epoch

    def sample_keys(self, modality: str) -> tuple[list[str], bool]:
        """See `features.Storable`: the numbers of each sample."""
        rows = self.data.inputs[modality].contiguous().numpy()
        return [
            hashlib.sha256(f"{row.dtype} {row.shape}".encode() + row.tobytes()).hexdigest()[:32] for row in rows
        ], False

    def raw(self, modality: str, places: NDArray[np.int64], draw: int = 0) -> Tensor:
        """Inputs of the samples at `places`."""
        return self.data.inputs[modality][torch.from_numpy(places)]

    def replaced(self, columns: Mapping[str, FeatureColumn]) -> ArrayLoader:
        """The same loader with features in the place of the inputs of some modalities."""
        loader = copy.copy(self)
        inputs: dict[str, Any] = {**self.data.inputs, **columns}
        loader.data = self.data._replace(inputs=inputs)
        return loader

    def losing(self, probability: float, modalities: Sequence[str]) -> ArrayLoader:
        """The same loader whose samples lose each of these modalities with `probability`; see `missing.lose`."""
        loader = copy.copy(self)
        loader._dropout = ModalityDropout(probability, tuple(modalities))
        return loader

    def skip(self, batches: int) -> None:
        """Let the next iteration, and only it, begin after so many batches."""
        self._start = batches


# ----------------------------------------------------------------------------------------------------------------------


def _check(n: int, *shares: float) -> None:
    if n < 1:
        raise InputError(f"n={n} samples; it must be 1 or more")
    if not all(0 <= share <= 1 for share in shares):
        raise InputError(f"shares {shares}; each lies in [0, 1]")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _integers(high: int, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.randint(high, shape, generator=random)


def _signs(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=random) - 1


def _bits(target: Tensor) -> Tensor:
    """The three binary digits of 0..7 as -1 and 1, lowest first: (N,) -> (N, 3)."""
    return 2.0 * ((target[:, None] >> torch.arange(3)) & 1) - 1


def _noisy(x: Tensor, noise: float, random: torch.Generator) -> Tensor:
    return x + noise * torch.randn(x.shape, generator=random)


def _erased(x: Tensor, share: float, random: torch.Generator) -> Tensor:
    gone = torch.rand(len(x), generator=random) < share
    return x.masked_fill(gone[:, None], 0.0)


def _log_cosh(x: Tensor) -> Tensor:
    return torch.logaddexp(x, -x)


def _sum_mod(one: Tensor, other: Tensor) -> Tensor:
    """Log-likelihood of y = (c1 + c2) mod C with c1 uniform, from those of the codes: (N, C), (N, C) -> (N, C)."""
    classes = one.shape[1]
    shifted = torch.stack([other[:, (y - torch.arange(classes)) % classes] for y in range(classes)], 1)
    return torch.logsumexp(one[:, None] + shifted, -1)


def _accuracies(x1: Tensor, x2: Tensor, both: Tensor) -> dict[str, float]:
    """The mean largest posterior of each, from log-likelihoods (N, C) of equally likely classes."""
    found = {"x1": x1, "x2": x2, "both": both}
    return {name: float(one.softmax(-1).amax(-1).mean()) for name, one in found.items()}
