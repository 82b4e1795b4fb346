"""Saving and loading adapters: only what was trained, only into the model it belongs to."""

import copy
import json
import re

import pytest
import torch
from safetensors import safe_open
from torch import nn

from polymodal.adapters import export_peft, import_peft, inject_lora, load_lora, lora_adapters, save_lora
from polymodal.errors import InputError
from tests.adapters.models import FAMILIES, SelfAttention, family, fill
from tests.adapters.test_lora import layout, same, values


@pytest.fixture
def saved(tmp_path):
    """A trained adapter of a small net in a file, with the plain net."""
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), beside := nn.Linear(4, 3))
    plain = copy.deepcopy(net)
    lora = inject_lora(net, rank=2, alpha=3, dropout=0.1, targets=["0", "2"], modules_to_save="3", name="mine")
    fill(lora)
    with torch.no_grad():
        beside.weight.add_(1)
    save_lora(lora, tmp_path / "adapter.safetensors")
    return tmp_path / "adapter.safetensors", net.eval(), plain.eval()


def refused(model, path, message, **settings):
    """One clear error, and the model as it was."""
    before, weights = layout(model), values(model)
    with pytest.raises(InputError, match=message):
        load_lora(model, path, **settings)
    assert layout(model) == before
    assert same(values(model), weights)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back(name, tmp_path):
    model, inputs, _, _ = family(name)
    plain = copy.deepcopy(model)
    lora = inject_lora(model, rank=2, alpha=5)
    fill(lora)
    save_lora(lora, tmp_path / "a.safetensors")
    lora.merge()
    save_lora(lora, tmp_path / "b.safetensors")
    lora.unmerge()
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    load_lora(plain, tmp_path / "a.safetensors")
    assert torch.equal(plain(*inputs), model(*inputs))


def test_only_what_was_trained_is_in_the_file(saved):
    path, net, plain = saved
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["polymodal"])
        keys = set(file.keys())
    assert keys == {"0.lora_A", "0.lora_B", "2.lora_A", "2.lora_B", "3.weight", "3.bias"}
    assert header["layers"]["0"] | {"shape": None} == {
        "rank": 2, "alpha": 3, "form": "linear", "parts": 1, "heads": 1, "shape": None,
    }  # fmt: skip
    lora = load_lora(plain, path)
    x = torch.randn(4, 6)
    assert torch.equal(plain(x), net(x))
    assert (lora.name, lora.plan.dropout, list(lora.saved)) == ("mine", 0.1, ["3"])
    assert lora.counts() == lora_adapters(net)["mine"].counts()


def test_an_adapter_of_another_model(saved):
    path, _, plain = saved
    refused(
        nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), path, r"adapts 2 with a weight \(4, 5\), which has"
    )
    refused(nn.Sequential(nn.Linear(6, 5)), path, "adapts 2 with a weight .* which is missing")
    refused(nn.Sequential(*plain[:3]), path, r"has no \['3'\]")
    refused(nn.Sequential(*plain[:3], nn.Linear(4, 2)), path, r"3.weight is \(3, 4\) there and \(2, 4\) here")
    other = copy.deepcopy(plain)
    with torch.no_grad():
        other[0].weight[0, 0] += 1e-6
    refused(other, path, "other weights of the same shapes; .* same_weights=False")
    load_lora(other, path, same_weights=False)


def test_a_name_that_is_taken(saved):
    path, net, _ = saved
    refused(net, path, "has an adapter 'mine' already")
    load_lora(net, path, name="again")
    assert list(lora_adapters(net)) == ["mine", "again"]


def test_broken_files(saved, tmp_path):
    path, _, plain = saved
    refused(plain, tmp_path / "none.safetensors", "no such file")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-5])
    refused(plain, tmp_path / "cut.safetensors", "truncated")
    (tmp_path / "text.safetensors").write_text("hello")
    refused(plain, tmp_path / "text.safetensors", "no safetensors file")
    export_peft(inject_lora(copy.deepcopy(plain), targets="0"), tmp_path)
    refused(plain, tmp_path / "adapter_model.safetensors", "read by import_peft")


def test_a_state_of_other_settings_changes_nothing(saved):
    _, net, _ = saved
    lora = lora_adapters(net)["mine"]
    weights, state = values(net), lora.adapter_state()
    for wrong, message in [
        ({key: value for key, value in state.items() if key != "2.lora_B"}, "lacks 2.lora_B"),
        (state | {"7.lora_A": torch.zeros(1)}, "has besides 7.lora_A"),
        (state | {"2.lora_B": torch.zeros(4, 1)}, r"2.lora_B is \(4, 1\) there and \(4, 2\) here"),
    ]:
        with pytest.raises(InputError, match=message):
            lora.load_adapter_state(wrong)
        assert same(values(net), weights)


def test_a_state_loads_into_a_merged_adapter():
    model = SelfAttention().double()
    x = torch.randn(5, 2, 8).double()
    lora = inject_lora(model, rank=1)
    empty = lora.adapter_state()
    empty = {key: value.clone() for key, value in empty.items()}
    before = model(x)
    fill(lora)
    lora.merge()
    assert not torch.equal(model(x), before)
    lora.load_adapter_state(empty)
    assert (model(x) - before).abs().max() <= 1e-12


def peft_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora is set"),
        ({"bias": "all"}, "bias='all' changes biases too"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base weights"),
    ],
)
def test_peft_variants_that_are_more_than_lora(changes, message, tmp_path):
    net = nn.Sequential(nn.Linear(4, 3))
    export_peft(inject_lora(copy.deepcopy(net), targets="0"), tmp_path)
    peft_config(tmp_path, **changes)
    with pytest.raises(InputError, match=re.escape(message)):
        import_peft(net, tmp_path)
    assert lora_adapters(net) == {}


def test_a_peft_adapter_of_another_model(tmp_path):
    net = nn.Sequential(nn.Linear(4, 3))
    export_peft(inject_lora(copy.deepcopy(net), targets="0"), tmp_path)
    for other, message in [
        (nn.Sequential(nn.ReLU(), nn.Linear(4, 3)), "adapts 0, which this Sequential lacks"),
        (nn.Sequential(nn.Linear(5, 3)), r"0.lora_A is \(1, 4\) there and \(1, 5\) here"),
    ]:
        plain = layout(other)
        with pytest.raises(InputError, match=message):
            import_peft(other, tmp_path)
        assert layout(other) == plain
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match="not whole JSON"):
        import_peft(net, tmp_path)
    with pytest.raises(InputError, match="no such file"):
        import_peft(net, tmp_path / "none")
