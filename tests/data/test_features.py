"""The feature cache: each sample once, found again by weights, preprocessing and sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from polymodal.data.features import FeatureCache, fingerprint
from polymodal.data.synthetic import ArrayLoader, Arrays
from polymodal.encoders import MLP
from polymodal.errors import InputError
from polymodal.types import Features, Padded
from tests.distributed import in_two_processes


def make_loader(count: int = 20, shuffle: bool = False) -> ArrayLoader:
    x = torch.arange(count * 3, dtype=torch.float32).view(count, 3) / count
    return ArrayLoader(Arrays({"a": x, "b": x + 1}, torch.arange(count) % 2), 8, shuffle=shuffle)


def make_encoder(seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    return MLP(3, dim=4, dropout=0.5)


def all_of(loader: ArrayLoader, modality: str = "a") -> torch.Tensor:
    return torch.cat([batch.inputs[modality].pooled for batch in loader])


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_features_are_those_of_the_encoder_in_eval_mode_in_any_order(tmp_path: Path) -> None:
    encoder, loader = make_encoder().train(), make_loader(shuffle=True)
    with torch.no_grad():
        expected = make_encoder().eval()(loader.data.inputs["a"]).pooled
    cached = FeatureCache(tmp_path, shard=7).loader(loader, {"a": encoder})
    assert encoder.training
    cached.set_epoch(3)
    loader.set_epoch(3)
    order = torch.cat([batch.inputs["a"] for batch in loader])[:, 0].mul(20 / 3).round().long()
    torch.testing.assert_close(all_of(cached), expected[order])
    assert torch.equal(next(iter(cached)).inputs["b"], next(iter(loader)).inputs["b"])
    assert len(shards(tmp_path)) == 3


def test_a_second_cache_runs_nothing_and_a_longer_table_only_what_is_new(tmp_path: Path) -> None:
    first, second = FeatureCache(tmp_path), FeatureCache(tmp_path)
    first.loader(make_loader(), {"a": make_encoder()})
    x = torch.cat([make_loader().data.inputs["a"].flip(0), torch.zeros(3, 3)])
    longer = ArrayLoader(Arrays({"a": x}, torch.zeros(23, dtype=torch.int64)), 8)
    cached = second.loader(longer, {"a": make_encoder()})
    assert (first.computed, second.computed) == (20, 1)  # the three new rows are equal
    with torch.no_grad():
        torch.testing.assert_close(all_of(cached), make_encoder().eval()(x).pooled)


def test_other_weights_miss(tmp_path: Path) -> None:
    cache, encoder = FeatureCache(tmp_path), make_encoder()
    cache.loader(make_loader(), {"a": encoder})
    before = fingerprint(encoder)
    with torch.no_grad():
        next(encoder.parameters())[0, 0] += 1e-6
    assert fingerprint(encoder) != before
    cache.loader(make_loader(), {"a": encoder})
    assert cache.computed == 40


@pytest.mark.parametrize("harm", ["truncated", "empty", "foreign"])
def test_a_broken_shard_is_made_again(harm: str, tmp_path: Path) -> None:
    FeatureCache(tmp_path, shard=10).loader(make_loader(), {"a": make_encoder()})
    whole = all_of(FeatureCache(tmp_path).loader(make_loader(), {"a": make_encoder()}))
    one = shards(tmp_path)[0]
    data = one.read_bytes()
    one.write_bytes({"truncated": data[:-5], "empty": b"", "foreign": b"not a shard at all"}[harm])
    again = FeatureCache(tmp_path, shard=10)
    assert torch.equal(all_of(again.loader(make_loader(), {"a": make_encoder()})), whole)
    assert again.computed == 10
    assert one.read_bytes() == data


def fill(folder: str) -> tuple[torch.Tensor, int]:
    cache = FeatureCache(folder, shard=2)
    return all_of(cache.loader(make_loader(), {"a": make_encoder()})), cache.computed


def test_two_processes_fill_it_together(tmp_path: Path) -> None:
    (one, first), (two, second) = in_two_processes(fill, str(tmp_path))
    assert torch.equal(one, two)
    assert 20 <= first + second <= 20 + 2, "each meets what the other has made, but for the shard under way"
    assert FeatureCache(tmp_path).loader(make_loader(), {"a": make_encoder()}) is not None
    assert len(shards(tmp_path)) >= 10


def test_without_a_folder_it_lives_in_memory() -> None:
    cache = FeatureCache()
    for _ in range(2):
        cache.loader(make_loader(), {"a": make_encoder(), "b": make_encoder()})
    assert cache.computed == 40


def test_equal_samples_are_encoded_once() -> None:
    cache = FeatureCache()
    loader = ArrayLoader(Arrays({"a": torch.ones(9, 3)}, torch.zeros(9, dtype=torch.int64)), 4)
    assert all_of(cache.loader(loader, {"a": make_encoder()})).shape == (9, 4)
    assert cache.computed == 1


class Random(ArrayLoader):
    """Inputs with a little noise, anew at each call."""

    def sample_keys(self, modality: str) -> tuple[list[str], bool]:
        return super().sample_keys(modality)[0], True

    def raw(self, modality: str, places: np.ndarray, draw: int = 0) -> torch.Tensor:
        return super().raw(modality, places) + torch.rand(len(places), 1)


def test_random_inputs_need_stored_draws() -> None:
    loader = Random(make_loader().data, 8)
    with pytest.raises(InputError, match=r"'a' is augmented at random.*draws=K"):
        FeatureCache().loader(loader, {"a": make_encoder()})
    cached = FeatureCache(draws=3).loader(loader, {"a": make_encoder()})
    epochs = []
    for epoch in range(4):
        cached.set_epoch(epoch)
        epochs.append(all_of(cached))
    assert torch.equal(epochs[0], epochs[3])
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


class Tokens(nn.Module):
    """Tokens as they are, and their mean."""

    dim = 2

    def forward(self, x: Padded) -> Features:
        return Features(x.values.sum(1), x.values, x.mask)


class Sequences(ArrayLoader):
    def raw(self, modality: str, places: np.ndarray, draw: int = 0) -> Any:
        values = self.data.inputs[modality][torch.from_numpy(places)]
        length = int(1 + (places % 5).max())
        mask = torch.arange(length)[None] <= torch.from_numpy(places)[:, None] % 5
        return Padded(values[:, :length] * mask[..., None], mask)


def test_token_features_of_unequal_length(tmp_path: Path) -> None:
    values = torch.randn(12, 5, 2, generator=torch.Generator().manual_seed(0))
    loader = Sequences(Arrays({"a": values}, torch.zeros(12, dtype=torch.int64)), 4)
    cached = FeatureCache(tmp_path, tokens=True, shard=5, batch_size=3).loader(loader, {"a": Tokens()})
    found = [batch.inputs["a"] for batch in cached]
    assert [one.tokens.shape for one in found] == [(4, 4, 2), (4, 5, 2), (4, 5, 2)]
    for i in range(12):
        one, row = found[i // 4], i % 4
        length = i % 5 + 1
        assert one.mask[row].sum() == length
        assert torch.equal(one.tokens[row, :length], values[i, :length])


def test_a_loader_that_cannot_tell_samples_apart() -> None:
    with pytest.raises(InputError, match="list does not tell its samples apart"):
        FeatureCache().loader([], {"a": make_encoder()})


def test_bad_numbers() -> None:
    with pytest.raises(InputError, match="draws=None, shard=0"):
        FeatureCache(shard=0)
