"""Wav2Vec2 and the Conformer on top of it: transformers itself as reference, padding, weights, bad folders."""

import json
from typing import Any

import pytest
import torch

from polymodal.encoders import SpeechConformer, Wav2Vec2
from polymodal.encoders.by_kind import facts
from polymodal.errors import InputError
from polymodal.names import build, resolve
from polymodal.types import Padded
from tests.encoders import sequence_properties as properties
from tests.encoders.sequence_properties import assert_same, mask_of, settled

SMALL: dict[str, Any] = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": [6, 6, 6],
    "conv_kernel": [10, 3, 2],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
"""A token every 20 samples, spanning 30."""
BASE: dict[str, Any] = {"feat_extract_norm": "group", "do_stable_layer_norm": False}
STABLE: dict[str, Any] = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
MODELS = pytest.mark.parametrize("model", [BASE, STABLE], ids=["base", "stable"])


def make(model, depth=2, **options):
    return Wav2Vec2(config=SMALL | model, depth=depth, **options)


def waves(*lengths):
    mask = mask_of(*lengths)
    return Padded((torch.randn(*mask.shape).double() + 0.5) * mask, mask)


def reference(folder, x, depth):
    """The last hidden states of transformers' own model for each waveform alone, standardised by its own extractor."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    config = Wav2Vec2Config.from_pretrained(folder, num_hidden_layers=depth)
    config.apply_spec_augment = False
    net = Wav2Vec2Model.from_pretrained(folder, config=config, dtype=torch.float32).double().eval()
    ready = Wav2Vec2FeatureExtractor(do_normalize=True)
    found = []
    for wave, real in zip(x.values, x.mask, strict=True):
        values = ready(wave[real].numpy(), sampling_rate=16000).input_values[0]
        exact = (wave[real] - wave[real].mean()) / (wave[real].var(correction=0) + 1e-7).sqrt()
        torch.testing.assert_close(torch.as_tensor(values).double(), exact, atol=1e-5, rtol=0)  # float32 inside
        found.append(net(exact[None]).last_hidden_state[0])
    return found, net, ready


@pytest.fixture(autouse=True)
def _quiet():
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


@pytest.fixture
def folder(tmp_path, request):
    """A folder as the hub has it: a model of three layers with a head, and its configuration."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(**SMALL, **getattr(request, "param", BASE), num_hidden_layers=3, vocab_size=5)
    Wav2Vec2ForCTC(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("folder", [BASE, STABLE], ids=["base", "stable"], indirect=True)
@pytest.mark.parametrize("depth", [3, 2])
def test_equals_transformers(folder, depth):
    encoder = Wav2Vec2(folder, depth=depth).double().eval()
    x = waves(150, 95, 30)
    expected, _, _ = reference(folder, x, depth)
    found = encoder(x)
    assert found.mask.sum(1).tolist() == [7, 4, 1]
    assert len(encoder.layers) == depth
    for i in range(3):
        assert_same(found.tokens[i][found.mask[i]], expected[i])
        assert_same(found.pooled[i], expected[i].mean(0))
    whole = encoder(x.values[:1, None])
    assert_same(whole.tokens[0], expected[0])
    assert whole.mask is None


@pytest.mark.parametrize("folder", [STABLE], ids=["stable"], indirect=True)
def test_equals_transformers_on_a_padded_batch(folder):
    # Without GroupNorm the library's own mask is right.
    x = waves(150, 95, 30)
    _, net, _ = reference(folder, x, 3)
    exact = torch.zeros_like(x.values)
    for i, real in enumerate(x.mask):
        wave = x.values[i, real]
        exact[i, real] = (wave - wave.mean()) / (wave.var(correction=0) + 1e-7).sqrt()
    expected = net(exact, attention_mask=x.mask.long()).last_hidden_state
    found = Wav2Vec2(folder, depth=3).double().eval()(x)
    assert_same(found.tokens[found.mask], expected[found.mask])


@MODELS
def test_padding_and_foreign_tokens(model):
    encoder, x = settled(make(model)), waves(150, 95, 30, 12)
    properties.assert_more_padding_changes_nothing(encoder, x, by=57)
    properties.assert_padded_is_as_alone(encoder, x)
    properties.assert_foreign_tokens_are_masked_and_dropped(encoder, x)
    properties.assert_foreign_tokens_are_masked_and_dropped(encoder, x.values)


@MODELS
def test_a_sample_without_any_token_is_finite(model):
    properties.assert_finite_without_any_token(settled(make(model)), waves(150, 95, 40))


def test_a_batch_shorter_than_a_token_is_heard():
    found = settled(make(BASE))(waves(12, 7))
    assert found.tokens.shape == (2, 1, 8)
    assert found.mask.all()
    assert not torch.allclose(found.pooled[0], found.pooled[1], atol=1e-4)


@MODELS
@pytest.mark.parametrize("freeze", ["nothing", "extractor", "all"])
def test_what_is_frozen_has_no_gradient(model, freeze):
    encoder = settled(make(model, freeze=freeze))
    if freeze != "all":
        properties.assert_gradients_reach_every_parameter(encoder, waves(150, 95))
    trained = {name.split(".")[1] for name, p in encoder.named_parameters() if p.requires_grad}
    parts = {"nothing": {"feature_extractor", "feature_projection", "encoder"}, "all": set()}
    assert trained == parts.get(freeze, {"feature_projection", "encoder"})


def test_a_frozen_encoder_has_no_dropout_and_another_has():
    x = waves(150, 95)
    frozen, free = make(BASE, freeze="all").double().train(), make(BASE).double().train()
    assert torch.equal(frozen(x).pooled, frozen(x).pooled)
    assert not torch.equal(free(x).pooled, free(x).pooled)
    assert not frozen.net.training


def test_loudness_and_offset_do_not_matter():
    encoder, x = settled(make(STABLE)), waves(150, 95)
    assert_same(encoder(x._replace(values=5 * x.values + 2)).pooled, encoder(x).pooled, 1e-5)


def test_exported_program_equals_the_encoder():
    def padded(batch, length):
        return Padded(torch.randn(batch, length), mask_of(length, *[length - 21] * (batch - 1)))

    properties.assert_exports(make(BASE, depth=1), padded, [(3, 150), (2, 291), (4, 80)])


def test_old_names_of_a_normalised_weight_and_unpickled_bins(folder):
    tensors = Wav2Vec2(folder, depth=3).net.state_dict()
    old = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    renamed = {next((n.replace(a, b) for a, b in old.items() if a in n), n): one for n, one in tensors.items()}
    assert any(name.endswith("conv.weight_g") for name in renamed)
    (folder / "model.safetensors").unlink()
    extra = {"quantizer.codevectors": torch.zeros(2), "wav2vec2.masked_spec_embed": torch.zeros(8)}
    torch.save({f"wav2vec2.{name}": one for name, one in renamed.items()} | extra, folder / "pytorch_model.bin")
    found = Wav2Vec2(folder, depth=3).net.state_dict()
    for name, one in tensors.items():
        assert torch.equal(found[name], one), name


def test_built_again_without_the_folder(folder):
    encoder = Wav2Vec2(folder, depth=2)
    again = Wav2Vec2(**({"folder": str(folder), "depth": 2} | json.loads(json.dumps(dict(encoder.rebuild)))))
    again.load_state_dict(encoder.state_dict())
    x = waves(90)._replace(values=torch.randn(1, 90))
    assert torch.equal(again.eval()(x).pooled, encoder.eval()(x).pooled)


def spoil(folder, case):
    weights, config = folder / "model.safetensors", folder / "config.json"
    values = json.loads(config.read_text())
    if case == "no folder":
        return folder.parent / "none", "no such folder; put config.json"
    if case == "no config":
        config.unlink()
    elif case == "no weights":
        weights.unlink()
    elif case == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif case == "other model":
        config.write_text(json.dumps(values | {"model_type": "hubert"}))
    elif case == "other sizes":
        config.write_text(json.dumps(values | {"intermediate_size": 12}))
    elif case == "missing tensor":
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        del tensors["wav2vec2.encoder.layers.1.attention.q_proj.weight"]
        save_file(tensors, weights)
    elif case == "too shallow":
        config.write_text(json.dumps(values | {"num_hidden_layers": 1}))
    elif case == "no JSON":
        config.write_text("{")
    return folder, {
        "no config": "config.json is missing",
        "no weights": "its weights are missing; put model.safetensors",
        "truncated": "truncated",
        "other model": "a model of type 'hubert', expected 'wav2vec2'",
        "other sizes": r"intermediate_dense.weight is \(16, 8\), expected \(12, 8\)",
        "missing tensor": "missing encoder.layers.1.attention.q_proj.weight",
        "too shallow": "a model of 1 layers, and depth=2",
        "no JSON": "not JSON",
    }[case]


CASES = ["no folder", "no config", "no weights", "truncated", "other model", "other sizes", "missing tensor"]


@pytest.mark.parametrize("case", [*CASES, "too shallow", "no JSON"])
def test_a_bad_folder_is_refused(folder, case):
    place, message = spoil(folder, case)
    with pytest.raises(InputError, match=message):
        Wav2Vec2(place, depth=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either folder"),
        ({"config": {"hidden_sise": 8}}, "config has \\['hidden_sise'\\]"),
        ({"config": SMALL | {"feat_extract_norm": "batch"}}, "config of no Wav2Vec2"),
        ({"config": SMALL, "freeze": "some"}, "freeze='some'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Wav2Vec2(depth=1, **options)


# The Conformer on top -------------------------------------------------------------------------------------------------


def conformer(**options):
    sizes = {"dim": 8, "depth": 2, "heads": 2, "kernel": 3}
    return SpeechConformer(config=SMALL | BASE, speech_depth=1, **sizes | options)


def test_it_is_the_conformer_of_what_wav2vec2_hears():
    encoder, x = settled(conformer()), waves(150, 95, 30)
    heard = encoder.speech(x)
    state = super(SpeechConformer, encoder).embed(Padded(heard.tokens, heard.mask))
    for layer in encoder.layers:
        state = state._replace(tokens=layer(state.tokens, state.mask))
    found = encoder(x)
    assert len(encoder.layers) == 2
    assert_same(found.tokens, state.tokens)
    assert_same(found.pooled, encoder.finish(state).pooled)
    assert torch.equal(found.mask, heard.mask)


def test_padding_and_foreign_tokens_on_top():
    encoder, x = settled(conformer()), waves(150, 95, 30)
    properties.assert_more_padding_changes_nothing(encoder, x, by=57)
    properties.assert_foreign_tokens_are_masked_and_dropped(encoder, x)
    properties.assert_gradients_reach_every_parameter(encoder, x)


def test_built_from_facts_and_preprocessing():
    make_it = resolve("encoders", "speech_conformer")
    settings = {"config": SMALL | BASE, "speech_depth": 1, "dim": 8, "depth": 1, "heads": 2, "freeze": "all"}
    encoder = build(make_it, settings, facts("audio", (1, 160)), "encoders.audio")
    assert encoder(Padded(torch.randn(2, 1, 160), torch.ones(2, 160, dtype=torch.bool))).pooled.shape == (2, 8)
    assert {name.split(".")[0] for name, p in encoder.named_parameters() if not p.requires_grad} == {"speech"}
    expected = {"representation": "waveform", "sample_rate": 16000, "standardize": False}
    for one in (make_it, resolve("encoders", "wav2vec2")):
        assert one.preprocessing("audio", {}, {}) == expected
        assert one.kinds == {"audio"}
