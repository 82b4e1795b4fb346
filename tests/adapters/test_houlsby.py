"""Houlsby's adapters against layers written out, in and outside of torch's fused paths."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polymodal.adapters import Houlsby, inject_lora
from polymodal.adapters.houlsby import HoulsbyLayer
from polymodal.encoders import MLP, SequenceTransformer
from polymodal.encoders.base import State
from polymodal.errors import InputError
from tests.adapters.by_hand import WRITTEN_OUT, layer_by_hand
from tests.adapters.hosts import host, mask_of, stir


def same(one, other, tol=1e-10):
    torch.testing.assert_close(one, other, atol=tol, rtol=0)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("family", WRITTEN_OUT)
def test_a_bottleneck_behind_each_branch(family, gradients):
    """Without gradients torch would run its layers in one fused call that sees no hook."""
    encoder = host(family).encoder
    adapter = Houlsby(encoder, down=3)
    stir(adapter)
    plain = copy.deepcopy(encoder)
    plain.houlsby.remove()
    for place, norm in encoder.named_parameters():  # the copy's norms are as before, and those here are trained
        if "houlsby" not in place:
            plain.get_parameter(place).data.copy_(norm.data)
    tokens, mask = torch.randn(3, 5, 8).double(), mask_of(5, 3, 4)

    def bottleneck(index):
        layer = adapter.layers[index]

        def change(x, stream):
            u, d = layer.up, layer.down
            return x + F.linear(F.gelu(F.linear(x, d.weight, d.bias), approximate="tanh"), u.weight, u.bias)

        return change

    aux = {"frames": 1, "clips": 1}
    for index in (0, 1):
        wanted = layer_by_hand(
            family, plain.layers[index], tokens, mask, bottleneck(2 * index), bottleneck(2 * index + 1)
        )
        with torch.set_grad_enabled(gradients):
            found = encoder.run_layer(index, State(tokens, mask, aux=aux)).tokens
        same(found[mask], wanted[mask])


def test_it_starts_close_to_the_frozen_model():
    layer = HoulsbyLayer(32, 16)
    for one in (layer.down, layer.up):
        assert 0.5e-3 < one.weight.std() < 1e-3  # a normal of 1e-3 cut at two deviations has 0.88e-3
        assert one.weight.abs().max() <= 2e-3
        assert not one.bias.any()
    x = torch.randn(100, 32)
    assert 0 < (layer(x) - x).abs().max() < 1e-4


@pytest.mark.parametrize("norms", [True, False])
def test_counts_are_those_of_the_formula(norms):
    encoder = host("bert", width=8, depth=3).encoder
    total = sum(p.numel() for p in encoder.parameters())
    adapter = Houlsby(encoder, down=5, norms=norms)
    added = 3 * 2 * (2 * 8 * 5 + 5 + 8)
    beside = 3 * 2 * 2 * 8 if norms else 0
    assert adapter.counts() == (added + beside, total + added)
    assert sum(p.numel() for p in adapter.parameters()) == added + beside
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == added + beside
    assert len(adapter.adapter_state()) == 4 * 6 + (12 if norms else 0)


def test_removal_puts_norms_and_flags_back():
    encoder = host("transformer").encoder
    encoder.project.requires_grad_(False)
    flags = {name: p.requires_grad for name, p in encoder.named_parameters()}
    before = {name: p.clone() for name, p in encoder.state_dict().items()}
    adapter = Houlsby(encoder, down=2)
    stir(adapter)
    assert not torch.equal(encoder.layers[0].norm1.weight, before["layers.0.norm1.weight"])
    adapter.remove()
    assert {name: p.requires_grad for name, p in encoder.named_parameters()} == flags
    assert all(torch.equal(p, before[name]) for name, p in encoder.state_dict().items())
    assert not any(one._forward_hooks for one in encoder.modules())
    with pytest.raises(InputError, match="not in its encoders"):
        adapter.remove()


def test_removal_from_a_loaded_model_restores_the_original_too():
    encoder, x, _ = host("transformer")
    before, out = {name: p.clone() for name, p in encoder.state_dict().items()}, encoder(x).pooled
    stir(Houlsby(encoder, down=2))
    other = host("transformer", seed=1).encoder
    adapter = Houlsby(other, down=2)
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(x).pooled, encoder(x).pooled)
    adapter.remove()
    assert all(torch.equal(p, before[name]) for name, p in other.state_dict().items())
    assert torch.equal(other(x).pooled, out)


def test_a_copy_has_an_adapter_of_its_own():
    encoder, x, _ = host("transformer")
    adapter = Houlsby(encoder, down=2)
    other = copy.deepcopy(encoder)
    out = encoder(x).pooled
    stir(adapter)
    assert torch.equal(other(x).pooled, out)
    other.houlsby.load_adapter_state(adapter.adapter_state())
    assert torch.equal(other(x).pooled, encoder(x).pooled)
    other.houlsby.remove()
    assert not hasattr(other, "houlsby")
    assert encoder.houlsby is adapter


def test_bad_input():
    encoder = host("transformer").encoder
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"down": 0}, "down=0; the width of a bottleneck is at least 1"),
        ({"activation": "gelo"}, "did you mean 'gelu'"),
    ]
    for options, message in wrong:
        with pytest.raises(InputError, match=message):
            Houlsby(encoder, **options)
    with pytest.raises(InputError, match="Houlsby in MLP: it has no layers"):
        Houlsby(MLP(3, dim=4))  # type: ignore[arg-type]
    Houlsby(encoder)
    with pytest.raises(InputError, match="carries Houlsby already; remove that first"):
        Houlsby(encoder)
    other = host("transformer").encoder
    inject_lora(other)
    with pytest.raises(InputError, match="carries LoRA already"):
        Houlsby(other)
    strange = SequenceTransformer(6, 8, 2, 2)
    strange.layers[1] = nn.Linear(8, 8)
    with pytest.raises(InputError, match="layer of type Linear: no known attention"):
        Houlsby(strange)
    assert all(p.requires_grad for p in strange.parameters())
    assert not any(one._forward_hooks for one in strange.modules())


def test_a_state_for_other_encoders_is_refused():
    adapter = Houlsby(host("transformer").encoder, down=2)
    for other in (
        Houlsby(host("transformer", width=4).encoder, down=2),
        Houlsby(host("bert", depth=3).encoder, down=2),
    ):
        before = {key: value.clone() for key, value in adapter.adapter_state().items()}
        with pytest.raises(InputError, match=r"belongs to other encoders or settings.*nothing was loaded"):
            adapter.load_adapter_state(other.adapter_state())
        assert all(torch.equal(value, before[key]) for key, value in adapter.adapter_state().items())
