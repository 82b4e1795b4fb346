"""LoRA in every family of models: identity at first, gradients, merging, taking out, switching."""

import copy

import pytest
import torch
from torch import nn

from polymodal.adapters import inject_lora, lora_adapters, set_active
from tests.adapters.models import FAMILIES, SelfAttention, family, fill

EACH = pytest.mark.parametrize("name", FAMILIES)


def layout(model):
    """All that injection may not leave behind."""
    return {
        "keys": list(model.state_dict()),
        "classes": [type(m) for m in model.modules()],
        "hooks": [len(m._forward_hooks) for m in model.modules()],
        "flags": [p.requires_grad for p in model.parameters()],
        "own": [sorted(m.__dict__) for m in model.modules()],
    }


def values(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@EACH
def test_starts_as_the_frozen_model(name):
    model, inputs, adapted, _ = family(name)
    before = model(*inputs)
    lora = inject_lora(model, rank=2)
    assert len(lora.layers) == adapted
    assert torch.equal(model(*inputs), before)


@EACH
def test_only_factors_and_chosen_modules_receive_gradients(name):
    model, inputs, _, _ = family(name)
    model = nn.Sequential(model, head := nn.LazyLinear(2).double())
    model(*inputs)
    lora = inject_lora(model, rank=1, modules_to_save="1")
    fill(lora)
    model(*inputs).square().sum().backward()
    trained = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    factors = {n for n, _ in model.named_parameters() if n.endswith((".lora.default.A", ".lora.default.B"))}
    assert trained == factors | {"1.weight", "1.bias"}
    assert {id(p) for p in lora.parameters()} == {id(p) for n, p in model.named_parameters() if n in trained}
    assert head.weight.requires_grad


@EACH
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_merging_is_the_same_function(name, dtype, tolerance):
    model, inputs, _, _ = family(name, dtype)
    plain, weights = layout(model), values(model)
    before = model(*inputs)
    lora = inject_lora(model, rank=2, alpha=3)
    fill(lora)
    adapted = model(*inputs)
    assert (adapted - before).abs().max() > 1e-3
    lora.merge()
    assert (model(*inputs) - adapted).abs().max() <= tolerance
    lora.unmerge()
    assert torch.equal(model(*inputs), adapted)
    assert same({k: v for k, v in values(model).items() if ".lora." not in k}, weights)
    lora.remove(merge=True)
    assert (model(*inputs) - adapted).abs().max() <= tolerance
    assert layout(model) == plain


@EACH
def test_dropping_leaves_the_model_as_it_was(name):
    model, inputs, _, _ = family(name)
    plain, weights, before = layout(model), values(model), model(*inputs)
    lora = inject_lora(model, rank=1)
    fill(lora)
    lora.merge()
    lora.remove(merge=False)
    assert layout(model) == plain
    assert same(values(model), weights)
    assert torch.equal(model(*inputs), before)
    assert lora_adapters(model) == {}


@EACH
def test_export_of_the_merged_model(name):
    model, inputs, _, _ = family(name, torch.float32)
    lora = inject_lora(model, rank=1)
    fill(lora)
    lora.remove(merge=True)
    program = torch.export.export(model, inputs).module()
    assert (program(*inputs) - model(*inputs)).abs().max() <= 1e-5


@EACH
def test_a_deep_copy_is_adapted_by_itself(name):
    model, inputs, _, _ = family(name)
    lora = inject_lora(model, rank=1)
    fill(lora)
    before = model(*inputs)
    twin = copy.deepcopy(model)
    (other,) = lora_adapters(twin).values()
    assert torch.equal(twin(*inputs), before)
    fill(other)
    changed = twin(*inputs)
    assert not torch.equal(changed, before)
    assert torch.equal(model(*inputs), before)
    other.remove(merge=True)
    assert (twin(*inputs) - changed).abs().max() <= 1e-12
    assert torch.equal(model(*inputs), before)


@EACH
def test_several_adapters_add_up_and_switch(name):
    model, inputs, _, _ = family(name)
    before = model(*inputs)
    first = inject_lora(model, rank=1, name="first")
    fill(first)
    one = model(*inputs)
    second = inject_lora(model, rank=2, name="second")
    assert torch.equal(model(*inputs), before)
    assert not any(p.requires_grad for p in first.parameters())
    fill(second)
    two = model(*inputs)
    set_active(model, "first", "second")
    both = model(*inputs)
    assert (both - one).abs().max() > 1e-4
    assert (both - two).abs().max() > 1e-4
    first.merge()
    assert (model(*inputs) - both).abs().max() <= 1e-12
    with second.disabled():
        assert (model(*inputs) - one).abs().max() <= 1e-12
    second.merge()
    assert (model(*inputs) - both).abs().max() <= 1e-12
    first.remove(merge=True)
    assert (model(*inputs) - both).abs().max() <= 1e-12
    with second.disabled():
        assert (model(*inputs) - one).abs().max() <= 1e-12
    second.remove(merge=False)
    assert (model(*inputs) - one).abs().max() <= 1e-12


@EACH
def test_half_precision_weights_keep_wide_factors(name):
    model, inputs, _, _ = family(name, torch.bfloat16)
    lora = inject_lora(model, rank=1)
    fill(lora)
    assert {p.dtype for p in lora.parameters()} == {torch.float32}
    out = model(*inputs)
    assert out.dtype == torch.bfloat16
    lora.merge()
    assert (model(*inputs) - out).abs().max() <= 0.1


@EACH
def test_counts(name):
    model, _, _, updates = family(name)
    total = sum(p.numel() for p in model.parameters())
    lora = inject_lora(model, rank=1)
    by_hand = sum(p.numel() for n, p in model.named_parameters() if ".lora." in n)
    assert lora.counts() == (by_hand, total + by_hand)
    assert sum(layer.spec.parts for layer in lora.layers.values()) == updates


def test_counts_are_printed_as_peft_does(capsys):
    lora = inject_lora(nn.Linear(10, 10), rank=1, targets="*")
    lora.print_trainable_parameters()
    assert capsys.readouterr().out == "trainable params: 20 || all params: 130 || trainable%: 15.3846\n"


@pytest.mark.parametrize("name", ["resnet", "conv1d"])
def test_frozen_batch_norm_does_not_drift(name):
    model, inputs, _, _ = family(name)
    lora = inject_lora(model, rank=1)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    weights, before = values(model), model(*inputs)
    model.train()
    assert norms
    assert not any(norm.training for norm in norms)
    assert torch.equal(model(*inputs), before)
    assert same(values(model), weights)
    lora.remove(merge=False)
    model.train()
    assert all(norm.training for norm in norms)
    model(*inputs)
    assert not same(values(model), weights)


def test_batch_norm_that_trains_beside_follows_train():
    last = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), last)
    inject_lora(model, rank=1, targets="0", modules_to_save="2")
    model.train()
    assert (model[1].training, last[1].training) == (False, True)


def test_modules_beside_switch_with_their_adapter():
    model = SelfAttention().double()
    x = torch.randn(5, 2, 8).double()
    before, weights = model(x), values(model)
    first = inject_lora(model, rank=1, modules_to_save=["head"], name="first")
    with torch.no_grad():
        model.head.weight.add_(1)
    changed = model(x)
    assert first.adapter_state().keys() == {"attn.lora_A", "attn.lora_B", "head.weight", "head.bias"}
    with first.disabled():
        assert torch.equal(model(x), before)
        assert torch.equal(first.adapter_state()["head.weight"], weights["head.weight"] + 1)
    assert torch.equal(model(x), changed)
    second = inject_lora(model, rank=1, modules_to_save=["head"], name="second")
    assert torch.equal(model(x), before)
    assert model.head.weight.requires_grad
    set_active(model, "first")
    assert torch.equal(model(x), changed)
    first.remove(merge=True)
    assert torch.equal(model(x), changed)
    second.remove(merge=False)
    assert torch.equal(model(x), changed)
    assert all(p.requires_grad for p in model.parameters())


def test_base_weights_load_into_the_adapted_model():
    model, inputs, _, _ = family("vit")
    other = family("vit").model
    inject_lora(model, rank=1)
    missing, unexpected = model.load_state_dict(other.state_dict(), strict=False)
    assert unexpected == []
    assert all(".lora.default." in key for key in missing)
    assert torch.equal(model(*inputs), other(*inputs))


def test_a_generator_makes_the_start_repeat():
    starts = [
        inject_lora(nn.Linear(300, 40), 2, targets="*", generator=torch.Generator().manual_seed(5)).adapter_state()
        for _ in range(2)
    ]
    assert torch.equal(starts[0]["lora_A"], starts[1]["lora_A"])
    assert starts[0]["lora_A"].std().item() == pytest.approx(300**-0.5, rel=0.1)
    assert not starts[0]["lora_B"].any()


def test_training_moves_only_the_adapter():
    model, inputs, _, _ = family("transformer")
    lora = inject_lora(model, rank=1, dropout=0.2)
    weights = {k: v for k, v in values(model).items() if ".lora." not in k}
    optimizer = torch.optim.AdamW(lora.parameters(), lr=0.05)
    target = torch.randn(2, 5, 8).double()
    losses = []
    for _ in range(15):
        loss = (model.train()(*inputs) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((model.eval()(*inputs) - target).square().mean().item())
    assert losses[-1] < losses[0]
    assert same({k: v for k, v in values(model).items() if ".lora." not in k}, weights)
