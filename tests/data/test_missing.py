"""Losing modalities at random: shares, never all, and the same whatever the batches, workers and processes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.data.inputs import make_input
from polymodal.data.loader import Loader
from polymodal.data.missing import ModalityDropout, lose
from polymodal.data.samples import Samples, prepare
from polymodal.data.schema import infer
from polymodal.data.synthetic import ArrayLoader, d1
from polymodal.data.table import read_table
from polymodal.errors import InputError


def samples(count: int, lacking: tuple[int, ...] = ()) -> Samples:
    """Rows of two vectors, the second of which `lacking` rows do not have."""
    b = [None if i in lacking else [float(i), 1.0] for i in range(count)]
    frame = pd.DataFrame({"a": [[float(i)] for i in range(count)], "b": b, "label": np.arange(count) % 2})
    table = read_table(frame)
    schema = infer(table, "label", modalities=["a=a:vector", "b=b:vector"], task="classification")
    inputs = {m: make_input(one) for m, one in schema.modalities.items()}
    made = Samples(table, np.arange(count), schema, inputs)
    prepare(made)
    return made


def kept(loader: Loader) -> dict[str, tuple[bool, bool]]:
    """What each sample still has, by id."""
    found = {}
    for batch in loader:
        assert batch.present is not None
        assert batch.ids is not None
        for i, name in enumerate(batch.ids):
            found[name] = bool(batch.present["a"][i]), bool(batch.present["b"][i])
    return found


def test_shares_of_two_modalities() -> None:
    """Both are lost with P^2; then one is kept, each in half of the cases."""
    left = lose(np.ones((40_000, 2), bool), 0.4, seed=3, epoch=1)
    assert left.any(1).all()
    assert abs(left.all(1).mean() - 0.36) < 0.01
    assert abs((left[:, 0] & ~left[:, 1]).mean() - (0.24 + 0.08)) < 0.01


def test_draws_are_independent_of_each_other() -> None:
    left = lose(np.ones((40_000, 5), bool), 0.3, seed=0, epoch=0)
    assert np.abs(np.corrcoef(left.T) - np.eye(5)).max() < 0.02
    assert np.abs(left.mean(0) - 0.7).max() < 0.02  # all five are lost in one of 400


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30), st.integers(1, 5), st.floats(0, 0.99), st.integers(0, 9), st.integers(0, 9))
def test_nothing_is_invented_and_never_all_is_lost(count: int, m: int, share: float, seed: int, epoch: int) -> None:
    there = np.random.default_rng(count).random((count, m)) < 0.6
    left = lose(there, share, seed, epoch)
    assert not (left & ~there).any()
    assert (left.any(1) == there.any(1)).all()
    assert (lose(there[: count // 2], share, seed, epoch) == left[: count // 2]).all()
    if share == 0:
        assert (left == there).all()


def test_epochs_and_seeds_differ() -> None:
    there = np.ones((50, 2), bool)
    assert len({lose(there, 0.5, seed, epoch).tobytes() for seed in range(3) for epoch in range(3)}) == 9


def test_batches_processes_workers_and_resuming_change_nothing() -> None:
    data = samples(23, lacking=(3, 4))
    one = Loader(data, 4, shuffle=True, seed=5).losing(0.5, ["a", "b"])
    one.set_epoch(2)
    expected = kept(one)
    assert {value for value in expected.values()} == {(True, True), (True, False), (False, True)}
    assert expected["4"] == expected["5"] == (True, False)  # they have one alone
    other = [Loader(data, 3, shuffle=True, seed=5, rank=r, world=2, workers=0).losing(0.5, ["a", "b"]) for r in (0, 1)]
    for loader in other:
        loader.set_epoch(2)
    assert kept(other[0]) | kept(other[1]) == expected
    one.skip(3)
    rest = kept(one)
    assert 0 < len(rest) < 23
    assert rest.items() <= expected.items()
    one.set_epoch(3)
    assert kept(one) != expected


def test_what_is_lost_keeps_its_numbers_and_the_loader_it_came_from_loses_nothing() -> None:
    data = samples(12)
    plain = Loader(data, 4, shuffle=True, seed=0)
    for batch, whole in zip(plain.losing(0.5, ["a", "b"]), plain, strict=True):
        assert whole.present is None
        assert torch.equal(batch.inputs["a"], whole.inputs["a"])


def test_arrays_lose_modalities_too() -> None:
    data = d1(40, seed=0, e1=0.0, e2=0.0, nuisance=2)
    loader = ArrayLoader(data, 16, shuffle=True).losing(0.5, ["x1", "x2"])
    batches = list(loader)
    present = [torch.cat([(batch.present or {})[m] for batch in batches]) for m in ("x1", "x2")]
    assert all(0 < int(one.sum()) < 40 for one in present)
    assert bool((present[0] | present[1]).all())
    loader.set_epoch(1)
    assert not torch.equal(torch.cat([(batch.present or {})["x1"] for batch in loader]), present[0])
    assert all(batch.present is None for batch in ArrayLoader(data, 16))


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0, float("nan")])
def test_a_probability_that_is_none(share: float) -> None:
    with pytest.raises(InputError, match=r"expected a probability from 0 up to 1"):
        ModalityDropout(share, ("a",)).left({"a": torch.ones(2, dtype=torch.bool)}, 0, 0)
