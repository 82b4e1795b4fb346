"""The Conformer encoder: transformers' Conformer stack as reference, padding, foreign tokens, errors."""

from typing import Any

import pytest
import torch

from polymodal.blocks import relative_positions
from polymodal.encoders import ConformerEncoder
from polymodal.encoders.by_kind import facts
from polymodal.errors import InputError
from polymodal.names import build, resolve
from polymodal.types import Padded
from tests.encoders import sequence_properties as properties
from tests.encoders.sequence_properties import assert_same, mask_of, settled

POOLS = ["mean", "class"]


def make(pool="mean", depth=2, dropout=0.1):
    return ConformerEncoder(5, dim=8, depth=depth, heads=2, kernel=5, dropout=dropout, pool=pool)


def vectors(*lengths):
    mask = mask_of(*lengths)
    return Padded(torch.randn(*mask.shape, 5).double() * mask[..., None], mask)


def as_transformers_names(block):
    """Our block's tensors under the names of transformers' Wav2Vec2ConformerEncoderLayer."""
    attention, convolution = block.attention, block.convolution
    zeros = torch.zeros(8).double()
    names: dict[str, Any] = {}
    parts = {
        "ffn1_layer_norm": block.before[0],
        "ffn1.intermediate_dense": block.before[1],
        "ffn1.output_dense": block.before[4],
        "ffn2_layer_norm": block.after[0],
        "ffn2.intermediate_dense": block.after[1],
        "ffn2.output_dense": block.after[4],
        "self_attn_layer_norm": block.attention_norm,
        "self_attn.linear_q": attention.query,
        "self_attn.linear_k": attention.key,
        "self_attn.linear_v": attention.value,
        "self_attn.linear_out": attention.out,
        "self_attn.linear_pos": attention.distance,
        "conv_module.layer_norm": convolution.norm,
        "conv_module.depthwise_conv": convolution.depthwise,
        "conv_module.batch_norm": convolution.batch_norm,
        "final_layer_norm": block.norm,
    }
    for name, module in parts.items():
        names |= {f"{name}.{key}": one for key, one in module.state_dict().items()}
    renamed = {"batch_norm.mean": "batch_norm.running_mean", "batch_norm.variance": "batch_norm.running_var"}
    names = {next((k.replace(a, b) for a, b in renamed.items() if a in k), k): one for k, one in names.items()}
    return names | {
        "self_attn.linear_q.bias": zeros,
        "self_attn.linear_k.bias": zeros,
        "self_attn.pos_bias_u": attention.content_bias[:, 0],
        "self_attn.pos_bias_v": attention.distance_bias[:, 0],
        "conv_module.pointwise_conv1.weight": convolution.enter.weight[..., None],
        "conv_module.pointwise_conv2.weight": convolution.leave.weight[..., None],
        "conv_module.batch_norm.num_batches_tracked": torch.tensor(0),
    }


def test_equals_the_stack_of_transformers():
    from transformers import Wav2Vec2ConformerConfig
    from transformers.models.wav2vec2_conformer import modeling_wav2vec2_conformer as reference

    encoder = settled(make())
    with torch.no_grad():
        for block in encoder.layers:  # which that of transformers has not
            block.convolution.enter.bias.zero_()
            block.convolution.leave.bias.zero_()
    config = Wav2Vec2ConformerConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_act="swish",
        position_embeddings_type="relative",
        conv_depthwise_kernel_size=5,
    )
    config._attn_implementation = "eager"
    x = torch.randn(3, 7, 5).double()
    tokens = encoder.project(x)
    distances = relative_positions(7, tokens)[None]
    # Theirs is computed in float32.
    assert_same(distances, reference.Wav2Vec2ConformerRelPositionalEmbedding(config)(tokens), 1e-6)
    for block in encoder.layers:
        layer = reference.Wav2Vec2ConformerEncoderLayer(config).double().eval()
        layer.load_state_dict(as_transformers_names(block))
        found = layer(tokens, relative_position_embeddings=distances)
        tokens = found if isinstance(found, torch.Tensor) else found[0]
    features = encoder(x)
    assert_same(features.tokens, tokens)
    assert_same(features.pooled, tokens.mean(1))
    assert features.mask is None


@pytest.mark.parametrize("pool", POOLS)
def test_padding_and_foreign_tokens(pool):
    encoder, x = settled(make(pool)), vectors(7, 4, 1)
    properties.assert_more_padding_changes_nothing(encoder, x, by=6)
    properties.assert_padded_is_as_alone(encoder, x)
    properties.assert_foreign_tokens_are_masked_and_dropped(encoder, x)
    properties.assert_foreign_tokens_are_masked_and_dropped(encoder, x.values)


def test_padding_does_not_enter_training_statistics():
    encoder, twin = make(dropout=0.0).double(), make(dropout=0.0).double()
    twin.load_state_dict(encoder.state_dict())
    x = vectors(7, 4, 2)
    padding = torch.full((3, 5, 5), 9.0).double()
    longer = Padded(torch.cat([x.values, padding], 1), torch.nn.functional.pad(x.mask, (0, 5)))
    assert_same(twin(longer).pooled, encoder(x).pooled)
    for name, buffer in encoder.named_buffers():
        assert_same(twin.get_buffer(name), buffer)


def test_foreign_tokens_are_not_convolved():
    encoder, x = settled(make()), torch.randn(2, 6, 5).double()
    state = encoder.embed(x)
    front = torch.randn(2, 3, 8).double()
    block = encoder.layers[0]
    tokens = torch.cat([front, state.tokens], 1)
    y = tokens + block.before(tokens) / 2
    y = y + block.attention(block.attention_norm(y), None)
    y = torch.cat([y[:, :3], y[:, 3:] + block.convolution(y[:, 3:], None)], 1)
    expected = block.norm(y + block.after(y) / 2)
    assert_same(encoder.run_layer(0, state.add(front)).tokens, expected)


@pytest.mark.parametrize("pool", POOLS)
def test_a_sample_without_any_token_is_finite(pool):
    properties.assert_finite_without_any_token(settled(make(pool)), vectors(7, 4, 3))


@pytest.mark.parametrize("pool", POOLS)
def test_gradients_reach_every_parameter(pool):
    properties.assert_gradients_reach_every_parameter(settled(make(pool)), vectors(7, 4, 2))


def test_dropout_acts_in_training_alone():
    encoder, x = make(dropout=0.5), torch.randn(2, 4, 5)
    assert not torch.equal(encoder(x).pooled, encoder(x).pooled)
    assert torch.equal(encoder.eval()(x).pooled, encoder(x).pooled)


def test_exported_program_equals_the_encoder():
    def padded(batch, length):
        return Padded(torch.randn(batch, length, 5), mask_of(length, *[length - 1] * (batch - 1)))

    properties.assert_exports(make(pool="class", depth=1), padded, [(3, 5), (2, 9), (4, 3)])


def test_built_from_facts_with_the_published_size():
    encoder = build(resolve("encoders", "conformer_encoder"), {"dim": 8}, facts("vector", (6, 5)), "encoders.v")
    assert encoder.kinds == {"vector"}
    assert len(encoder.layers) == 5
    assert encoder(torch.randn(2, 6, 5)).pooled.shape == (2, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 10, "heads": 4}, "ConformerEncoder: 4 attention heads do not divide the width 10"),
        ({"dim": 8, "kernel": 4}, "ConformerEncoder: kernel=4; it is odd"),
        ({"dim": 8, "pool": "max"}, "pool='max'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ConformerEncoder(5, **options)
