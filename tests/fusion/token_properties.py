"""Properties of the fusions of token sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from polymodal.fusion import Fusion
from polymodal.types import Features
from tests.fusion.fusion_properties import OUTPUTS, Make, dims_of, pooled_features, same, take, without

LENGTHS = (4, 1, 6)


def token_features(dims: dict[str, int], batch: int = 5, seed: int = 0) -> dict[str, Features]:
    """Sequences of 1 to `LENGTHS` real tokens; a third modality yields pooled features alone."""
    generator = torch.Generator().manual_seed(seed)
    features = pooled_features(dims, batch, seed)
    for i, (m, dim) in enumerate(dims.items()):
        if i == 2:
            continue
        longest = LENGTHS[i % 3]
        tokens = torch.randn(batch, longest, dim, generator=generator, dtype=torch.float64)
        real = torch.randint(1, longest + 1, (batch, 1), generator=generator)
        features[m] = Features(features[m].pooled, tokens, torch.arange(longest)[None] < real)
    return features


def with_tokens(make: Make, count: int) -> tuple[Fusion, dict[str, Features]]:
    torch.manual_seed(0)
    dims = dims_of(count)
    return make(dims, OUTPUTS).double(), token_features(dims)


def cut(features: dict[str, Features], row: int) -> dict[str, Features]:
    """One sample without its padding."""
    short = {}
    for m, f in take(features, torch.tensor([row])).items():
        if f.tokens is None or f.mask is None:
            short[m] = f
        else:
            short[m] = Features(f.pooled, f.tokens[:, f.mask[0]], None)
    return short


def padded(features: dict[str, Features], by: int, fill: float) -> dict[str, Features]:
    """The same features behind more padding."""
    longer = {}
    for m, f in features.items():
        if f.tokens is None or f.mask is None:
            longer[m] = f
            continue
        more = torch.full((len(f.tokens), by, f.tokens.shape[-1]), fill, dtype=f.tokens.dtype)
        mask = torch.cat([f.mask, torch.zeros(len(f.mask), by, dtype=torch.bool)], 1)
        longer[m] = f._replace(tokens=torch.cat([f.tokens, more], 1), mask=mask)
    return longer


def padding_changes_nothing(make: Make, count: int) -> None:
    fusion, features = with_tokens(make, count)
    for training in (True, False):
        fusion.train(training)
        same(fusion(padded(features, 7, torch.nan), {}), fusion(features, {}))
    each = torch.cat([fusion(cut(features, row), {}) for row in range(5)])
    same(fusion(features, {}), each)


def padding_gets_no_gradient(make: Make, count: int) -> None:
    fusion, features = with_tokens(make, count)
    features = padded(features, 2, torch.nan)
    tokens = features["m0"].tokens
    mask = features["m0"].mask
    assert tokens is not None
    assert mask is not None
    leaf = tokens.clone().requires_grad_()
    fusion({**features, "m0": features["m0"]._replace(tokens=leaf)}, {}).square().sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad[~mask] == 0).all()
    assert (leaf.grad[mask] != 0).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fusion.parameters())


def an_absent_modality_is_as_if_not_in_the_sequence(make: Make, count: int) -> None:
    fusion, features = with_tokens(make, count)
    fusion.eval()
    for m in features:
        empty = features[m].pooled.new_zeros(5, 0, fusion.dims[m])
        gone = {**features, m: Features(features[m].pooled, empty)}
        same(fusion(without(features, m, torch.arange(5)), {}), fusion(gone, {}))


def pooled_features_are_one_token(make: Make, count: int) -> None:
    fusion, features = with_tokens(make, count)
    pooled = {m: Features(f.pooled) for m, f in features.items()}
    single = {m: Features(f.pooled + 9, f.pooled[:, None]) for m, f in features.items()}
    same(fusion(pooled, {}), fusion(single, {}))


def token_gradients_are_right(make: Make, count: int) -> None:
    fusion, features = with_tokens(make, count)
    features = take(features, torch.tensor([0, 1]))
    tokens = features["m0"].tokens
    assert tokens is not None

    def run(x: Tensor) -> Tensor:
        logits: Tensor = fusion({**features, "m0": features["m0"]._replace(tokens=x)}, {})
        return logits

    assert torch.autograd.gradcheck(run, tokens.clone().requires_grad_(), fast_mode=True)


def exports_with_free_sizes(make: Make, count: int) -> None:
    """Free batch size and free length of the first modality, with masks and lacking modalities."""
    torch.manual_seed(0)
    fusion = make(dims_of(count), OUTPUTS).double().eval()
    features = {
        m: f._replace(present=torch.arange(4) != i) for i, (m, f) in enumerate(token_features(fusion.dims, 4).items())
    }
    batch, length = torch.export.Dim("batch", min=2), torch.export.Dim("length", min=2)

    def shape(m: str, f: Features) -> Features:
        sizes = {0: batch, 1: length} if m == "m0" else {0: batch}
        free = (None if part is None else sizes if i in (1, 2) else {0: batch} for i, part in enumerate(f))
        return Features(*free)  # type: ignore[arg-type]

    shapes = {m: shape(m, f) for m, f in features.items()}
    program = torch.export.export(fusion, (features, {}), dynamic_shapes=(shapes, {}))
    more = token_features(fusion.dims, 7, seed=1)
    more = {m: f._replace(present=torch.arange(7) % 3 > 0) for m, f in more.items()}
    more = {**more, "m0": padded(more, 3, 0.0)["m0"]}
    same(program.module()(more, {}), fusion(more, {}))


TOKENS = [
    padding_changes_nothing,
    padding_gets_no_gradient,
    an_absent_modality_is_as_if_not_in_the_sequence,
    pooled_features_are_one_token,
    token_gradients_are_right,
]
