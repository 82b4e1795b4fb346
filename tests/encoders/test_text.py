from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from polymodal.encoders import Bert, Deberta
from polymodal.errors import InputError
from polymodal.types import Padded
from tests.encoders.layered_properties import (
    check_absent_sample,
    check_foreign_tokens,
    check_gradients,
    check_padding,
    largest,
)

SIZES: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}
V3 = RELATIVE | {"model_type": "deberta-v2", "position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
FAMILIES: dict[str, tuple[type[Bert] | type[Deberta], dict[str, Any]]] = {
    "bert": (Bert, {}),
    "roberta": (Bert, {"model_type": "roberta"}),
    "xlm-roberta": (Bert, {"model_type": "xlm-roberta"}),
    "camembert": (Bert, {"model_type": "camembert"}),
    "electra": (Bert, {"model_type": "electra", "embedding_size": 8}),
    "deberta": (Deberta, RELATIVE | {"model_type": "deberta"}),
    "deberta_absolute": (Deberta, {"model_type": "deberta"}),
    "deberta_v2": (Deberta, V3 | {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "deberta_v3": (Deberta, V3),
}


def make(family: str = "bert", **options: Any) -> Any:
    torch.manual_seed(0)
    kind, config = FAMILIES[family]
    encoder = kind(config=SIZES | config, **options).double().eval()
    for one in encoder.parameters():  # norms and biases too, which start at 1 and 0
        torch.nn.init.normal_(one, std=0.2)
    return encoder


def texts() -> Padded:
    torch.manual_seed(1)
    mask = torch.ones(3, 9, dtype=torch.bool)
    mask[1, 6:] = False
    mask[2, 2:] = False
    return Padded(torch.randint(3, 30, (3, 9)).masked_fill(~mask, 0), mask)


def own_forward(encoder: Any, x: Padded) -> Tensor:
    ids = x.values.masked_fill(~x.mask, encoder.net.config.pad_token_id)
    found: Tensor = encoder.net(input_ids=ids, attention_mask=x.mask.long()).last_hidden_state
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_by_layer_is_the_librarys_own_forward(family: str) -> None:
    encoder, x = make(family), texts()
    found, expected = encoder(x), own_forward(encoder, x)
    assert largest(found.tokens, expected) <= 1e-10
    assert largest(found.pooled, expected[:, 0]) <= 1e-10
    assert torch.equal(found.mask, x.mask)
    unpadded = encoder(x.values[:1])
    assert unpadded.mask is None
    assert largest(unpadded.tokens, expected[:1]) <= 1e-10
    mean = make(family, pool="mean")(x)
    assert largest(mean.pooled[1], expected[1, :6].mean(0)) <= 1e-10


@pytest.mark.parametrize("family", FAMILIES)
def test_what_holds_for_layered_encoders(family: str) -> None:
    encoder, x = make(family), texts()
    check_padding(encoder, x)
    check_foreign_tokens(encoder, x, 3)
    check_absent_sample(encoder, x, 3)
    check_gradients(encoder, x)


@pytest.mark.parametrize("family", ["bert", "deberta", "deberta_v2"])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision(family: str, precision: torch.dtype) -> None:
    encoder, x = make(family).float().train(), texts()
    expected = encoder.eval()(x).pooled
    with torch.autocast("cpu", precision):
        found = encoder(x).pooled
        state = encoder.embed(x)
        narrow = encoder.run_layer(0, state._replace(tokens=state.tokens.to(precision)))  # as an adapter may leave them
    found.float().square().sum().backward()
    assert largest(found.float(), expected) < 0.2
    assert narrow.tokens.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("family", ["bert", pytest.param("deberta_v3", marks=pytest.mark.slow)])
def test_export_leaves_batch_and_length_free(family: str) -> None:
    encoder, x = make(family), texts()
    free: Any = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(encoder, (x,), dynamic_shapes=(Padded(free, free),)).module()
    other = Padded(x.values[:2, :7], x.mask[:2, :7])
    for one in (x, other):
        assert largest(exported(one).pooled, encoder(one).pooled) <= 1e-12


def test_texts_longer_than_the_positions() -> None:
    with pytest.raises(InputError, match="texts of 41 tokens for a model of 40 positions"):
        make()(torch.ones(1, 41, dtype=torch.long))
    with pytest.raises(InputError, match="texts of 40 tokens for a model of 38 positions"):
        make("roberta")(torch.ones(1, 40, dtype=torch.long))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either folder"),
        ({"folder": "x", "config": {}}, "give either folder"),
        ({"config": SIZES, "pool": "max"}, "pool='max'; expected 'cls' or 'mean'"),
        ({"config": SIZES, "buckets": 31}, "31 different tokens for a model that knows 30"),
        ({"config": SIZES | {"model_type": "deberta"}}, "use the encoder deberta"),
        ({"config": SIZES | {"model_type": "gpt2"}}, "cannot run a model of type 'gpt2'"),
        ({"config": SIZES | {"model_type": "nonsense"}}, "no model of transformers"),
    ],
)
def test_settings_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Bert(**arguments)


def test_the_vocabulary_of_a_model_from_scratch_is_the_inputs() -> None:
    sizes = {name: value for name, value in SIZES.items() if name != "vocab_size"}
    assert Bert(config=sizes, buckets=17).net.config.vocab_size == 17


# Folders ---------------------------------------------------------------------------------------------------------------


def folder(path: Path, family: str = "bert", *, file: str = "model.safetensors", head: bool = True) -> tuple[Any, Path]:
    """A published folder: the model with a head of its pre-training, as transformers names the tensors."""
    import transformers

    torch.manual_seed(3)
    kind = {
        "bert": transformers.BertForPreTraining,
        "roberta": transformers.RobertaForMaskedLM,
        "electra": transformers.ElectraForPreTraining,
        "deberta": transformers.DebertaForMaskedLM,
        "deberta_v2": transformers.DebertaV2ForMaskedLM,
    }[family]
    config = transformers.AutoConfig.for_model(**{"model_type": "bert"} | SIZES | FAMILIES[family][1])
    whole = kind(config).eval()
    net = getattr(whole, whole.base_model_prefix)
    tensors = {name: one.contiguous().clone() for name, one in (whole if head else net).state_dict().items()}
    path.mkdir()
    save_file(tensors, path / file) if file.endswith("safetensors") else torch.save(tensors, path / file)
    (path / "config.json").write_text(json.dumps(config.to_dict() | {"_name_or_path": "x"}))
    return net, path


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "deberta", "deberta_v2"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("head", [False, True])
def test_folders_of_transformers(tmp_path: Path, family: str, file: str, head: bool) -> None:
    net, path = folder(tmp_path / "model", family, file=file, head=head)
    kind = FAMILIES[family][0]
    encoder, x = kind(path).eval(), texts()
    ids = x.values.masked_fill(~x.mask, net.config.pad_token_id)
    with torch.no_grad():
        expected = net(input_ids=ids, attention_mask=x.mask.long()).last_hidden_state
        assert largest(encoder(x).tokens, expected) <= 1e-5
        again = kind(**json.loads(json.dumps(dict(encoder.rebuild)))).eval()
        again.load_state_dict(encoder.state_dict())
        assert largest(again(x).tokens, expected) <= 1e-5


def test_names_of_files_that_came_from_tensorflow(tmp_path: Path) -> None:
    _, path = folder(tmp_path / "model", file="pytorch_model.bin")
    tensors = torch.load(path / "pytorch_model.bin", weights_only=True)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): one
        for name, one in tensors.items()
    }
    assert old.keys() != tensors.keys()
    expected = Bert(path).state_dict()
    torch.save(old | {"bert.embeddings.position_ids": torch.arange(40)[None]}, path / "pytorch_model.bin")
    found = Bert(path).state_dict()
    assert all(torch.equal(found[name], one) for name, one in expected.items())


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", r"config\.json is missing; put the model's config\.json there"),
        ("model.safetensors", r"its weights are missing; put model\.safetensors \(or pytorch_model\.bin\) there"),
    ],
)
def test_a_folder_that_lacks_a_file(tmp_path: Path, missing: str, message: str) -> None:
    _, path = folder(tmp_path / "model")
    (path / missing).unlink()
    with pytest.raises(InputError, match=message):
        Bert(path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder; put config\.json, model\.safetensors and the tokenizer"):
        Bert(tmp_path / "bert-base-uncased")
    with pytest.raises(InputError, match="no such folder"):
        Bert("bert-base-uncased")  # the hub is not asked


def test_broken_folders(tmp_path: Path) -> None:
    _, path = folder(tmp_path / "model")
    with pytest.raises(InputError, match="use the encoder bert"):
        Deberta(path)
    kept = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(kept[: len(kept) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors: truncated"):
        Bert(path)
    (path / "model.safetensors").write_bytes(kept)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(InputError, match=r"nothing was loaded: missing encoder\.layer\.3"):
        Bert(path)
    (path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(InputError, match=r"unexpected encoder\.layer\.2"):
        Bert(path)
    (path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        Bert(path)
    (path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no 'model_type'"):
        Bert(path)


def test_preprocessing_comes_with_the_folder(tmp_path: Path) -> None:
    _, path = folder(tmp_path / "model")
    assert Bert.preprocessing("text", {"folder": path}, {}) == {"tokenizer": str(path), "max_length": 40}
    assert Bert.preprocessing("text", {"config": {}}, {}) == {}
    _, other = folder(tmp_path / "other", "roberta")
    assert Bert.preprocessing("text", {"folder": str(other)}, {})["max_length"] == 38
