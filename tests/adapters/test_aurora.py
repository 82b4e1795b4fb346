"""Aurora against the same updates added to the weights by hand, matrix by matrix."""

from typing import Any

import pytest
import torch
from torch import nn

from polymodal.adapters import Aurora
from polymodal.errors import InputError
from tests.adapters.hosts import host, stir
from tests.adapters.test_houlsby import same

D = 8


def update(adapter, key, chunk):
    """V K^T U of one chunk of one weight, by loops."""
    p = adapter.p[key][chunk]
    core = sum(adapter.c[:, :, r] * p[r] for r in range(adapter.rank))
    return adapter.v @ core.T @ adapter.u


def rows(adapter, key, weight, order=None):
    """A weight with an update for each block of D rows."""
    blocks = torch.cat([update(adapter, key, chunk) for chunk in range(len(weight) // D)])
    return weight + (blocks if order is None else torch.empty_like(blocks).index_copy(0, order, blocks))


def columns(adapter, key, weight):
    return weight + torch.cat([update(adapter, key, chunk) for chunk in range(weight.shape[1] // D)], 1)


QKV = {
    "bert": ["attention.self.query", "attention.self.key", "attention.self.value"],
    "deberta_v3": ["attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"],
    "vit": ["attn.qkv"],
    "imagebind": ["attn:in_proj_weight"],
    "transformer": ["self_attn:in_proj_weight"],
    "deberta": ["attention.self.in_proj"],
    "conformer": ["attention.query", "attention.key", "attention.value"],
    "wav2vec2": ["attention.q_proj", "attention.k_proj", "attention.v_proj"],
}
REST = {
    "bert": ["attention.output.dense", "intermediate.dense", "output.dense"],
    "deberta_v3": ["attention.output.dense", "intermediate.dense", "output.dense"],
    "vit": ["attn.proj", "mlp.fc1", "mlp.fc2"],
    "imagebind": ["attn.out_proj", "mlp.fc1", "mlp.fc2"],
    "transformer": ["self_attn.out_proj", "linear1", "linear2"],
    "deberta": ["attention.output.dense", "intermediate.dense", "output.dense"],
    "conformer": ["attention.out", "after.1", "after.4"],
    "wav2vec2": ["attention.out_proj", "feed_forward.intermediate_dense", "feed_forward.output_dense"],
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("family", QKV)
def test_updates_are_those_of_the_weights(family, full):
    one, plain = host(family), host(family).encoder
    encoders = {"text": host("bert", seed=1).encoder, "image": one.encoder}
    adapter = Aurora(encoders, rank=3, full=["image"] if full else [])
    stir(adapter)
    names = QKV[family] + (REST[family] if full else [])
    mine = {key for key in adapter.p if key.startswith("image")}
    assert mine == {f"image/{k}/{name.partition(':')[0].replace('.', '/')}" for k in (0, 1) for name in names}
    pieces = torch.arange(3 * D).chunk(2 * 3)
    order = torch.cat([pieces[head * 3 + part] for part in range(3) for head in range(2)])
    with torch.no_grad():
        for k, layer in enumerate(plain.layers):
            for name in names:
                place, _, parameter = name.partition(":")
                weight = getattr(layer.get_submodule(place), parameter or "weight")
                key = f"image/{k}/{place.replace('.', '/')}"
                wide = weight.shape[1] > weight.shape[0]
                by_head = order if place.endswith("in_proj") else None
                weight.copy_(columns(adapter, key, weight) if wide else rows(adapter, key, weight, by_head))
    wanted = plain(one.x).pooled
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            same(one.encoder(one.x).pooled, wanted)


def test_dropout_is_of_the_inner_numbers():
    one = host("bert")
    adapter = Aurora({"a": one.encoder, "b": host("vit").encoder}, rank=3, dropout=0.5)
    stir(adapter)
    out = one.encoder(one.x).pooled
    one.encoder.train()
    first, second = one.encoder(one.x).pooled, one.encoder(one.x).pooled
    assert not torch.equal(first, second)
    one.encoder.eval()
    assert torch.equal(one.encoder(one.x).pooled, out)


def test_counts_and_start():
    one = host("vit")
    adapter = Aurora({"a": one.encoder, "b": host("bert", depth=3).encoder}, rank=3, full=["a"])
    matrices = 2 * (3 + 1 + 4 + 4) + 3 * 3
    assert adapter.counts().trainable == 2 * 3 * D + 27 + 3 * matrices
    assert sum(p.numel() for p in adapter.parameters_of("b")) == 3 * 3 * 3
    assert not any("lora" in name for name, _ in one.encoder.named_parameters())  # they are the adapter's
    assert torch.equal(one.encoder(one.x).pooled, host("vit").encoder(one.x).pooled)
    one.encoder(one.x).pooled.square().sum().backward()
    assert adapter.v.grad is not None
    assert adapter.v.grad.any()
    adapter.remove()
    assert not any(hasattr(m, "lora") for m in one.encoder.modules())
    assert {type(layer.attn.qkv) for layer in one.encoder.layers} == {nn.Linear}


def test_bad_input():
    unequal = {"a": host("bert", width=8).encoder, "b": host("vit", width=12).encoder}
    with pytest.raises(InputError, match=r"Aurora: tokens of widths \{'a': 8, 'b': 12\}.*take encoders of equal width"):
        Aurora(unequal)
    wrong: list[dict[str, Any]] = [{"rank": 0}, {"dropout": 1.0}, {"full": ["c"]}]
    for options in wrong:
        with pytest.raises(InputError, match="a rank of at least 1, a probability below 1, and some of the modalities"):
            Aurora({"a": host("bert").encoder, "b": host("vit").encoder}, **options)
    odd = host("bert").encoder
    odd.layers[0].intermediate.dense = nn.Linear(8, 12).double()
    odd.layers[0].output.dense = nn.Linear(12, 8).double()
    with pytest.raises(
        InputError, match=r"intermediate.dense .* its weight is \(12, 8\), .* not made of blocks of 8 x 8"
    ):
        Aurora({"a": odd, "b": host("vit").encoder}, full=["a"])
    assert all(p.requires_grad for p in odd.parameters())
    with pytest.raises(InputError, match=r"was given \['a'\]"):
        Aurora({"a": odd})
