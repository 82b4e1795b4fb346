"""Wander behind encoders and between their layers, against formulas written out here and the frozen models themselves."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polymodal.adapters import JointHead, Wander
from polymodal.data.synthetic import d4
from polymodal.encoders import State
from polymodal.errors import InputError
from polymodal.fusion import Concat
from polymodal.model import MultimodalModel
from polymodal.types import Features, Padded
from tests.adapters.hosts import tokens_of
from tests.builders import names
from tests.contract.layered import Attention

LENGTHS = {"a": 6, "v": 4}


def features(lengths=LENGTHS, width=8, size=3):
    h = {m: torch.randn(size, n, width, dtype=torch.float64) for m, n in lengths.items()}
    return {m: Features(x.mean(1), x) for m, x in h.items()}


def awake(adapter: nn.Module):
    """With every factor drawn, so that the adapter does something."""
    for name, parameter in adapter.named_parameters():
        if not parameter.any() and "w_" in name:
            nn.init.normal_(parameter, std=0.3)
    return adapter.double()


def joint(**options):
    dims = options.pop("dims", dict.fromkeys(LENGTHS, 8))
    return awake(Wander(dims, LENGTHS, down=3, tokens=5, rank_t=2, rank_h=3, **options))


def sum_of_ranks(wander, given):
    """SF(GELU(Down h)) term by term."""
    fusion, down = wander.fusions[0]["joint"], wander.downs[0].layers
    narrow = {m: F.gelu(down[m](f.tokens)) for m, f in given.items()}
    terms = [
        torch.stack([fusion.w_t[m][r] @ narrow[m] @ fusion.w_h[m][s].T for m in given]).prod(0)
        for r in range(2)
        for s in range(3)
    ]
    return sum(terms) / 6**0.5


def test_joint_output_and_its_residuals():
    given = features()
    wanted = {
        "none": lambda w: 0,
        "concat_prefix": lambda w: given["a"].tokens[:, :5],
        "cls_sum": lambda w: (given["a"].pooled + given["v"].pooled)[:, None],
        "projected": lambda w: w.project["a"](given["a"].tokens)[:, :5],
    }
    for residual, added in wanted.items():
        wander = joint(residual=residual)
        out = wander.after(given)
        torch.testing.assert_close(out["a"].tokens, sum_of_ranks(wander, given) + added(wander))
        torch.testing.assert_close(out["a"].pooled, out["a"].tokens[:, 0])
        assert all(f.mask is None and f.present is None and f.tokens is out["a"].tokens for f in out.values())
    wander.pool = "mean"
    torch.testing.assert_close(wander.after(given)["v"].pooled, out["v"].tokens.mean(1))


def test_unequal_widths_are_projected():
    dims = {"a": 8, "v": 5}
    wander = joint(dims=dims, width=7, residual="projected")
    given = {m: Features(torch.zeros(3, d), torch.randn(3, LENGTHS[m], d)) for m, d in dims.items()}
    wander.float()
    out = wander.after(given)["v"].tokens
    linear = F.linear(tokens_of(given["a"]), wander.project["a"].weight, wander.project["a"].bias)[:, :5]
    torch.testing.assert_close(out - linear, sum_of_ranks(wander, given))


@pytest.mark.parametrize("residual", ["none", "concat_prefix", "cls_sum", "projected"])
@pytest.mark.parametrize("fusion", ["sequence", "vector"])
def test_padding_of_any_kind_changes_nothing(residual, fusion):
    wander, given = joint(residual=residual, fusion=fusion), features()
    short = given | {"a": given["a"]._replace(tokens=given["a"].tokens[:, :2])}
    padded = torch.where(torch.arange(6)[:, None] < 2, given["a"].tokens, 7.0)
    mask = torch.arange(6).expand(3, 6) < 2
    long = given | {"a": given["a"]._replace(tokens=padded, mask=mask)}
    torch.testing.assert_close(wander.after(long)["a"].tokens, wander.after(short)["a"].tokens)


def test_prefix_runs_over_the_end_of_a_short_sequence():
    wander, given = joint(), features()
    mask = torch.tensor([[True, False, True, False, False, False]] * 3)
    out = wander.after(given | {"a": given["a"]._replace(mask=mask)})["a"].tokens
    bare = joint(residual="none")
    bare.load_state_dict(wander.state_dict())
    rest = out - bare.after(given | {"a": given["a"]._replace(mask=mask)})["a"].tokens
    wanted = torch.cat([given["a"].tokens[:, [0, 2]], given["v"].tokens[:, :3]], 1)
    torch.testing.assert_close(rest, wanted)


@pytest.mark.parametrize("options", [{}, {"fusion": "vector"}, {"residual": "cls_sum"}, {"output": "per_modality"}])
def test_content_of_absent_modalities_does_not_leak(options):
    options = {"down": 3, "rank_t": 2, "rank_h": 2} | options
    wander = awake(Wander(dict.fromkeys("avt", 8), {"a": 6, "v": 4, "t": 2}, **options))
    given = features({"a": 6, "v": 4, "t": 2})
    there = torch.tensor([True, False, True])
    given["v"] = given["v"]._replace(present=there)
    other = given | {"v": Features(given["v"].pooled + 1, given["v"].tokens * 3 + 1, None, there)}
    one, two = wander.after(given), wander.after(other)
    for m in "at":
        torch.testing.assert_close(one[m].tokens[1], two[m].tokens[1])
        assert not torch.equal(one[m].tokens[0], two[m].tokens[0])


def test_what_remains_without_a_modality_is_the_product_of_the_others():
    given = features()
    wander = joint(residual="none")
    given["v"] = given["v"]._replace(present=torch.zeros(3, dtype=torch.bool))
    fusion, narrow = wander.fusions[0]["joint"], F.gelu(wander.downs[0].layers["a"](given["a"].tokens))
    wanted = fusion.w_t["a"].sum(0) @ narrow @ fusion.w_h["a"].sum(0).T / 6**0.5
    torch.testing.assert_close(wander.after(given)["a"].tokens, wanted)
    given["a"] = given["a"]._replace(mask=torch.zeros(3, 6, dtype=torch.bool))
    assert wander.after(given)["a"].tokens.abs().max() == 0


@pytest.mark.parametrize("count", [2, 3, 7, 9])
@pytest.mark.parametrize("output", ["joint", "per_modality"])
def test_any_number_of_modalities(count, output):
    lengths = {m: 2 + i % 3 for i, m in enumerate(names(count))}
    given = features(lengths)
    wander = Wander(dict.fromkeys(lengths, 8), lengths, output=output, down=2, rank_t=2, rank_h=2).double()
    torch.testing.assert_close(
        wander.after(given)["m0"].pooled, given["m0"].tokens[:, 0] if output == "joint" else given["m0"].pooled
    )
    optimizer = torch.optim.SGD(wander.parameters(), 0.5)
    upstream = {m: torch.randn_like(f.pooled) for m, f in given.items()}
    for step in range(2):
        optimizer.zero_grad()
        out = wander.after(given)
        losses = [(out[m].pooled * g + tokens_of(out[m]).square().mean(1)).sum() for m, g in upstream.items()]
        torch.stack(losses).sum().backward()
        moved = {name for name, p in wander.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        if step == 0:
            assert len(moved) == (1 if output == "joint" else count)
        optimizer.step()
    assert moved == {name for name, _ in wander.named_parameters()}


def test_ablations():
    given = features()
    wander = joint(activation="none", residual="none")
    fusion, down = wander.fusions[0]["joint"], wander.downs[0].layers
    linear = {m: down[m](f.tokens) for m, f in given.items()}
    dense = sum(
        (fusion.w_t["a"][r] @ linear["a"] @ fusion.w_h["a"][s].T)
        * (fusion.w_t["v"][r] @ linear["v"] @ fusion.w_h["v"][s].T)
        for r in range(2)
        for s in range(3)
    )
    torch.testing.assert_close(wander.after(given)["a"].tokens, dense / 6**0.5)
    wander = joint(fusion="vector", activation="relu", residual="none")
    factors, down = wander.fusions[0]["joint"].w_h, wander.downs[0].layers
    means = {m: F.relu(down[m](f.tokens)).mean(1) for m, f in given.items()}
    vector = sum((means["a"] @ factors["a"][s].T) * (means["v"] @ factors["v"][s].T) for s in range(3)) / 3**0.5
    torch.testing.assert_close(wander.after(given)["a"].tokens, vector[:, None])


def test_features_without_tokens_are_sequences_of_one():
    dims, ones = {"a": 8, "v": 8}, {"a": 1, "v": 1}
    wander = awake(Wander(dims, ones, down=3, tokens=1))
    pooled = {m: Features(f.pooled) for m, f in features().items()}
    sequences = {m: Features(f.pooled, f.pooled[:, None]) for m, f in pooled.items()}
    assert torch.equal(wander.after(pooled)["a"].pooled, wander.after(sequences)["a"].pooled)
    each = awake(Wander(dims, ones, down=3, output="per_modality"))
    assert each.after(pooled)["a"].tokens is None
    assert torch.equal(each.after(pooled)["a"].pooled, each.after(sequences)["a"].pooled)
    assert not torch.equal(each.after(pooled)["a"].pooled, pooled["a"].pooled)


# Between layers -------------------------------------------------------------------------------------------------------


def layered(adapter=None, seed=0):
    torch.manual_seed(seed)
    encoders = {"a": Attention(3, 4, depth=2), "v": Attention(5, 6, depth=3)}
    model = MultimodalModel(encoders, Concat({"a": 4, "v": 6}, 2), adapter=adapter).double()
    model.encoders.requires_grad_(False)
    return model


def inside(**options):
    return Wander({"a": 4, "v": 6}, {"a": 9, "v": 5}, output="per_modality", down=3, rank_t=2, rank_h=2, **options)


SOUND, VIDEO = torch.randn(2, 6, 3, dtype=torch.float64), torch.randn(2, 5, 5, dtype=torch.float64)
MASK = torch.arange(6) < torch.tensor([[6], [4]])


def test_between_layers_it_starts_as_the_frozen_model_and_learns():
    inputs = {"a": Padded(SOUND, MASK), "v": VIDEO}
    model = layered(inside(last=2))
    frozen = layered()
    frozen.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("adapter.")})
    before = {name: p.clone() for name, p in model.encoders.state_dict().items()}
    one, two = model(inputs), frozen(inputs)
    assert torch.equal(one.logits, two.logits)
    assert all(torch.equal(one.features[m].tokens, two.features[m].tokens) for m in "av")
    optimizer = torch.optim.AdamW(model.param_groups(1e-2), weight_decay=0.1)
    for step in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs).logits, torch.tensor([0, 1])).backward()
        adapter = {name for name, p in model.adapter.named_parameters() if p.grad is not None and p.grad.any()}
        zero = {f"fusions.{layer}.{m}.w_t.{m}" for layer in (0, 1) for m in "av"}
        assert adapter == (zero if step == 0 else {name for name, _ in model.adapter.named_parameters()})
        optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in model.encoders.state_dict().items())
    assert not torch.equal(model(inputs).logits, one.logits)


def test_between_layers_padding_changes_nothing_and_nothing_leaks():
    model = layered(awake(inside(last=2)))
    longer = torch.cat([torch.where(MASK[..., None], SOUND, 9.0), torch.full((2, 3, 3), 7.0)], 1).double()
    out = model({"a": Padded(SOUND, MASK), "v": VIDEO})
    padded = model({"a": Padded(longer, torch.arange(9) < torch.tensor([[6], [4]])), "v": VIDEO})
    torch.testing.assert_close(padded.logits, out.logits)
    there = {"a": torch.tensor([True, False])}
    one = model({"a": SOUND, "v": VIDEO}, there).logits
    two = model({"a": torch.cat([SOUND[:1], SOUND[1:] + 5]), "v": VIDEO}, there).logits
    assert one.isfinite().all()
    torch.testing.assert_close(one, two)
    assert not torch.equal(model({"a": SOUND + 1, "v": VIDEO}).features["v"].tokens, out.features["v"].tokens)


def test_foreign_tokens_are_left_alone():
    adapter = awake(inside(last=1))
    states = {"a": State(torch.randn(2, 6, 4).double(), MASK), "v": State(torch.randn(2, 5, 6).double())}
    plain = adapter.between(0, states)
    foreign = torch.randn(2, 3, 4, dtype=torch.float64)
    found = adapter.between(0, states | {"a": states["a"].add(foreign)})
    assert torch.equal(found["a"].extras(), foreign)
    assert found["a"].extra == 3
    torch.testing.assert_close(found["a"].drop().tokens, plain["a"].tokens)
    torch.testing.assert_close(found["v"].tokens, plain["v"].tokens)
    assert torch.equal(plain["a"].tokens[1, 4:], states["a"].tokens[1, 4:])


def test_after_one_chosen_layer():
    adapter = awake(inside(last=2, at=[1]))
    states = {"a": State(torch.randn(2, 6, 4).double()), "v": State(torch.randn(2, 5, 6).double())}
    assert adapter.between(0, states) is states
    assert not torch.equal(adapter.between(1, states)["a"].tokens, states["a"].tokens)
    assert len(adapter.downs) == 1


@pytest.mark.parametrize("adapter", [joint(residual="projected"), inside(last=2), inside(fusion="vector")])
def test_each_parameter_belongs_to_one_modality(adapter):
    found = [id(p) for m in "av" for p in adapter.parameters_of(m)]
    assert sorted(found) == sorted(id(p) for p in adapter.parameters())


def test_export_with_free_sizes():
    class Exported(nn.Module):
        def __init__(self, wander):
            super().__init__()
            self.wander = wander

        def forward(self, a, v, mask):
            given = {"a": Features(a.mean(1), a, mask), "v": Features(v.mean(1), v)}
            return self.wander.after(given)["a"].pooled

    module = Exported(joint().float().eval())
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length", max=5)
    shapes = ({0: batch, 1: length}, {0: batch}, {0: batch, 1: length})
    example = (torch.randn(3, 4, 8), torch.randn(3, 4, 8), torch.ones(3, 4, dtype=torch.bool))
    exported = torch.export.export(module, example, dynamic_shapes=shapes).module()
    other = (torch.randn(7, 5, 8), torch.randn(7, 4, 8), torch.rand(7, 5) > 0.3)
    torch.testing.assert_close(exported(*other), module(*other))


# Learning -------------------------------------------------------------------------------------------------------------


def accuracy_on_d4(parts, predict, epochs):
    """On D4 (chance 1/6) after AdamW at 5e-3 in batches of 50."""
    train, test = ({m: Features(x.mean(1), x) for m, x in d.inputs.items()} for d in (d4(1500, 0), d4(2000, 1)))
    target = d4(1500, 0).target
    optimizer = torch.optim.AdamW([p for part in parts for p in part.parameters()], 5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(1500).split(50):
            some = {m: Features(f.pooled[rows], tokens_of(f)[rows]) for m, f in train.items()}
            optimizer.zero_grad()
            F.cross_entropy(predict(some), target[rows]).backward()
            optimizer.step()
    with torch.no_grad():
        return (predict(test).argmax(1) == d4(2000, 1).target).double().mean().item()


@pytest.mark.parametrize("all_zero", [False, True])
def test_it_pairs_tokens_where_a_linear_head_is_at_chance(all_zero):
    dims = {"x1": 16, "x2": 16}
    wander, head = Wander(dims, {"x1": 6, "x2": 8}, down=16, tokens=4, rank_t=4, rank_h=4), JointHead(dims, 6)
    if all_zero:
        fusions: Any = wander.fusions
        for factor in fusions[0]["joint"].w_t.values():
            nn.init.zeros_(factor)
    found = accuracy_on_d4([wander, head], lambda given: head(wander.after(given), {}), epochs=4 if all_zero else 10)
    assert found <= 0.22 if all_zero else found >= 0.75


def test_linear_head_on_these_sequences():
    head = Concat({"x1": 16, "x2": 16}, 6)
    assert accuracy_on_d4([head], lambda given: head(given, {}), epochs=4) <= 0.22


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dims", "options", "text"),
    [
        ({"a": 8}, {}, r"at least two"),
        ({"a": 8, "v": 6}, {}, r"\{'a': 8, 'v': 6\} differ.*projected"),
        ({"a": 8, "v": 6}, {"width": 8}, r"'concat_prefix'.*'projected' or 'none'"),
        ({"a": 8, "v": 8}, {"width": 4, "residual": "cls_sum"}, r"'cls_sum'.*width 4"),
        ({"a": 8, "v": 8}, {"residual": "own"}, r"residual='own'"),
        ({"a": 8, "v": 8}, {"output": "both"}, r"output='both'"),
        ({"a": 8, "v": 8}, {"activation": "swish"}, r"activation='swish'"),
        ({"a": 8, "v": 8}, {"last": 1}, r"last=1.*per_modality"),
        ({"a": 8, "v": 8}, {"output": "per_modality", "width": 8}, r"\['width'\].*leave"),
        ({"a": 8, "v": 8}, {"output": "per_modality", "last": 2, "at": [2]}, r"at=\[2\].*0 to 1"),
        ({"a": 8, "v": 8}, {"down": -1}, r"down=-1"),
    ],
)
def test_options_that_do_not_fit(dims, options, text):
    with pytest.raises(InputError, match=text):
        Wander(dims, dict.fromkeys(dims, 4), **options)


def test_inputs_that_do_not_fit():
    given = features({"a": 7, "v": 4})
    for adapter in (joint(), awake(Wander({"a": 8, "v": 8}, LENGTHS, output="per_modality"))):
        with pytest.raises(InputError, match=r"'a': 7 tokens.*at most 6"):
            adapter.after(given)
    with pytest.raises(InputError, match=r"joins \['a', 'v'\] and was given \['a'\]"):
        joint().after({"a": given["a"]})
    with pytest.raises(InputError, match=r"lengths"):
        Wander({"a": 8, "v": 8}, {"a": 4})
    with pytest.raises(InputError, match=r"last=3"):
        layered(inside(last=3))
    with pytest.raises(InputError, match=r"JointHead"):
        JointHead({"a": 8, "v": 6}, 2)
