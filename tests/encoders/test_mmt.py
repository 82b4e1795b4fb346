"""The expert of the MMT: which tokens are chosen, what they know of time, and its aggregated token."""

# mypy: disable-error-code="union-attr"

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from polymodal import InputError
from polymodal.encoders import Expert
from polymodal.encoders.mmt import choose_tokens
from polymodal.types import Padded


def make(**options):
    torch.manual_seed(0)
    return Expert(1 + 3, dim=8, timed=True, **options).double().eval()


def padded(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(lengths), max(lengths), 4, generator=generator).double()
    values[..., 0] = values[..., 0].abs() * 10
    return Padded(values, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])


def by_hand(encoder, vectors):
    """Aggregated and other tokens of one video, vector by vector; no choice."""

    def unit(v):
        y = encoder.project.weight @ v + encoder.project.bias
        return y / y.norm() + encoder.expert

    tokens = []
    for seconds, *v in vectors.tolist():
        row = 1 if seconds < 0 else min(2 + int(seconds), len(encoder.time.weight) - 1)
        tokens.append(unit(torch.tensor(v).double()) + encoder.time.weight[row])
    return unit(vectors[:, 1:].amax(0)) + encoder.time.weight[0], torch.stack(tokens)


def test_tokens_and_aggregate():
    encoder, x = make(seconds=6), padded([5, 2, 4])
    x.values[0, :, 0] = torch.tensor([-1.0, 0.4, 3.9, 5.0, 700.0])
    found = encoder(x)
    for i, length in enumerate([5, 2, 4]):
        pooled, tokens = by_hand(encoder, x.values[i, :length])
        torch.testing.assert_close(found.pooled[i], pooled)
        torch.testing.assert_close(found.tokens[i, :length], tokens)
        assert found.mask[i].tolist() == [True] * length + [False] * (5 - length)


def test_padding_never_changes_a_result():
    encoder, x = make(max_tokens=3), padded([5, 2, 4])
    more = Padded(F.pad(x.values, (0, 0, 0, 4), value=9.0), F.pad(x.mask, (0, 4)))
    one, other = encoder(x), encoder(more)
    torch.testing.assert_close(one.pooled, other.pooled)
    torch.testing.assert_close(one.tokens[one.mask], other.tokens[other.mask])
    alone = encoder(Padded(x.values[1:2, :2], x.mask[1:2, :2]))
    torch.testing.assert_close(alone.pooled[0], one.pooled[1])
    torch.testing.assert_close(alone.tokens[0], one.tokens[1][one.mask[1]])


def test_of_many_tokens_some_are_chosen():
    mask = torch.arange(40) < torch.tensor([[40], [13], [4], [0]])
    places, real = choose_tokens(mask, 10, random=False)
    assert real.sum(1).tolist() == [10, 10, 4, 0]
    assert places[0].tolist() == [2, 6, 10, 14, 18, 22, 26, 30, 34, 38]
    assert places[1].tolist() == [int((i + 0.5) * 13 / 10) for i in range(10)]
    assert places[2, :4].tolist() == [0, 1, 2, 3]
    seen = np.zeros(40)
    for _ in range(400):
        places, real = choose_tokens(mask, 10, random=True)
        assert real.sum(1).tolist() == [10, 10, 4, 0]
        for i in range(3):
            own = places[i][real[i]].tolist()
            assert own == sorted(set(own))
            assert mask[i, own].all()
        seen[places[0]] += 1
    assert seen.min() > 60  # 100 expected, deviation 9
    assert seen.max() < 140


def test_the_choice_is_random_in_training_alone_and_the_aggregate_sees_all():
    encoder, x = make(max_tokens=3), padded([9, 9])
    still = [encoder(x) for _ in range(2)]
    torch.testing.assert_close(still[0].tokens, still[1].tokens)
    torch.testing.assert_close(still[0].pooled[0], by_hand(encoder, x.values[0])[0])
    encoder.train()
    drawn = [encoder(x) for _ in range(8)]
    assert not all(torch.equal(drawn[0].tokens, one.tokens) for one in drawn)
    for one in drawn:
        assert one.tokens.shape == (2, 3, 8)
        torch.testing.assert_close(one.pooled, still[0].pooled)


def test_without_times_every_token_has_an_unknown_one():
    torch.manual_seed(0)
    encoder = Expert(3, dim=8).double()
    x = torch.randn(2, 4, 3).double()
    timed = make()
    timed.load_state_dict(encoder.state_dict())
    before = torch.cat([torch.full((2, 4, 1), -1.0).double(), x], -1)
    torch.testing.assert_close(encoder(x).tokens, timed(before).tokens)
    assert encoder(x[:, 0]).tokens.shape == (2, 1, 8)  # a single vector


def test_a_video_without_tokens_is_finite():
    encoder, x = make(), padded([3, 1])
    x.mask[1] = False
    found = encoder(x)
    (found.pooled.sum() + found.tokens.sum()).backward()
    assert found.pooled.isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_times_are_not_standardised():
    assert Expert.preprocessing("vector", {"timed": True}, {}) == {"standardize": False}
    assert Expert.preprocessing("vector", {}, {}) == {}


@pytest.mark.parametrize("options", [{"in_dim": 1, "timed": True}, {"in_dim": 0}, {"in_dim": 4, "max_tokens": 0}])
def test_errors(options):
    with pytest.raises(InputError, match="in_dim counts the time"):
        Expert(**options)
