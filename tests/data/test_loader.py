from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.data.inputs import make_input
from polymodal.data.loader import Loader, batch_bounds, permutation
from polymodal.data.samples import Samples, prepare
from polymodal.data.schema import infer
from polymodal.data.table import read_table
from polymodal.errors import InputError


def samples(count: int) -> Samples:
    table = read_table(pd.DataFrame({"n": range(count), "label": np.arange(count) % 2}))
    schema = infer(table, "label", modalities=["n=n:numeric"], task="classification")
    made = Samples(table, np.arange(count), schema, {"n": make_input(schema.modalities["n"])})
    prepare(made)
    return made


def test_order_is_a_function_of_seed_and_epoch():
    assert permutation(50, 3, 4).tolist() == permutation(50, 3, 4).tolist()
    assert len({tuple(permutation(50, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_bounds():
    assert batch_bounds(64, 32, 2) == [0, 32, 64]
    assert batch_bounds(66, 32, 2) == [0, 32, 64, 66]
    assert batch_bounds(65, 32, 2) == [0, 32, 65]
    assert batch_bounds(65, 32, 2, drop=True) == [0, 32, 64]
    assert batch_bounds(65, 32, 2, drop=False) == [0, 32, 64, 65]
    assert batch_bounds(1, 32, 2) == [0, 1]


@settings(deadline=None, max_examples=60)
@given(st.integers(8, 60), st.integers(1, 9), st.integers(1, 4), st.integers(0, 3))
def test_training_processes_together_see_what_one_sees(count, size, world, epoch):
    data = samples(count)
    loaders = [Loader(data, size, shuffle=True, seed=1, rank=rank, world=world) for rank in range(world)]
    for loader in loaders:
        loader.set_epoch(epoch)
    parts = [loader.batches() for loader in loaders]
    assert len({len(part) for part in parts}) == 1
    together = [np.concatenate(step) for step in zip(*parts, strict=True)]
    assert np.concatenate(together).tolist() == permutation(count, 1, epoch).tolist()
    assert all(len(step) == size * world for step in together[:-1])
    # Whole global batches are those of one process, and each process has an equal share of them.
    one = Loader(data, size * world, shuffle=True, seed=1)
    one.set_epoch(epoch)
    for step, whole in list(zip(together, one.batches(), strict=False))[:-1]:
        assert step.tolist() == whole.tolist()
    for shares in zip(*parts, strict=True):
        lengths = [len(part) for part in shares]
        assert max(lengths) - min(lengths) <= 1
        if size > 1 and count >= 2 * world:
            assert min(lengths) >= 2


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.integers(1, 9), st.integers(1, 5))
def test_evaluation_sees_every_sample_once_in_order(count, size, world):
    data = samples(count)
    loaders = [Loader(data, size, shuffle=False, seed=0, rank=rank, world=world) for rank in range(world)]
    assert np.concatenate([loader.indices for loader in loaders]).tolist() == list(range(count))
    ids = [name for loader in loaders for batch in loader for name in batch.ids or ()]
    assert ids == data.ids
    assert all(len(batch.target) <= size for loader in loaders for batch in loader)


def test_iteration():
    data = samples(20)
    loader = Loader(data, 6, shuffle=True, seed=0)
    whole = [batch.ids for batch in loader]
    assert len(loader) == len(whole) == 4
    assert [batch.ids for batch in loader] == whole
    loader.skip(2)
    assert [batch.ids for batch in loader] == whole[2:]
    assert [batch.ids for batch in loader] == whole
    loader.set_epoch(1)
    assert [batch.ids for batch in loader] != whole
    batch = next(iter(loader))
    places = torch.tensor([int(name) - 1 for name in batch.ids or ()])
    assert torch.equal(batch.target, data.target[places])
    torch.testing.assert_close(batch.inputs["n"][:, 0] * np.arange(20).std() + 9.5, places.float())


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (3, {"world": 4}, "too few"),
        (3, {"drop": True}, "too few"),
        (8, {"batch_size": 0}, "batch size 0"),
        (8, {"rank": 2, "world": 2}, "rank 2 of 2"),
    ],
)
def test_bad_arguments(count, options, message):
    with pytest.raises(InputError, match=message):
        Loader(samples(count), options.pop("batch_size", 4), shuffle=True, seed=0, **options)
