"""PMF against its two stages written out, with the prompts behind the tokens as in the paper."""

from typing import Any

import pytest
import torch
from torch import nn

from polymodal.adapters import PMF, freeze
from polymodal.errors import InputError
from polymodal.fusion import Concat
from polymodal.model import MultimodalModel
from tests.adapters.hosts import host, stir
from tests.adapters.test_houlsby import same

WIDTHS = {"image": 8, "text": 6, "sound": 4}
KINDS = {"image": "vit", "text": "bert", "sound": "imagebind"}


def model_of(names, adapter, depths=None):
    hosts = {m: host(KINDS[m], WIDTHS[m], (depths or {}).get(m, 3), seed) for seed, m in enumerate(names)}
    encoders = {m: one.encoder for m, one in hosts.items()}
    model = MultimodalModel(encoders, Concat({m: e.dim for m, e in encoders.items()}, 2), adapter=adapter)
    return model.double().eval(), {m: one.x for m, one in hosts.items()}


def stages(pmf, model, inputs):
    """Tokens behind the last layers, one sample at a time without padding, prompts behind the tokens."""
    encoders, last = model.encoders, pmf.last
    found = []
    for i in range(3):
        states = {}
        for m, x in inputs.items():
            one = x.values[i : i + 1, x.mask[i]] if hasattr(x, "mask") else x[i : i + 1]
            state = encoders[m].embed(one)
            for k in range(len(encoders[m].layers) - last):
                state = encoders[m].run_layer(k, state)
            states[m] = state

        def run(m, k, tokens, states=states):
            index = len(encoders[m].layers) - last + k
            return encoders[m].run_layer(index, states[m]._replace(tokens=tokens)).tokens

        for k in range(last):
            mapped = {}
            for m, state in states.items():
                prompts = pmf.prompts[k][m]
                parts = [prompts[name][None] for name in ("query_context", "query") if name in prompts]
                out = run(m, k, torch.cat([state.tokens, *parts], 1))[:, -len(prompts["query"]) :]
                for other, (first, _, second) in pmf.maps[k][m].items():
                    mapped[m, other] = second(torch.relu(first(out)))
            for m, state in states.items():
                parts = [mapped[other, m] for other in states if other != m]
                if "fusion_context" in pmf.prompts[k][m]:
                    parts.insert(0, pmf.prompts[k][m]["fusion_context"][None])
                tokens = run(m, k, torch.cat([state.tokens, *parts], 1))
                states[m] = state._replace(tokens=tokens[:, : state.tokens.shape[1]])
        found.append({m: encoders[m].finish(state).pooled for m, state in states.items()})
    return {m: torch.cat([one[m] for one in found]) for m in inputs}


@pytest.mark.parametrize("names", [("image", "text"), ("text", "image", "sound")])
@pytest.mark.parametrize("counts", [{}, {"query": 1, "query_context": 0, "fusion_context": 0}])
def test_two_stages(names, counts):
    pmf = PMF({m: WIDTHS[m] for m in names}, last=2, **counts)
    if "sound" in names:  # its clips see foreign tokens one by one; a recording of one clip is a plain sequence
        model, inputs = model_of(names, pmf, {"text": 2})
        inputs["sound"] = inputs["sound"][:, :1]
    else:
        model, inputs = model_of(names, pmf, {"text": 2})
    stir(pmf)
    found = model.encode(inputs)
    for m, wanted in stages(pmf, model, inputs).items():
        same(found[m].pooled, wanted)
    assert all(one.tokens.shape[1] == model.encoders[m](inputs[m]).tokens.shape[1] for m, one in found.items())


def test_everything_trains_and_nothing_else():
    pmf = PMF({m: WIDTHS[m] for m in KINDS}, last=2, hidden=16)  # enough that no map is dead behind its ReLU
    model, inputs = model_of(KINDS, pmf)
    freeze(model.encoders)
    model(inputs).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in pmf.parameters())
    assert all(p.grad is None for p in model.encoders.parameters())


def test_counts_and_groups():
    pmf = PMF({"a": 8, "b": 6}, last=3, query=2, query_context=1, fusion_context=0)
    prompts = 3 * (2 + 1) * (8 + 6)
    maps = 3 * (8 * 4 + 4 + 4 * 6 + 6 + 6 * 3 + 3 + 3 * 8 + 8)
    assert sum(p.numel() for p in pmf.parameters()) == prompts + maps
    assert sum(p.numel() for p in pmf.parameters_of("b")) == 3 * 3 * 6
    assert (
        sum(p.numel() for p in PMF({"a": 8, "b": 6}, 1, hidden=5).maps.parameters())
        == 8 * 5 + 5 + 5 * 6 + 6 + 6 * 5 + 5 + 5 * 8 + 8
    )


def test_an_absent_modality_tells_the_others_nothing():
    pmf = PMF({"image": 8, "text": 6}, last=2)
    model, inputs = model_of(("image", "text"), pmf)
    stir(pmf)
    there = {"image": torch.tensor([True, False, True])}
    one = model.encode(inputs, there)
    two = model.encode({**inputs, "image": torch.cat([inputs["image"][:1], torch.randn(2, 3, 8, 12).double()])}, there)
    same(one["text"].pooled[:2], two["text"].pooled[:2])
    assert (one["text"].pooled[2] - two["text"].pooled[2]).abs().max() > 1e-6
    assert one["image"].pooled.isfinite().all()
    alone = model.encode(inputs)["text"].pooled
    assert (alone[1] - one["text"].pooled[1]).abs().max() > 1e-6


def test_bad_input():
    with pytest.raises(InputError, match=r"PMF joins modalities and was given \['a'\]"):
        PMF({"a": 8})
    for options in ({"last": 0}, {"query": 0}, {"fusion_context": -1}):
        with pytest.raises(InputError, match="at least one layer and one query prompt"):
            PMF({"a": 8, "b": 8}, **options)
    with pytest.raises(InputError, match=r"PMF: last=4 layers of encoders \{'image': 3, 'text': 3\} deep"):
        model_of(("image", "text"), PMF({"image": 8, "text": 6}, last=4))
    model, inputs = model_of(("image", "text"), PMF({"image": 8, "sound": 6}, last=1))
    with pytest.raises(InputError, match=r"joins \['image', 'sound'\] and was given \['image', 'text'\]"):
        model(inputs)


def test_prompts_begin_small():
    pmf = PMF({"a": 400, "b": 400}, last=1)
    drawn = torch.cat([p.flatten() for p in pmf.prompts.parameters()])
    assert abs(drawn.std() - 0.02) < 1e-3
    maps: Any = pmf.maps
    assert isinstance(maps[0]["a"]["b"][1], nn.ReLU)
