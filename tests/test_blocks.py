import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polymodal.blocks import (
    ConformerBlock,
    ConvolutionModule,
    MaskedBatchNorm,
    RelativeAttention,
    positions,
    relative_positions,
)
from tests.fusion.fusion_properties import same

MASK = torch.tensor([[True] * 6, [True] * 4 + [False] * 2, [True] + [False] * 5])


@pytest.mark.parametrize("width", [6, 5])
def test_relative_positions(width: int) -> None:
    table = relative_positions(4, torch.zeros(1, width).double())
    assert table.shape == (7, width)
    for row, distance in enumerate(range(3, -4, -1)):
        for entry in range(width):
            angle = distance / 10000 ** (entry // 2 * 2 / width)
            expected = math.cos(angle) if entry % 2 else math.sin(angle)
            assert table[row, entry].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("width", [6, 5])
def test_positions_are_the_distances_from_the_first(width: int) -> None:
    like = torch.zeros(1, width).double()
    assert torch.equal(positions(4, like), relative_positions(4, like).flip(0)[3:])


def test_relative_attention_is_its_formula() -> None:
    attention = RelativeAttention(6, heads=2, dropout=0.0).double()
    for bias in (attention.content_bias, attention.distance_bias):
        nn.init.normal_(bias)
    x = torch.randn(3, 6, 6).double()
    sinusoids = relative_positions(6, x)
    out = attention(x, MASK)
    for b in range(3):
        real = int(MASK[b].sum())
        for i in range(real):
            heads: list[Tensor] = []
            for h in range(2):
                own = slice(3 * h, 3 * h + 3)
                q = (attention.query.weight @ x[b, i])[own]
                scores = []
                for j in range(real):
                    k = (attention.key.weight @ x[b, j])[own]
                    r = (attention.distance.weight @ sinusoids[5 - (i - j)])[own]
                    u, v = attention.content_bias[h, 0], attention.distance_bias[h, 0]
                    scores.append(((q + u) @ k + (q + v) @ r) / math.sqrt(3))
                weight = torch.stack(scores).softmax(0)
                value = attention.value(x[b, :real])[:, own]
                heads.append(weight @ value)
            same(out[b, i], attention.out(torch.cat(heads)))


def test_batch_norm_without_mask_is_that_of_torch() -> None:
    ours, theirs = MaskedBatchNorm(4).double(), nn.BatchNorm1d(4).double()
    for _ in range(3):
        x = torch.randn(3, 6, 4).double()
        same(ours(x, None), theirs(x.transpose(1, 2)).transpose(1, 2))
    assert theirs.running_mean is not None
    assert theirs.running_var is not None
    same(ours.mean, theirs.running_mean)
    same(ours.variance, theirs.running_var)
    x = torch.randn(3, 6, 4).double()
    same(ours.eval()(x, MASK), theirs.eval()(x.transpose(1, 2)).transpose(1, 2))


def test_batch_norm_takes_statistics_of_real_tokens_alone() -> None:
    ours, theirs = MaskedBatchNorm(4).double(), nn.BatchNorm1d(4).double()
    x = torch.randn(3, 6, 4).double()
    same(ours(x, MASK)[MASK], theirs(x[MASK]))
    assert theirs.running_mean is not None
    assert theirs.running_var is not None
    same(ours.mean, theirs.running_mean)
    same(ours.variance, theirs.running_var)


def test_batch_norm_of_a_single_token_is_its_bias() -> None:
    norm = MaskedBatchNorm(4).double()
    nn.init.normal_(norm.bias)
    same(norm(torch.randn(1, 1, 4).double(), None)[0, 0], norm.bias)
    assert norm.variance.isfinite().all()


def test_convolution_is_its_formula() -> None:
    module = ConvolutionModule(4, kernel=3).double().eval()
    x = torch.randn(3, 6, 4).double()
    out = module(x, MASK)
    for b in range(3):
        real = int(MASK[b].sum())
        entered = F.glu(module.enter(module.norm(x[b, :real])), -1)
        for i in range(real):
            heard = torch.zeros(4).double()
            for tap in range(3):
                j = i + tap - 1
                if 0 <= j < real:
                    heard = heard + module.depthwise.weight[:, 0, tap] * entered[j]
            normal = heard / math.sqrt(1 + 1e-5)
            same(out[b, i], module.leave(normal * normal.sigmoid()))


def test_block_is_its_formula() -> None:
    block = ConformerBlock(4, heads=2, kernel=3, dropout=0.0).double()
    x = torch.randn(3, 6, 4).double()
    out = block.train()(x, MASK)
    assert block.before[1].out_features == 16
    y = x + block.before(x) / 2
    y = y + block.attention(block.attention_norm(y), MASK)
    y = y + block.convolution(y, MASK)
    same(out, block.norm(y + block.after(y) / 2))


@pytest.mark.parametrize("training", [True, False])
def test_padding_behind_changes_nothing(training: bool) -> None:
    block = ConformerBlock(4, heads=2, kernel=31, dropout=0.0).double().train(training)
    x = torch.randn(3, 6, 4).double()
    more = F.pad(MASK, (0, 9))
    longer = torch.cat([x, 50 * torch.randn(3, 9, 4).double()], 1)
    same(block(longer, more)[more], block(x, MASK)[MASK])


def test_a_sample_without_any_token_is_finite_and_moves_nobody() -> None:
    block = ConformerBlock(4, heads=2, kernel=3, dropout=0.0).double()
    x = torch.randn(3, 6, 4).double().requires_grad_()
    none = torch.cat([MASK[:2], torch.zeros(1, 6, dtype=torch.bool)])
    same(block(x, none)[:2][MASK[:2]], block(x[:2], MASK[:2])[MASK[:2]])
    out = block(x, none)
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_tokens_in_front_are_attended_to_and_not_convolved() -> None:
    block = ConformerBlock(4, heads=2, kernel=3, dropout=0.0).double().eval()
    x, front = torch.randn(3, 6, 4).double(), torch.randn(3, 2, 4).double()
    both, mask = torch.cat([front, x], 1), F.pad(MASK, (2, 0), value=True)
    y = both + block.before(both) / 2
    y = y + block.attention(block.attention_norm(y), mask)
    y = torch.cat([y[:, :2], y[:, 2:] + block.convolution(y[:, 2:], MASK)], 1)
    same(block(both, mask, extra=2), block.norm(y + block.after(y) / 2))
    hidden = torch.cat([torch.zeros(3, 2, dtype=torch.bool), MASK], 1)
    same(block(both, hidden, extra=2)[:, 2:][MASK], block(x, MASK)[MASK])


def test_gradients_are_right() -> None:
    block = ConformerBlock(4, heads=2, kernel=3, dropout=0.0).double()
    x = torch.randn(3, 6, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: block(x, MASK), x, fast_mode=True)
    block(x, MASK)[MASK].square().mean().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-9, name


def test_half_precision_keeps_its_type() -> None:
    block = ConformerBlock(8, heads=2, kernel=3).bfloat16()
    out = block(torch.randn(2, 5, 8, dtype=torch.bfloat16), MASK[:2, :5])
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
