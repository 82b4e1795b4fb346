"""G-Blending's weights from losses at two checkpoints."""

import torch

from polymodal.recipes.gblend import gblend_weights
from tests.properties import assert_close, exact


def loop(train_n, val_n, train_N, val_N):
    raw = []
    for before, seen, after, held in zip(train_n, val_n, train_N, val_N, strict=True):
        overfitting = (held - after) - (seen - before)
        raw.append(max(seen - held, 0.0) / max(overfitting**2, 1e-8))
    return [one / sum(raw) for one in raw] if sum(raw) > 0 else [1 / len(raw)] * len(raw)


def test_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    for count in (2, 3, 5):
        for _ in range(10):
            losses = [torch.rand(count, generator=generator, dtype=torch.float64) for _ in range(4)]
            found = gblend_weights(*losses)
            assert_close(found, loop(*[one.tolist() for one in losses]))
            assert_close(found.sum(), 1.0)
            order = torch.arange(count).roll(1)
            assert_close(gblend_weights(*[one[order] for one in losses]), found[order])


def test_no_overfitting_worse_heads_and_nothing_learned():
    start = exact([2.0, 2.0])
    assert_close(gblend_weights(start, start, exact([1.0, 1.0]), exact([1.0, 2.5])), [1.0, 0.0])
    assert_close(gblend_weights(start, start, exact([1.0, 1.0]), exact([1.0, 1.0])), [0.5, 0.5])
    assert_close(gblend_weights(start, start, start, start + 1), [0.5, 0.5])
