"""Every form against the dense equation of the paper, and against sums written out here."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from polymodal.adapters import sequence_fusion_forms as forms
from polymodal.adapters.sequence_fusion import SequenceFusion, VectorFusion, sequence_fusion, vector_fusion
from polymodal.adapters.sequence_fusion_reference import dense_weight, sf_op, sf_vf
from polymodal.errors import InputError

FORMS = ("stream", "core", "plain")


class Case:
    """Random inputs and factors of M modalities whose lengths and widths differ."""

    def __init__(self, count: int, ranks: tuple[int, int] = (2, 3), dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(count)
        lengths, widths = [3, 2, 4, 1, 2, 2, 1][:count], [2, 3, 2, 2, 1, 2, 3][:count]
        rank_t, rank_h = ranks

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

        self.count = count
        self.h = [random(2, length, width) for length, width in zip(lengths, widths)]
        self.w_t = [random(rank_t, 3, length) for length in lengths]
        self.w_h = [random(rank_h, 4, width) for width in widths]
        self.all = (*self.h, *self.w_t, *self.w_h)

    def split(self, tensors):
        return tensors[: self.count], tensors[self.count : 2 * self.count], tensors[2 * self.count :]

    def fuse(self, *tensors, **options):
        return sequence_fusion(*self.split(tensors or self.all), **options)


def written_out(h, w_t, w_h, pairs=None, kept=None):
    """sum over rank pairs of the product over the kept modalities, one small product at a time."""
    pairs = pairs or list(product(range(len(w_t[0])), range(len(w_h[0]))))
    kept = range(len(h)) if kept is None else kept
    return sum(torch.stack([w_t[m][r] @ h[m] @ w_h[m][s].T for m in kept]).prod(0) for r, s in pairs)


def relative(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).norm() / wanted.norm()).detach())


@pytest.mark.parametrize("form", [*FORMS, "auto"])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_equals_the_dense_equation_with_its_gradients(form, count):
    case = Case(count)
    upstream = torch.randn(2, 3, 4, dtype=torch.float64)
    wanted = sf_op(case.h, dense_weight(case.w_t), dense_weight(case.w_h))
    found = case.fuse(form=form)
    assert relative(found, wanted) <= 1e-12
    grads = zip(torch.autograd.grad(found, case.all, upstream), torch.autograd.grad(wanted, case.all, upstream))
    assert max(relative(one, other) for one, other in grads) <= 1e-12


@pytest.mark.parametrize("count", [2, 3])
def test_references_agree_with_a_sum_written_out(count):
    case = Case(count)
    wanted = written_out(case.h, case.w_t, case.w_h)
    torch.testing.assert_close(sf_op(case.h, dense_weight(case.w_t), dense_weight(case.w_h)), wanted)
    torch.testing.assert_close(sf_vf(case.h, dense_weight(case.w_t), case.w_h), wanted)


@pytest.mark.parametrize("form", FORMS)
def test_single_precision(form):
    case = Case(3, ranks=(8, 8), dtype=torch.float32)
    exact = [x.detach().double().requires_grad_() for x in case.all]
    found, wanted = case.fuse(form=form), written_out(*case.split(exact))
    assert relative(found, wanted) <= 2e-6
    grads = zip(torch.autograd.grad(found.sum(), case.all), torch.autograd.grad(wanted.sum(), exact))
    assert max(relative(one, other) for one, other in grads) <= 2e-6


@pytest.mark.parametrize("form", FORMS)
def test_printed_form_is_another_function_of_rank_one(form):
    case = Case(3)
    inside = case.fuse(rank_sum="inside", form=form)
    wanted = torch.stack([w.sum(0) @ x @ v.sum(0).T for x, w, v in zip(case.h, case.w_t, case.w_h)]).prod(0)
    torch.testing.assert_close(inside, wanted)
    assert relative(inside, case.fuse()) > 0.5


@pytest.mark.parametrize("form", ["stream", "plain", "auto"])
def test_shared_rank(form):
    case = Case(3, ranks=(3, 3))
    found = case.fuse(shared_rank=True, form=form)
    wanted = written_out(case.h, case.w_t, case.w_h, [(r, r) for r in range(3)])
    torch.testing.assert_close(found, wanted)
    grads = torch.autograd.grad(found.sum(), case.all), torch.autograd.grad(wanted.sum(), case.all)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("form", FORMS)
def test_small_blocks_change_nothing(form, monkeypatch):
    def found():
        out = case.fuse(form=form)
        return out, torch.autograd.grad(out.sum(), case.all)

    case = Case(3, ranks=(2, 6))
    case.h[0] = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    case.w_h[0] = torch.randn(6, 4, 5, dtype=torch.float64, requires_grad=True)
    case.all = (*case.h, *case.w_t, *case.w_h)
    whole = found()
    for block, chunk in [(1, 1), (50, 130)]:
        monkeypatch.setattr(forms, "BLOCK", block)
        monkeypatch.setattr(forms, "CHUNK", chunk)
        torch.testing.assert_close(found(), whole)
    ys, bs = [torch.ones(6, 5, 1), torch.ones(6, 6, 1)], [torch.ones(4, 5, 1), torch.ones(4, 6, 1)]
    assert [(s.start, s.stop) for s in forms._chunks(ys, bs)] == [(0, 2), (2, 4), (4, 6)]
    assert forms._ranks_at_once([torch.ones(1, 6, 5)], [torch.ones(6, 4, 5)]) == 2


@pytest.mark.parametrize("form", FORMS)
def test_double_backward_and_vmap(form):
    case = Case(2, ranks=(2, 2))
    assert torch.autograd.gradcheck(lambda *x: case.fuse(*x, form=form), case.all, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *x: case.fuse(*x, form=form), case.all, fast_mode=True)
    first, *others = case.all
    several = torch.stack([first, 2 * first, -first]).detach()
    for mapped in (
        torch.func.vmap(lambda x: case.fuse(x, *others, form=form)),
        torch.func.vmap(torch.func.grad(lambda x: case.fuse(x, *others, form=form).square().sum())),
    ):
        torch.testing.assert_close(mapped(several)[:1], mapped(several[:1]))
        torch.testing.assert_close(mapped(several)[1], mapped(several[1:2])[0])
    out = case.fuse(form=form)
    directions = torch.eye(out.numel(), dtype=out.dtype).view(-1, *out.shape)
    rows = torch.autograd.grad(out, case.all, directions, is_grads_batched=True)
    wanted = torch.autograd.functional.jacobian(lambda *x: case.fuse(*x, form="plain"), case.all)
    torch.testing.assert_close([x.view(*out.shape, *x.shape[1:]) for x in rows], list(wanted))


@pytest.mark.parametrize("form", FORMS)
def test_one_tensor_in_two_places_gets_both_gradients(form):
    h = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    w_t = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    w_h = torch.randn(2, 4, 2, dtype=torch.float64, requires_grad=True)
    inputs = (h, w_t, w_h)

    def square(h, w_t, w_h):
        return sequence_fusion([h, h], [w_t, w_t], [w_h, w_h], form=form)

    assert torch.autograd.gradcheck(square, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(square, inputs, fast_mode=True)


@pytest.mark.parametrize("form", ["stream", "core"])
def test_what_is_kept_for_backward_does_not_hold_products_of_ranks(form):
    case = Case(3, ranks=(8, 8))
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        case.fuse(form=form)
    inputs = sum(x.numel() for x in case.all)
    ys = 8 * 3 * 2 * sum(x.shape[2] for x in case.h)
    assert sum(kept) <= 2 * inputs + ys


@pytest.mark.parametrize("form", FORMS)
def test_longer_factors_serve_shorter_sequences(form):
    case = Case(3)
    longer = [torch.cat([w, torch.full_like(w, torch.nan)], 2) for w in case.w_t]
    torch.testing.assert_close(sequence_fusion(case.h, longer, case.w_h, form=form), case.fuse())


@pytest.mark.parametrize("form", FORMS)
def test_absent_modalities_leave_the_product_as_it_is(form):
    case = Case(3)
    there = [None, torch.tensor([True, False]), torch.tensor([False, True])]
    found = case.fuse(form=form, present=there)
    wanted = [
        written_out([x[i : i + 1] for x in case.h], case.w_t, case.w_h, kept=kept)
        for i, kept in enumerate([(0, 1), (0, 2)])
    ]
    torch.testing.assert_close(found, torch.cat(wanted))
    grads = torch.autograd.grad(found.square().sum(), case.all)
    torch.testing.assert_close(grads, torch.autograd.grad(torch.cat(wanted).square().sum(), case.all))
    everywhere = [torch.tensor([True, False])] * 3
    torch.testing.assert_close(case.fuse(form=form, present=everywhere)[0], case.fuse()[0])
    assert case.fuse(form=form, present=everywhere)[1].abs().max() == 0


@pytest.mark.parametrize("rank_sum", ["outside", "inside"])
def test_vector_fusion(rank_sum):
    case = Case(3)
    vectors = [x[:, 0] for x in case.h]
    terms = [torch.stack([vectors[m] @ case.w_h[m][s].T for m in range(3)]) for s in range(3)]
    wanted = sum(term.prod(0) for term in terms) if rank_sum == "outside" else torch.stack(terms).sum(0).prod(0)
    torch.testing.assert_close(vector_fusion(vectors, case.w_h, rank_sum=rank_sum), wanted)


def test_sizes_whose_form_was_measured():
    def chosen(width, count, rows, columns, ranks=(8, 8)):
        return forms.choose_form([width] * count, rows, columns, *ranks)

    assert chosen(16, 3, 24 * 8, 16) == "stream"  # red10, red20
    assert chosen(16, 3, 24 * 16, 256) == "core"  # MOSI
    assert chosen(64, 2, 16 * 16, 768) == "core"  # Food
    assert chosen(16, 7, 16 * 16, 512) == "stream"  # seven
    assert [chosen(d, 3, 384, 256) for d in (8, 16, 24, 32)] == ["core", "core", "stream", "stream"]
    assert [chosen(d, 2, 384, 256) for d in (16, 64, 256)] == ["core", "core", "stream"]
    assert chosen(16, 3, 384, 256, (1, 1)) == "plain"
    assert [chosen(16, 3, 384, 256, (r, r)) for r in (2, 4, 32)] == ["stream", "stream", "core"]


def small_fusion(**options):
    return SequenceFusion({"a": 3, "v": 2, "t": 4}, {"a": 4, "v": 3, "t": 5}, tokens=2, width=6, **options).double()


def sequences(size: int = 3):
    return {m: torch.randn(size, n, d, dtype=torch.float64) for m, n, d in [("a", 4, 3), ("v", 3, 2), ("t", 5, 4)]}


def test_module_is_the_scaled_formula():
    fusion, h = small_fusion(), sequences()
    assert fusion(h).abs().max() == 0
    assert [m for m, w in fusion.w_t.items() if not w.any()] == ["t"] == [fusion.zero]
    torch.nn.init.normal_(fusion.w_t["t"])
    wanted = written_out([h[m] for m in "avt"], [fusion.w_t[m] for m in "avt"], [fusion.w_h[m] for m in "avt"]) / 8
    torch.testing.assert_close(fusion(h), wanted)
    torch.testing.assert_close(fusion(h, tokens=1), wanted[:, :1])


@pytest.mark.parametrize("zero", ["a", "v", "t"])
@pytest.mark.parametrize("options", [{}, {"shared_rank": True}, {"rank_sum": "inside"}, {"form": "core"}])
def test_module_learns_from_its_start(zero, options):
    fusion, h = small_fusion(zero=zero, **options), sequences()
    optimizer = torch.optim.SGD(fusion.parameters(), 0.1)
    fusion(h).sum().backward()
    moved = {name for name, p in fusion.named_parameters() if p.grad.abs().max() > 0}
    assert moved == {f"w_t.{zero}"}
    optimizer.step()
    optimizer.zero_grad()
    fusion(h).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in fusion.parameters())


@pytest.mark.parametrize("count", [2, 3, 5])
def test_variance_is_held(count):
    dims = {f"m{i}": 8 for i in range(count)}
    fusion = SequenceFusion(dims, dict.fromkeys(dims, 10), tokens=16, width=64)
    torch.nn.init.normal_(fusion.w_t[fusion.zero], std=10**-0.5)
    variance = fusion({m: torch.randn(64, 10, 8) for m in dims}).var().item()
    assert 0.6 < variance < 1.5


def test_masked_tokens_do_not_count():
    fusion, h = small_fusion(), sequences()
    torch.nn.init.normal_(fusion.w_t["t"])
    mask = {"a": torch.arange(4).expand(3, 4) < 2}
    cut = h | {"a": h["a"][:, :2]}
    wild = h | {"a": torch.where(mask["a"][..., None], h["a"], 1e9)}
    torch.testing.assert_close(fusion(wild, mask), fusion(cut))
    vector = VectorFusion({"a": 3, "v": 2, "t": 4}, width=6).double()
    torch.nn.init.normal_(vector.w_h["t"])
    torch.testing.assert_close(vector(wild, mask), vector(cut))


def test_autocast_keeps_the_precision_of_the_factors():
    fusion = SequenceFusion({"a": 3, "v": 2}, {"a": 4, "v": 3}, tokens=2, width=6)
    torch.nn.init.normal_(fusion.w_t["v"])
    h = {"a": torch.randn(3, 4, 3), "v": torch.randn(3, 3, 2)}
    with torch.autocast("cpu", torch.bfloat16):
        found = fusion(h)
        found.sum().backward()
    assert found.dtype == torch.float32
    assert torch.equal(found, fusion(h))


def test_bad_input():
    case = Case(2)
    with pytest.raises(InputError, match=r"3 tokens.*at most 2"):
        sequence_fusion(case.h, [w[..., :2] for w in case.w_t], case.w_h)
    with pytest.raises(InputError, match=r"'a': 9 tokens.*at most 4.*lengths"):
        small_fusion()(sequences() | {"a": torch.zeros(3, 9, 3, dtype=torch.float64)})
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"rank_sum": "both"}, "rank_sum='both'"),
        ({"form": "fast"}, "form='fast'"),
        ({"form": "core", "shared_rank": True}, "'core'.*shared_rank"),
        ({"rank_t": 4, "shared_rank": True}, "make them equal"),
        ({"rank_h": 0}, "rank_h=0"),
        ({"zero": "x"}, "zero='x'"),
    ]
    for options, text in wrong:
        with pytest.raises(InputError, match=text):
            small_fusion(**options)
    with pytest.raises(InputError, match="at least two"):
        SequenceFusion({"a": 3}, {"a": 3}, tokens=1, width=2)
    with pytest.raises(InputError, match="lengths"):
        SequenceFusion({"a": 3, "v": 2}, {"a": 3}, tokens=1, width=2)
    with pytest.raises(InputError, match="shared_rank"):
        case.fuse(shared_rank=True)
