"""MBT's bottleneck against its layers written out, and its mean where a modality lacks."""

import pytest
import torch

from polymodal.adapters import MBT, freeze
from polymodal.adapters.bottleneck import next_bottleneck
from polymodal.errors import InputError
from tests.adapters.hosts import stir
from tests.adapters.test_houlsby import same
from tests.adapters.test_pmf import KINDS, WIDTHS, model_of


def exchanged(mbt, model, inputs):
    """Pooled features, one sample at a time, the bottleneck behind the tokens."""
    found = []
    for i in range(3):
        states, bottleneck = {}, mbt.bottleneck[None]
        for m, x in inputs.items():
            one = x.values[i : i + 1, x.mask[i]] if hasattr(x, "mask") else x[i : i + 1]
            state = model.encoders[m].embed(one)
            for k in range(len(model.encoders[m].layers) - mbt.last):
                state = model.encoders[m].run_layer(k, state)
            states[m] = state
        for k in range(mbt.last):
            became = []
            for m, state in states.items():
                encoder, length = model.encoders[m], state.tokens.shape[1]
                entering = mbt.enter[m](bottleneck) if m in mbt.enter else bottleneck
                tokens = torch.cat([state.tokens, entering], 1)
                tokens = encoder.run_layer(len(encoder.layers) - mbt.last + k, state._replace(tokens=tokens)).tokens
                states[m] = state._replace(tokens=tokens[:, :length])
                left = tokens[:, length:]
                became.append(mbt.leave[m](left) if m in mbt.leave else left)
            bottleneck = sum(became) / len(became)
        found.append({m: model.encoders[m].finish(state).pooled for m, state in states.items()})
    return {m: torch.cat([one[m] for one in found]) for m in inputs}


@pytest.mark.parametrize("names", [("image", "text"), ("text", "image", "sound")])
@pytest.mark.parametrize("width", [None, 5])
def test_all_see_one_bottleneck_and_the_next_is_the_mean(names, width):
    mbt = MBT({m: WIDTHS[m] for m in names}, last=2, tokens=3, width=width)
    model, inputs = model_of(names, mbt, {"text": 2})
    if "sound" in names:
        inputs["sound"] = inputs["sound"][:, :1]
    stir(mbt)
    found = model.encode(inputs)
    for m, wanted in exchanged(mbt, model, inputs).items():
        same(found[m].pooled, wanted)
        assert found[m].tokens.shape == model.encoders[m](inputs[m]).tokens.shape


def test_who_lacks_leaves_the_mean():
    found = {m: torch.randn(3, 2, 4) for m in "abc"}
    torch.testing.assert_close(next_bottleneck(found), (found["a"] + found["b"] + found["c"]) / 3)
    there = {"a": torch.tensor([True, False, False]), "b": None, "c": torch.tensor([True, True, False])}
    new = next_bottleneck(found, there)
    torch.testing.assert_close(new[0], (found["a"] + found["b"] + found["c"])[0] / 3)
    torch.testing.assert_close(new[1], (found["b"] + found["c"])[1] / 2)
    torch.testing.assert_close(new[2], found["b"][2])
    nobody = dict.fromkeys("abc", torch.tensor([False, True, True]))
    torch.testing.assert_close(next_bottleneck(found, nobody)[0], next_bottleneck(found)[0])


def test_an_absent_modality_tells_the_others_nothing():
    mbt = MBT({m: WIDTHS[m] for m in KINDS}, last=3, tokens=2)
    model, inputs = model_of(KINDS, mbt)
    stir(mbt)
    there = {"image": torch.tensor([True, False, True])}
    one = model.encode(inputs, there)
    two = model.encode({**inputs, "image": torch.cat([inputs["image"][:1], torch.randn(2, 3, 8, 12).double()])}, there)
    for m in ("text", "sound"):
        same(one[m].pooled[:2], two[m].pooled[:2])
        assert (one[m].pooled[2] - two[m].pooled[2]).abs().max() > 1e-9
    assert one["image"].pooled.isfinite().all()


def test_everything_trains():
    mbt = MBT({m: WIDTHS[m] for m in KINDS}, last=2)
    model, inputs = model_of(KINDS, mbt)
    freeze(model.encoders)
    model(inputs).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in mbt.parameters())


def test_counts_and_bad_input():
    assert sum(p.numel() for p in MBT({"a": 8, "b": 8, "c": 8}, last=3, tokens=5).parameters()) == 40
    unequal = MBT({"a": 8, "b": 6}, tokens=5)
    assert sum(p.numel() for p in unequal.parameters()) == 40 + 8 * 6 + 6 + 6 * 8 + 8
    assert unequal.parameters_of("a") == []
    assert sum(p.numel() for p in unequal.parameters_of("b")) == 8 * 6 + 6 + 6 * 8 + 8
    with pytest.raises(InputError, match=r"MBT joins modalities and was given \['a'\]"):
        MBT({"a": 8})
    for options in ({"last": 1}, {"tokens": 0}):
        with pytest.raises(InputError, match="at least one token, and two layers"):
            MBT({"a": 8, "b": 8}, **options)
    with pytest.raises(InputError, match=r"MBT: last=4 layers of encoders \{'image': 3, 'text': 3\} deep"):
        model_of(("image", "text"), MBT({"image": 8, "text": 6}))
