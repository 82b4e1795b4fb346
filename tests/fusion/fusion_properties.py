"""Properties that hold for every fusion; each fusion's test file picks from them. `Make` builds it without dropout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from polymodal.fusion import Fusion
from polymodal.types import Features

Make = Callable[[dict[str, int], int], Fusion]
Property = Callable[[Make, int], None]
OUTPUTS = 3


def dims_of(count: int) -> dict[str, int]:
    return {f"m{i}": 2 + i % 3 for i in range(count)}


def pooled_features(dims: dict[str, int], batch: int = 5, seed: int = 0) -> dict[str, Features]:
    generator = torch.Generator().manual_seed(seed)
    return {m: Features(torch.randn(batch, dim, generator=generator, dtype=torch.float64)) for m, dim in dims.items()}


def built(make: Make, count: int) -> tuple[Fusion, dict[str, Features]]:
    torch.manual_seed(0)
    dims = dims_of(count)
    return make(dims, OUTPUTS).double(), pooled_features(dims)


def take(features: dict[str, Features], rows: Tensor) -> dict[str, Features]:
    def of(part: Tensor | None) -> Tensor | None:
        return None if part is None else part[rows]

    return {m: Features(f.pooled[rows], of(f.tokens), of(f.mask), of(f.present)) for m, f in features.items()}


def without(features: dict[str, Features], lacking: str, rows: Tensor, fill: float = torch.nan) -> dict[str, Features]:
    """Features of which `rows` lack one modality, where `fill` stands."""
    there = torch.ones(len(features[lacking].pooled), dtype=torch.bool)
    there[rows] = False
    one = features[lacking]
    pooled = torch.where(there[:, None], one.pooled, torch.full_like(one.pooled, fill))
    tokens = None if one.tokens is None else torch.where(there[:, None, None], one.tokens, fill)
    return {**features, lacking: one._replace(pooled=pooled, tokens=tokens, present=there)}


def same(left: Tensor, right: Tensor, tol: float = 1e-10) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=tol)


def shapes(make: Make, count: int) -> None:
    fusion, features = built(make, count)
    assert fusion(features, {}).shape == (5, OUTPUTS)
    assert fusion(take(features, torch.tensor([0])), {}).shape == (1, OUTPUTS)


def batch_order_does_not_matter(make: Make, count: int) -> None:
    fusion, features = built(make, count)
    order = torch.tensor([3, 0, 4, 1, 2])
    same(fusion(take(features, order), {}), fusion(features, {})[order])


def order_of_the_dictionary_does_not_matter(make: Make, count: int) -> None:
    fusion, features = built(make, count)
    same(fusion(dict(reversed(features.items())), {}), fusion(features, {}))


def samples_are_independent_in_evaluation(make: Make, count: int) -> None:
    fusion, features = built(make, count)
    fusion.eval()
    one_by_one = [fusion(take(features, torch.tensor([row])), {}) for row in range(5)]
    same(torch.cat(one_by_one), fusion(features, {}))


def training_and_evaluation_agree(make: Make, count: int) -> None:
    fusion, features = built(make, count)
    same(fusion.train()(features, {}), fusion.eval()(features, {}))


def what_stands_for_an_absent_modality_does_not_matter(make: Make, count: int) -> None:
    fusion, features = built(make, count)
    rows = torch.tensor([1, 3])
    for m in features:
        leaf = {n: f._replace(pooled=f.pooled.clone().requires_grad_()) for n, f in features.items()}
        fusion.zero_grad()
        logits = fusion(without(leaf, m, rows), {})
        same(logits, fusion(without(features, m, rows, fill=7.0), {}))
        logits.square().sum().backward()
        gradient = leaf[m].pooled.grad
        assert gradient is not None
        assert (gradient[rows] == 0).all()
        for parameter in fusion.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()


def presence_of_all_changes_nothing(make: Make, count: int) -> None:
    fusion, features = built(make, count)
    everyone = {m: f._replace(present=torch.ones(5, dtype=torch.bool)) for m, f in features.items()}
    same(fusion(everyone, {}), fusion(features, {}))


def a_sample_without_any_modality_is_finite(make: Make, count: int) -> None:
    fusion, features = built(make, count)
    for m in features:
        features = without(features, m, torch.arange(5))
    logits = fusion(features, {})
    same(logits, logits[:1].expand_as(logits))
    logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())


def an_absent_modality_leaves_its_own_parameters_alone(make: Make, count: int) -> None:
    fusion, features = built(make, count)
    for m in features:
        fusion.zero_grad()
        fusion(without(features, m, torch.arange(5)), {}).square().sum().backward()
        own = fusion.parameters_of(m)
        assert own
        assert all(p.grad is None or (p.grad == 0).all() for p in own)


def blocks_are_disjoint_and_touch_one_modality(make: Make, count: int) -> None:
    fusion, _ = built(make, count)
    found = [id(p) for m in fusion.dims for p in fusion.parameters_of(m)]
    everything = {id(p) for p in fusion.parameters()}
    assert len(found) == len(set(found))
    assert set(found) <= everything


def gradients_reach_every_parameter(make: Make, count: int) -> None:
    fusion, _ = built(make, count)
    features = pooled_features(fusion.dims, batch=32)
    logits = fusion(features, {})
    torch.nn.functional.cross_entropy(logits, torch.arange(32) % OUTPUTS).backward()
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-9, name


def gradients_are_right(make: Make, count: int) -> None:
    fusion, features = built(make, count)
    names = list(features)
    first = next(fusion.parameters())

    def run(*values: Tensor) -> Tensor:
        logits: Tensor = fusion({m: Features(value) for m, value in zip(names, values)}, {})
        return logits

    leaves = [features[m].pooled[:2].clone().requires_grad_() for m in names]
    assert first.requires_grad
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


def extreme_inputs_stay_finite(make: Make, count: int) -> None:
    torch.manual_seed(0)
    dims = dims_of(count)
    fusion = make(dims, OUTPUTS)
    for size in (0.0, 1e-20, 1e4):
        fusion.zero_grad()
        leaf = {m: torch.full((2, dim), size).requires_grad_() for m, dim in dims.items()}
        logits = fusion({m: Features(x) for m, x in leaf.items()}, {})
        logits.sum().backward()
        gradients = [p.grad for p in (*leaf.values(), *fusion.parameters())]
        assert logits.isfinite().all()
        assert all(g is not None and g.isfinite().all() for g in gradients)


def mixed_precision_is_close(make: Make, count: int) -> None:
    torch.manual_seed(0)
    fusion = make(dims_of(count), OUTPUTS)
    features = {m: Features(f.pooled.float()) for m, f in pooled_features(fusion.dims).items()}
    exact = fusion(features, {})
    with torch.autocast("cpu", torch.bfloat16):
        logits = fusion({m: Features(f.pooled.bfloat16()) for m, f in features.items()}, {})
    same(logits.float(), exact, 0.05 * exact.abs().max().item() + 0.05)
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fusion.parameters())


def exports_with_a_free_batch_size(make: Make, count: int) -> None:
    torch.manual_seed(0)
    fusion = make(dims_of(count), OUTPUTS).double().eval()
    features = pooled_features(fusion.dims, batch=4)
    features = {m: f._replace(present=torch.tensor([True, False, True, True])) for m, f in features.items()}
    batch = torch.export.Dim("batch", min=2)
    shape = {m: Features({0: batch}, None, None, {0: batch}) for m in features}  # type: ignore[arg-type]
    program = torch.export.export(fusion, (features, {}), dynamic_shapes=(shape, {}))
    more = pooled_features(fusion.dims, batch=7, seed=1)
    more = {m: f._replace(present=torch.arange(7) % 3 > 0) for m, f in more.items()}
    same(program.module()(more, {}), fusion(more, {}))


POOLED: list[Property] = [
    shapes,
    batch_order_does_not_matter,
    order_of_the_dictionary_does_not_matter,
    samples_are_independent_in_evaluation,
    what_stands_for_an_absent_modality_does_not_matter,
    presence_of_all_changes_nothing,
    a_sample_without_any_modality_is_finite,
    blocks_are_disjoint_and_touch_one_modality,
    gradients_reach_every_parameter,
    gradients_are_right,
    extreme_inputs_stay_finite,
    mixed_precision_is_close,
]
EVERY_COUNT = (1, 2, 3, 7)
