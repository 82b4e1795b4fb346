"""Whole weights against the equation written out, and Wander on them."""

from typing import Any

import pytest
import torch

from polymodal.adapters import Wander
from polymodal.adapters.sequence_fusion_reference import dense_weight, sf_op, sf_vf
from polymodal.adapters.sequence_fusion_whole import WholeFusion, outer_product_fusion, vector_tuple_fusion
from polymodal.errors import InputError
from polymodal.types import Features
from tests.adapters.test_sequence_fusion import Case, relative

DIMS, LENGTHS = {"a": 4, "v": 3, "t": 2}, {"a": 5, "v": 3, "t": 2}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_both_forms_equal_their_equations_with_gradients(count):
    case = Case(count)
    upstream = torch.randn(2, 3, 4, dtype=torch.float64)
    w_t, w_h = (dense_weight(one).detach().requires_grad_() for one in (case.w_t, case.w_h))
    for found, wanted, leaves in (
        (outer_product_fusion(case.h, w_t, w_h), sf_op(case.h, w_t, w_h), (*case.h, w_t, w_h)),
        (vector_tuple_fusion(case.h, w_t, case.w_h), sf_vf(case.h, w_t, case.w_h), (*case.h, w_t, *case.w_h)),
    ):
        assert relative(found, wanted) <= 1e-12
        grads = zip(torch.autograd.grad(found, leaves, upstream), torch.autograd.grad(wanted, leaves, upstream))
        assert max(relative(one, other) for one, other in grads) <= 1e-12


@pytest.mark.parametrize("rank", [None, 2])
def test_padding_and_short_sequences_have_no_share(rank):
    fusion = WholeFusion(DIMS, LENGTHS, tokens=3, width=2, rank=rank).double()
    torch.nn.init.normal_(fusion.w_t)
    h = {m: torch.randn(2, length, DIMS[m]).double() for m, length in LENGTHS.items()}
    mask = torch.arange(5) < torch.tensor([[3], [3]])
    short = fusion({**h, "a": h["a"][:, :3]})
    torch.testing.assert_close(fusion(h, {"a": mask}), short)
    torch.testing.assert_close(fusion(h, {"a": mask}, tokens=2), short[:, :2])
    lacking = fusion(h, {"a": torch.tensor([[False] * 5, [True] * 5])})
    assert (lacking[0] == 0).all()
    assert (lacking[1] != 0).all()
    with pytest.raises(InputError, match="at most 5"):
        fusion({**h, "a": torch.ones(2, 6, 4).double()})


@pytest.mark.parametrize("fusion", ["sf_op", "sf_vf"])
def test_wander_of_whole_weights_starts_at_zero_and_all_of_it_learns(fusion):
    options: dict[str, Any] = {"residual": "none", "activation": "none", "down": 0, "rank_h": 2}
    wander = Wander(DIMS, LENGTHS, fusion=fusion, tokens=3, width=2, **options)
    whole: Any = wander._fusions(0)["joint"]
    h = {m: torch.randn(2, LENGTHS[m], dim) for m, dim in DIMS.items()}
    given = {m: Features(one[:, 0], one) for m, one in h.items()}
    optimizer = torch.optim.SGD(wander.parameters(), lr=1.0)
    before = [p.detach().clone() for p in wander.parameters()]
    for step in range(2):
        pooled = wander.after(given)["a"].pooled
        if step == 0:
            assert (pooled == 0).all()
        wander.zero_grad()
        (pooled - 1).square().sum().backward()
        optimizer.step()
    assert all((p != old).any() for p, old in zip(wander.parameters(), before))
    wanted: Any = sf_op if fusion == "sf_op" else sf_vf
    w_h = whole.w_h if fusion == "sf_op" else [whole.w_h[m] for m in DIMS]
    fused = wanted(list(h.values()), whole.w_t, w_h) * whole.scale
    torch.testing.assert_close(wander.after(given)["t"].tokens, fused)
    own = {m: len(wander.parameters_of(m)) for m in DIMS}
    assert own == dict.fromkeys(DIMS, 0 if fusion == "sf_op" else 1)


@pytest.mark.parametrize(
    ("dims", "lengths", "options", "expected"),
    [
        (dict.fromkeys("avt", 768), dict.fromkeys("avt", 2), {}, r"W_h of 768 x 768 x 768 x 768 = 3.48e\+11 numbers"),
        (dict.fromkeys("avt", 8), dict.fromkeys("avt", 500), {"rank_h": 2, "fusion": "sf_vf"}, "W_t of 16 x 500 x 500 x 500"),
        (DIMS, LENGTHS, {"width": 2, "rank_sum": "inside"}, "rank_sum='inside'"),
        (DIMS, LENGTHS, {"width": 2, "form": "core"}, "form='core'"),
        (DIMS, LENGTHS, {"width": 2, "zero": "a"}, "zero='a'"),
        (DIMS, LENGTHS, {"width": 2, "down": -1}, "down=-1"),
    ],
)  # fmt: skip
def test_what_is_refused(dims, lengths, options, expected):
    with pytest.raises(InputError, match=expected):
        Wander(dims, lengths, **{"fusion": "sf_op", "down": 0, "residual": "none", **options})


def test_per_modality_whole_weights_begin_as_the_identity():
    wander = Wander(DIMS, LENGTHS, output="per_modality", fusion="sf_op", down=2)
    given = {m: Features(torch.ones(2, dim), torch.randn(2, LENGTHS[m], dim)) for m, dim in DIMS.items()}
    found = wander.after(given)
    for m, one in given.items():
        torch.testing.assert_close(found[m].tokens, one.tokens)
