"""The stacked Transformer: torch's own stack as reference, padding, foreign tokens, both paths of evaluation."""

import math

import pytest
import torch
from torch import nn

from polymodal.encoders import SequenceTransformer
from polymodal.encoders.by_kind import facts
from polymodal.errors import InputError
from polymodal.names import build, resolve
from polymodal.types import Padded
from tests.encoders import sequence_properties as properties
from tests.encoders.sequence_properties import assert_same, mask_of, settled
from tests.properties import exact

KINDS = [(True, "mean"), (True, "class"), (False, "mean"), (False, "class")]


def make(pre_norm=True, pool="mean", depth=3, dropout=0.1):
    return SequenceTransformer(5, dim=8, depth=depth, heads=2, pre_norm=pre_norm, pool=pool, dropout=dropout)


def vectors(*lengths):
    mask = mask_of(*lengths)
    return Padded(torch.randn(*mask.shape, 5).double() * mask[..., None], mask)


@pytest.mark.parametrize(("pre_norm", "pool"), KINDS)
@pytest.mark.parametrize("gradients", [True, False])
def test_equals_the_stack_of_torch(pre_norm, pool, gradients):
    encoder, x = settled(make(pre_norm, pool)), vectors(7, 4, 1)
    layer = nn.TransformerEncoderLayer(8, 2, 32, batch_first=True, norm_first=pre_norm)
    norm = nn.LayerNorm(8) if pre_norm else None
    stack = nn.TransformerEncoder(layer, 3, norm, enable_nested_tensor=False).double().eval()
    names = {name: p for name, p in encoder.state_dict().items() if name.startswith(("layers", "norm"))}
    stack.load_state_dict(names)
    place = [[pos / 10000 ** (i // 2 * 2 / 8) for i in range(8)] for pos in range(8)]
    table = exact([[math.cos(a) if i % 2 else math.sin(a) for i, a in enumerate(row)] for row in place])
    with torch.set_grad_enabled(gradients):
        tokens, mask = encoder.project(x.values), x.mask
        if pool == "class":
            tokens = torch.cat([encoder.class_token.expand(3, 1, 8), tokens], 1)
            mask = torch.cat([torch.ones(3, 1, dtype=torch.bool), mask], 1)
        expected = stack(tokens + table[: tokens.shape[1]], src_key_padding_mask=~mask)
        found = encoder(x)
    assert torch.equal(found.mask, mask)
    assert_same(found.tokens[mask], expected[mask])
    for i in range(3):
        pooled = expected[i, 0] if pool == "class" else expected[i][mask[i]].mean(0)
        assert_same(found.pooled[i], pooled)


@pytest.mark.parametrize(("pre_norm", "pool"), KINDS)
def test_padding_and_foreign_tokens(pre_norm, pool):
    encoder, x = settled(make(pre_norm, pool)), vectors(7, 4, 1)
    properties.assert_more_padding_changes_nothing(encoder, x, by=6)
    properties.assert_padded_is_as_alone(encoder, x)
    properties.assert_foreign_tokens_are_masked_and_dropped(encoder, x)
    properties.assert_foreign_tokens_are_masked_and_dropped(encoder, x.values)


@pytest.mark.parametrize(("pre_norm", "pool"), KINDS)
def test_a_sample_without_any_token_is_finite(pre_norm, pool):
    encoder, x = settled(make(pre_norm, pool)), vectors(7, 4, 3)
    properties.assert_finite_without_any_token(encoder, x)
    # The model hides the class token too, of a sample that lacks the modality.
    hidden = torch.tensor([True, True, False])[:, None]
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            state = encoder.embed(x)
            expected = encoder.run_layer(0, state)
            found = encoder.run_layer(0, state._replace(mask=state.mask & hidden))
        assert found.tokens.isfinite().all()
        assert_same(found.tokens[:2][state.mask[:2]], expected.tokens[:2][state.mask[:2]])


@pytest.mark.parametrize(("pre_norm", "pool"), KINDS)
def test_gradients_reach_every_parameter(pre_norm, pool):
    properties.assert_gradients_reach_every_parameter(settled(make(pre_norm, pool)), vectors(7, 4, 1))


def test_what_stands_in_the_padding_may_be_nan():
    encoder, x = settled(make()), vectors(7, 4)
    wild = x.values.masked_fill(~x.mask[..., None], math.nan)
    assert_same(encoder(Padded(wild, x.mask)).pooled, encoder(x).pooled)


def test_order_matters_and_the_class_token_is_first():
    encoder, x = settled(make(pool="class")), torch.randn(1, 6, 5).double()
    assert not torch.allclose(encoder(x).pooled, encoder(x.flip(1)).pooled, atol=1e-4)
    features = encoder(x)
    assert features.tokens.shape == (1, 7, 8)
    assert torch.equal(features.pooled, features.tokens[:, 0])


def test_a_vector_is_a_sequence_of_one():
    encoder, x = settled(make()), torch.randn(3, 5).double()
    assert torch.equal(encoder(x).pooled, encoder(x[:, None]).pooled)


def test_dropout_acts_in_training_alone():
    encoder, x = make(dropout=0.5), torch.randn(2, 4, 5)
    assert not torch.equal(encoder(x).pooled, encoder(x).pooled)
    assert torch.equal(encoder.eval()(x).pooled, encoder(x).pooled)
    plain = make(dropout=0.0)
    plain.load_state_dict(encoder.state_dict())
    assert_same(plain(x).pooled, encoder(x).pooled, 1e-5)


def test_exported_program_equals_the_encoder():
    def padded(batch, length):
        return Padded(torch.randn(batch, length, 5), mask_of(length, *[length - 1] * (batch - 1)))

    properties.assert_exports(make(pool="class", depth=1), padded, [(3, 5), (2, 9), (4, 3)])


@pytest.mark.parametrize("shape", [(6, 5), (5,)])
def test_built_from_facts(shape):
    encoder = build(resolve("encoders", "sequence_transformer"), {"dim": 8}, facts("vector", shape), "encoders.a")
    assert encoder.kinds == {"vector"}
    assert encoder(torch.randn(2, *shape)).pooled.shape == (2, encoder.dim)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dim": 10, "heads": 4}, "4 attention heads do not divide the width 10"), ({"pool": "max"}, "pool='max'")],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SequenceTransformer(5, **options)
