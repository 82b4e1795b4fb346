"""MaPLe against its layers written out, with the contexts behind the tokens, and its cascade."""

from itertools import pairwise

import pytest
import torch

from polymodal.adapters import MaPLe
from polymodal.errors import InputError
from tests.adapters.hosts import host, stir
from tests.adapters.test_houlsby import same

WIDTHS = {"text": 6, "image": 8, "sound": 4}
KINDS = {"image": "vit", "text": "bert", "sound": "imagebind"}


def pair(names=("text", "image"), depth=3):
    hosts = {m: host(KINDS[m], WIDTHS[m], depth, seed) for seed, m in enumerate(names)}
    return {m: one.encoder for m, one in hosts.items()}, {m: one.x for m, one in hosts.items()}


def contexts(adapter, layer):
    """Each modality's vectors, by the cascade written out."""
    names = list(adapter.encoders)
    found = {names[0]: adapter.contexts[layer]}
    for before, m in pairwise(names):
        coupling = adapter.couplings[layer][m]
        found[m] = found[before] @ coupling.weight.T + coupling.bias
    return found


@pytest.mark.parametrize("names", [("text", "image"), ("image", "text", "sound")])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_contexts_are_replaced_layer_by_layer(names, depth):
    encoders, inputs = pair(names)
    if "sound" in inputs:
        inputs["sound"] = inputs["sound"][:, :1]
    adapter = MaPLe(encoders, tokens=2, depth=depth)
    stir(adapter)
    found = {m: encoder(inputs[m]) for m, encoder in encoders.items()}
    each = [contexts(adapter, layer) for layer in range(depth)]
    adapter.remove()
    for m, encoder in encoders.items():
        for i in range(3):
            x = inputs[m]
            state = encoder.embed(x.values[i : i + 1, x.mask[i]] if hasattr(x, "mask") else x[i : i + 1])
            tokens, length = state.tokens, state.tokens.shape[1]
            for k in range(3):
                if k < depth:
                    tokens = torch.cat([tokens[:, :length], each[k][m][None]], 1)
                tokens = encoder.run_layer(k, state._replace(tokens=tokens)).tokens
            wanted = encoder.finish(state._replace(tokens=tokens[:, :length])).pooled
            same(found[m].pooled[i], wanted[0])


def test_counts_are_those_of_the_formula():
    encoders, _ = pair(("text", "image", "sound"))
    adapter = MaPLe(encoders, tokens=5, depth=2)
    assert sum(p.numel() for p in adapter.parameters()) == 5 * 2 * 6 + 2 * (6 * 8 + 8 + 8 * 4 + 4)
    assert adapter.counts().trainable == sum(p.numel() for p in adapter.parameters())


def test_everything_trains_through_any_modality():
    encoders, inputs = pair()
    adapter = MaPLe(encoders, depth=3)
    encoders["image"](inputs["image"]).pooled.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters())  # text drives the pictures
    assert all(p.grad is None for e in encoders.values() for p in e.parameters())


def test_first_contexts_can_be_words():
    encoders, _ = pair()
    words = torch.randn(2, 6)
    same(MaPLe(encoders, depth=2, first=words).contexts[0].float(), words)


def test_bad_input():
    encoders, _ = pair()
    with pytest.raises(InputError, match=r"MaPLe joins modalities and was given \['text'\]; give it two or more"):
        MaPLe({"text": encoders["text"]})
    with pytest.raises(InputError, match=r"depth=9 in encoders \{'text': 3, 'image': 3\} deep; .* in 1 to 3 layers"):
        MaPLe(encoders)
    with pytest.raises(InputError, match="tokens=0"):
        MaPLe(encoders, tokens=0, depth=1)
    with pytest.raises(InputError, match=r"first is \(2, 8\); expected \(2, 6\), the tokens of 'text'"):
        MaPLe(encoders, depth=1, first=torch.zeros(2, 8))
    with pytest.raises(InputError, match="have the same encoder"):
        MaPLe({"a": encoders["text"], "b": encoders["text"]}, depth=1)
    MaPLe(encoders, depth=1)
    with pytest.raises(InputError, match="in Bert of 'text': it carries MaPLe already"):
        MaPLe(encoders, depth=1)
