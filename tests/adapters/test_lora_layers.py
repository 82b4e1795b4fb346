"""LoRA layer by layer against formulas written out, torch's own fast paths, and HF peft."""

import copy
import json
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from polymodal.adapters import export_peft, import_peft, inject_lora
from polymodal.errors import InputError
from tests.adapters.models import SelfAttention, bert, family, fill


def gap(first, second):
    return (first - second).abs().max().item()


@contextmanager
def without_fast_path():
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def factors(lora, name):
    update = lora.layers[name].update
    return update.A.detach(), update.B.detach()


def by_hand(weight, lora, name, rows):
    """The fused weight with alpha / r B A added to the rows of each part."""
    a, b = factors(lora, name)
    rank, each = b.shape[1], b.shape[0] // len(rows)
    weight = weight.clone()
    for part, where in enumerate(rows):
        delta = b[part * each : (part + 1) * each] @ a[part * rank : (part + 1) * rank]
        weight[where] += lora.layers[name].update.scale * delta
    return weight


@pytest.mark.parametrize(("name", "layer"), [("vit", "blocks.1.attn.qkv"), ("transformer", "layers.1.self_attn")])
def test_fused_weights_get_one_update_for_each_of_q_k_and_v(name, layer):
    model, inputs, _, _ = family(name)
    plain = copy.deepcopy(model)
    lora = inject_lora(model, rank=2, alpha=3, targets=layer)
    fill(lora)
    assert lora.layers[layer].update.A.shape[0] == 6
    host: Any = plain.get_submodule(layer)
    weight = host.weight if name == "vit" else host.in_proj_weight
    d = weight.shape[1]
    with torch.no_grad():
        weight.copy_(by_hand(weight, lora, layer, [slice(0, d), slice(d, 2 * d), slice(2 * d, 3 * d)]))
    assert gap(model(*inputs), plain(*inputs)) <= 1e-12


def test_deberta_rows_come_head_by_head():
    """Rows are those that the library itself picks from the fused weight for its queries, keys and values."""
    model, inputs, _, _ = family("deberta")
    plain = copy.deepcopy(model)
    layer = "model.encoder.layer.0.attention.self.in_proj"
    lora = inject_lora(model, rank=1, targets=layer)
    fill(lora)
    heads = 2
    pieces = torch.arange(24).chunk(heads * 3)
    rows = [torch.cat([pieces[head * 3 + part] for head in range(heads)]) for part in range(3)]
    host: Any = plain.get_submodule(layer)
    weight = host.weight
    with torch.no_grad():
        weight.copy_(by_hand(weight, lora, layer, rows))
    assert gap(model(*inputs), plain(*inputs)) <= 1e-12


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("targets", ["attention", "out_proj", "*"])
def test_attention_in_and_outside_of_the_fast_path(fast, targets):
    """Without gradients torch reads raw weights in one fused call; it must see the updates too."""
    model, inputs, _, _ = family("transformer")
    before = model(*inputs)
    lora = inject_lora(model, rank=1, targets=targets)
    fill(lora)
    slow = model(*inputs)
    assert gap(slow, before) > 1e-3
    with nullcontext() if fast else without_fast_path(), torch.no_grad():
        assert gap(model(*inputs), slow) <= 1e-12
        lora.merge()
        assert gap(model(*inputs), slow) <= 1e-12


def test_the_fast_path_is_taken(monkeypatch):
    calls: list[int] = []
    native = torch._native_multi_head_attention

    def counted(*args: Any) -> Any:
        calls.append(1)
        return native(*args)

    monkeypatch.setattr(torch, "_native_multi_head_attention", counted)
    model = SelfAttention(batch_first=True).double().eval()
    x = torch.randn(2, 5, 8).double()
    before = model(x)
    lora = inject_lora(model)
    fill(lora)
    with torch.no_grad():
        adapted = model(x)
    assert calls
    assert gap(adapted, model(x)) <= 1e-12
    assert gap(adapted, before) > 1e-3


@pytest.mark.parametrize("form", ["conv_then_1x1", "kernel_times_channel"])
@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 2, "padding": 1}, {"dilation": 2}, {"padding": "same", "dilation": 2},
        {"padding": 1, "padding_mode": "reflect"}, {"groups": 2, "stride": 2},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dims", [1, 2])
def test_convolutions_of_every_setting_merge(form, settings, dims):
    layer = (nn.Conv1d if dims == 1 else nn.Conv2d)(4, 6, 3, **settings).double()
    x = torch.randn(2, 4, *[9] * dims).double()
    before = layer(x)
    if "groups" in settings and form == "kernel_times_channel":
        with pytest.raises(InputError, match="2 groups have no kernel-times-channel form"):
            inject_lora(layer, rank=2, targets="*", conv=form)
        return
    lora = inject_lora(layer, rank=2, alpha=5, targets="*", conv=form)
    assert torch.equal(layer(x), before)
    fill(lora)
    adapted = layer(x)
    assert gap(adapted, before) > 1e-2
    lora.merge()
    assert gap(layer(x), adapted) <= 1e-12


def test_a_grouped_update_is_one_of_rank_r_over_groups_in_each():
    layer = nn.Conv2d(4, 6, 3, groups=2, bias=False).double()
    weight = layer.weight.detach().clone()
    lora = inject_lora(layer, rank=2, targets="*")
    fill(lora)
    a, b = factors(lora, "")
    lora.merge()
    for group in range(2):
        delta = torch.outer(b.flatten(1)[3 * group : 3 * group + 3, 0], a[group].flatten()).view(3, 2, 3, 3)
        assert gap(layer.weight[3 * group : 3 * group + 3], weight[3 * group : 3 * group + 3] + delta) <= 1e-12


def test_convolutions_that_pad_by_the_size_of_their_input():
    from timm.layers.conv2d_same import Conv2dSame

    layer = Conv2dSame(3, 4, 3, stride=2).double()
    x = torch.randn(1, 3, 8, 8).double()
    lora = inject_lora(layer, rank=2, targets="*")
    fill(lora)
    adapted = layer(x)
    lora.merge()
    assert gap(layer(x), adapted) <= 1e-12


def test_dropout_acts_on_the_input_of_the_update():
    layer = nn.Linear(6, 4).double()
    x = torch.randn(5, 6).double()
    lora = inject_lora(layer, rank=2, alpha=3, dropout=0.4, targets="*")
    fill(lora)
    a, b = factors(lora, "")
    torch.manual_seed(7)
    out = layer.train()(x)
    torch.manual_seed(7)
    dropped = F.dropout(x, 0.4)
    assert gap(out, F.linear(x, layer.weight, layer.bias) + 1.5 * dropped @ a.T @ b.T) <= 1e-12
    assert gap(layer.eval()(x), F.linear(x, layer.weight, layer.bias) + 1.5 * x @ a.T @ b.T) <= 1e-12


def test_dropout_in_attention_drops_features_once_a_pass():
    model = SelfAttention().double()
    x = torch.randn(5, 2, 8).double()
    lora = inject_lora(model, rank=2, dropout=0.5)
    fill(lora)
    whole = model.eval()(x)
    a, b = factors(lora, "attn")
    torch.manual_seed(7)
    out = model.train()(x)
    torch.manual_seed(7)
    kept = F.dropout(torch.ones(8).double(), 0.5)
    plain = copy.deepcopy(model)
    lora_of_plain = plain.__dict__["_lora_adapters"]["default"]
    lora_of_plain.remove(merge=False)
    delta = torch.cat([b[8 * i : 8 * i + 8] @ (a[2 * i : 2 * i + 2] * kept) for i in range(3)])
    with torch.no_grad():
        plain.attn.in_proj_weight.add_(delta)
    assert gap(out, plain(x)) <= 1e-12
    assert gap(out, whole) > 1e-3


def test_conv_dropout_is_off_in_eval():
    layer = nn.Conv1d(3, 4, 3).double()
    x = torch.randn(2, 3, 8).double()
    lora = inject_lora(layer, rank=1, dropout=0.5, targets="*")
    fill(lora)
    assert gap(layer.train()(x), layer(x)) > 1e-3
    assert torch.equal(layer.eval()(x), layer(x))


# HF peft: its own forward and merge on the same factors, by way of its file format.


def peft_twin(lora, plain, folder):
    from peft import PeftModel

    export_peft(lora, folder)
    return PeftModel.from_pretrained(plain, folder).eval()


class Net(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)
        self.head = nn.LazyLinear(3)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


LIKE_PEFT = {
    "linear": (lambda: Net(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), (2, 6)),
    "conv1d": (lambda: Net(nn.Conv1d(3, 4, 3, stride=2, padding=1)), (2, 3, 9)),
    "conv2d": (lambda: Net(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 1)), (2, 3, 7, 7)),
}


@pytest.mark.parametrize("name", LIKE_PEFT)
def test_as_peft_where_it_treats_layers_alike(name, tmp_path):
    make, shape = LIKE_PEFT[name]
    model, x = make().double(), torch.randn(shape).double()
    model(x)
    plain, third = copy.deepcopy(model), copy.deepcopy(model)
    lora = inject_lora(model, rank=2, alpha=3, targets="body.*", modules_to_save="head")
    fill(lora)
    with torch.no_grad():
        model.head.weight.add_(1)
    twin = peft_twin(lora, plain, tmp_path)
    out = model(x)
    assert gap(twin(x), out) <= 1e-12
    imported = import_peft(third, tmp_path)
    assert gap(third(x), out) <= 1e-12
    assert imported.saved.keys() == {"head"}
    merged = twin.merge_and_unload()
    lora.remove(merge=True)
    imported.remove(merge=True)
    for key, value in model.state_dict().items():
        assert gap(value, merged.state_dict()[key]) <= 1e-12
        assert gap(value, third.state_dict()[key]) <= 1e-12


@pytest.mark.parametrize("name", ["vit", "bert", "deberta"])
def test_models_as_peft_computes_them_from_our_files(name, tmp_path):
    """A fused weight's three updates are one of rank 3 r with a block-diagonal B."""
    model, inputs, _, _ = family(name)
    plain, third = copy.deepcopy(model), copy.deepcopy(model)
    lora = inject_lora(model, rank=2, alpha=3)
    fill(lora)
    out = model(*inputs)
    assert gap(peft_twin(lora, plain, tmp_path)(*inputs), out) <= 1e-12
    import_peft(third, tmp_path, name="other")
    assert gap(third(*inputs), out) <= 1e-12


def test_mixed_ranks_are_written_for_peft(tmp_path):
    model, inputs, _, _ = family("vit")
    plain = copy.deepcopy(model)
    lora = inject_lora(model, rank=2, alpha=1, targets=["qkv", "fc1"])
    fill(lora)
    twin = peft_twin(lora, plain, tmp_path)
    assert gap(twin(*inputs), model(*inputs)) <= 1e-12
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == 6
    assert set(config["rank_pattern"].values()) == {2}


def test_what_peft_trained_is_read(tmp_path):
    """A fused weight with one A for all of it, and a rank-stabilised scale."""
    from peft import LoraConfig, get_peft_model

    model, inputs, _, _ = family("vit")
    plain = copy.deepcopy(model)
    config = LoraConfig(r=2, lora_alpha=3, use_rslora=True, target_modules=["qkv", "fc2"], init_lora_weights=False)
    theirs = get_peft_model(model, config).double().eval()
    theirs.save_pretrained(tmp_path)
    import_peft(plain, tmp_path)
    assert gap(plain(*inputs), theirs(*inputs)) <= 1e-12


def test_where_peft_computes_something_else(tmp_path):
    """MultiheadAttention: one A for Q, K and V and the output projection besides; dilation: dropped; groups: not merged."""
    from peft import LoraConfig, get_peft_model

    attention = SelfAttention().double()
    settings = LoraConfig(r=2, target_modules=["attn"], lora_alpha=2, init_lora_weights=False)
    theirs = get_peft_model(copy.deepcopy(attention), settings).double()
    trained = {n.removeprefix("base_model.model."): p.detach() for n, p in theirs.named_parameters() if "lora" in n}
    assert {name: tuple(one.shape) for name, one in trained.items()} == {
        "attn.lora_A.default.weight": (2, 8),
        "attn.lora_B.default.weight": (24, 2),
        "attn.base_layer.out_proj.lora_A.default.weight": (2, 8),
        "attn.base_layer.out_proj.lora_B.default.weight": (8, 2),
    }
    theirs.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"LoRA on attn.* cannot be read .* one A for all three"):
        import_peft(attention, tmp_path)
    merged: Any = theirs.merge_and_unload().attn
    shared: Any = copy.deepcopy(attention)
    lora = inject_lora(shared, rank=2, targets=["attn", "out_proj"], fused="shared")
    names = {"attn": "attn", "attn.out_proj": "attn.base_layer.out_proj"}
    lora.load_adapter_state(
        {f"{mine}.lora_{x}": trained[f"{name}.lora_{x}.default.weight"] for mine, name in names.items() for x in "AB"}
    )
    lora.remove(merge=True)
    assert gap(shared.attn.in_proj_weight, merged.in_proj_weight) <= 1e-12
    assert gap(shared.attn.out_proj.weight, merged.out_proj.weight) > 1e-3  # peft 0.21 adds this update twice
    for path in tmp_path.iterdir():
        path.unlink()
    ours = inject_lora(attention, rank=2)
    assert {key: tuple(v.shape) for key, v in ours.adapter_state().items()} == {
        "attn.lora_A": (6, 8),
        "attn.lora_B": (24, 2),
    }
    with pytest.raises(InputError, match=r"LoRA on attn cannot be written .* one A for all three"):
        export_peft(ours, tmp_path)

    layers = family("transformer")
    before = layers.model(*layers.inputs)
    theirs = get_peft_model(layers.model, LoraConfig(target_modules=["self_attn"], init_lora_weights=False)).eval()
    with without_fast_path():
        assert gap(theirs(*layers.inputs), before) > 1e-3
    assert gap(theirs(*layers.inputs), before) <= 1e-12  # torch's fused call reads the raw weight: no adapter acts

    dilated = nn.Sequential(nn.Conv2d(2, 3, 3, dilation=2, padding=2)).double()
    twin: Any = get_peft_model(copy.deepcopy(dilated), LoraConfig(r=1, target_modules=["0"]))
    assert twin.base_model.model[0].lora_A["default"].dilation == (1, 1)
    with pytest.raises(InputError, match="drops its dilation"):
        export_peft(inject_lora(dilated, targets="*"), tmp_path)

    grouped = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)).double()
    with pytest.warns(UserWarning, match="groups > 1"):
        twin = get_peft_model(copy.deepcopy(grouped), LoraConfig(r=2, target_modules=["0"]))
    with pytest.raises(NotImplementedError, match="groups"):
        twin.merge_and_unload()
    with pytest.raises(InputError, match="sees all channels"):
        export_peft(inject_lora(grouped, 2, targets="*"), tmp_path)

    kernel = nn.Sequential(nn.Conv2d(4, 6, 3))
    with pytest.raises(InputError, match="not of this form"):
        export_peft(inject_lora(kernel, targets="*", conv="kernel_times_channel"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_bert_counts_are_those_of_peft():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["query", "key", "value"])
    theirs = get_peft_model(bert().model, config).get_nb_trainable_parameters()
    assert inject_lora(bert().model, rank=2).counts() == theirs
