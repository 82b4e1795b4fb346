import pytest
import torch
from torch import nn

from polymodal.errors import InputError
from polymodal.fusion import Fusion, Transformer
from polymodal.fusion.token_sequence import fitting_heads
from polymodal.fusion.transformer import TransformerBlock
from tests.fusion.fusion_properties import (
    EVERY_COUNT,
    POOLED,
    Property,
    same,
    training_and_evaluation_agree,
)
from tests.fusion.token_properties import TOKENS, exports_with_free_sizes, with_tokens


def make(dims: dict[str, int], outputs: int) -> Fusion:
    return Transformer(dims, outputs, width=4, heads=2, dropout=0.0)


@pytest.mark.parametrize("count", EVERY_COUNT)
@pytest.mark.parametrize("holds", [*POOLED, training_and_evaluation_agree, *TOKENS])
def test_property(holds: Property, count: int) -> None:
    holds(make, count)


def test_export() -> None:
    exports_with_free_sizes(lambda dims, outputs: Transformer(dims, outputs, width=4, heads=2, depth=1), 3)


def test_block_agrees_with_torch() -> None:
    ours = TransformerBlock(8, heads=2, dropout=0.0).double()
    theirs = nn.TransformerEncoderLayer(8, 2, 32, dropout=0.0, batch_first=True).double()
    attention = theirs.self_attn
    zero = torch.zeros(8).double()
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        attention.in_proj_bias.copy_(torch.cat([ours.query.bias, zero, ours.value.bias]))
        attention.out_proj.load_state_dict(ours.out.state_dict())
        for mine, other in ((0, theirs.linear1), (3, theirs.linear2)):
            other.load_state_dict(ours.feed_forward[mine].state_dict())
    tokens = torch.randn(2, 5, 8).double()
    mask = torch.tensor([[True] * 5, [True, True, False, True, False]])
    same(ours(tokens, mask)[mask], theirs(tokens, src_key_padding_mask=~mask)[mask])
    same(ours(tokens, None), theirs(tokens))


def test_sequence_is_class_token_and_projected_tokens_with_their_modality() -> None:
    fusion, features = with_tokens(make, 3)
    assert isinstance(fusion, Transformer)
    joined, mask = fusion.join(features)
    assert mask is not None
    assert mask.tolist() == [
        [True, *features["m0"].mask[row].tolist(), *features["m1"].mask[row].tolist(), True]  # type: ignore[index]
        for row in range(5)
    ]
    assert isinstance(fusion.projections["m2"], nn.Identity)  # its width is that of the sequence
    assert isinstance(fusion.projections["m0"], nn.Linear)
    same(joined[:, 0], fusion.class_token.expand(5, -1))
    first = features["m0"].tokens
    assert first is not None
    expected = fusion.projections["m0"](first[:, 0]) + fusion.modality_tokens[0]
    same(joined[:, 1], expected)
    same(joined[:, -1], features["m2"].pooled + fusion.modality_tokens[2])
    tokens = joined
    for block in fusion.blocks:
        tokens = block(tokens, mask)
    same(fusion(features, {}), fusion.head(tokens[:, 0]))


def test_learned_tokens_are_standard_normal() -> None:
    fusion = Transformer({f"m{i}": 4 for i in range(20)}, 2, width=512, heads=8, depth=1)
    for learned in (fusion.modality_tokens, fusion.class_token):
        assert abs(learned.std().item() - 1) < 0.1
        assert abs(learned.mean().item()) < 0.2


def test_heads_divide_the_width() -> None:
    assert [fitting_heads(width, 8) for width in (512, 20, 7, 11, 6)] == [8, 5, 7, 1, 6]
    with pytest.raises(InputError, match="heads=0"):
        Transformer({"x": 2}, 2, heads=0)


def test_dropout_acts_in_training_alone() -> None:
    fusion, features = with_tokens(lambda dims, outputs: Transformer(dims, outputs, width=16, dropout=0.5), 2)
    assert not torch.equal(fusion(features, {}), fusion(features, {}))
    fusion.eval()
    assert torch.equal(fusion(features, {}), fusion(features, {}))


def test_nothing_belongs_to_one_modality() -> None:
    assert Transformer({"x": 2, "y": 3}, 2).parameters_of("x") == []
