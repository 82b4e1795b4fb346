"""MoEE and MMT: against formulas and a loop, masks, lacking experts, Wander over the experts, training, bad input."""

# mypy: disable-error-code="union-attr, operator, index"

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from polymodal import InputError, evaluate
from polymodal.adapters import Wander
from polymodal.encoders import MLP, Expert, TextBag
from polymodal.fusion import Concat
from polymodal.fusion.retrieval import MMT, MoEE
from polymodal.model import MultimodalModel
from polymodal.tasks import Retrieval, similarity
from polymodal.types import Batch, Features, Padded
from tests.builders import difference, grads, make_step, weights

EXPERTS = {"face": 3, "rgb": 2, "sound": 4}
DIMS = {"caption": 6, **dict.fromkeys(EXPERTS, 8)}


def make_mmt(depth=2):
    torch.manual_seed(0)
    fusion = MMT(DIMS, query="caption", depth=depth, heads=2, hidden=16, dropout=0.0).double().eval()
    for p in fusion.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return fusion


def make_features(size=5, present=None, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(size, *shape, generator=generator).double()

    found = {"caption": Features(draw(6))}
    for m, length in EXPERTS.items():
        mask = torch.arange(length) < torch.randint(1, length + 1, (size, 1), generator=generator)
        found[m] = Features(draw(8), draw(length, 8), mask)
    for m, there in (present or {}).items():
        found[m] = found[m]._replace(present=torch.tensor(there))
    return found


def unit_by_hand(unit, h):
    y = F.linear(h, unit.project.weight, unit.project.bias)
    y = y * torch.sigmoid(F.linear(y, unit.gate.weight, unit.gate.bias))
    return y / y.norm(dim=-1, keepdim=True)


def layer_by_hand(layer, x):
    """One BERT layer on tokens (L, D) of one video, all of them real."""
    attention, heads = layer.self_attn, layer.self_attn.num_heads
    q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    parts = []
    for one in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        scores = one[0] @ one[1].T / one[0].shape[1] ** 0.5
        parts.append(scores.softmax(-1) @ one[2])
    x = layer.norm1(x + attention.out_proj(torch.cat(parts, -1)))
    return layer.norm2(x + layer.linear2(F.gelu(layer.linear1(x))))


def test_mmt_is_bert_over_the_real_tokens_of_the_experts_that_are_there():
    fusion = make_mmt()
    present = {"rgb": [True, False, True, True, False], "face": [True, True, True, False, False]}
    features = make_features(present=present)
    pair = fusion(features, {})
    for i in range(5):
        tokens: list[torch.Tensor] = []
        places: dict[str, int] = {}
        for m in EXPERTS:
            if not present.get(m, [True] * 5)[i]:
                continue
            places[m] = len(tokens)
            one = features[m]
            tokens += [one.pooled[i], *one.tokens[i][one.mask[i]]]
        x = fusion.norm(torch.stack(tokens))
        for layer in fusion.layers:
            x = layer_by_hand(layer, x)
        for e, m in enumerate(EXPERTS):
            expected = F.normalize(x[places[m]], dim=-1) if m in places else torch.zeros(8).double()
            torch.testing.assert_close(pair.gallery[i, e], expected, atol=1e-10, rtol=0)
    caption = features["caption"].pooled
    for e, m in enumerate(EXPERTS):
        torch.testing.assert_close(pair.query[:, e], unit_by_hand(fusion.units[m], caption))
    torch.testing.assert_close(pair.weights, fusion.weigh(caption).softmax(-1))


def test_weights_are_a_softmax_over_the_experts_that_are_there():
    fusion = make_mmt()
    features = make_features(present={"rgb": [False] * 5})
    pair = fusion(features, {})
    own = fusion.weigh(features["caption"].pooled)[:, [0, 2]].softmax(-1)
    expected = torch.einsum("qe,qed,ged->qg", own, pair.query[:, [0, 2]], pair.gallery[:, [0, 2]])
    torch.testing.assert_close(similarity(pair), expected)


def test_moee_is_its_formula():
    torch.manual_seed(0)
    fusion = MoEE({"caption": 6, "face": 8, "rgb": 5}, query="caption", width=7).double()
    caption, face, rgb = torch.randn(3, 4, 8).double()[..., :6], torch.randn(4, 8).double(), torch.randn(4, 5).double()
    features = {"caption": Features(caption[0]), "face": Features(face), "rgb": Features(rgb)}
    pair = fusion(features, {})
    torch.testing.assert_close(pair.gallery[:, 1], unit_by_hand(fusion.gallery["rgb"], rgb))
    torch.testing.assert_close(pair.query[:, 0], unit_by_hand(fusion.units["face"], caption[0]))


def test_what_stands_for_a_lacking_expert_does_not_matter():
    fusion, lacking = make_mmt(), {"rgb": [True, False, True, False, True]}
    one, other = make_features(present=lacking), make_features(present=lacking)
    gone = ~torch.tensor(lacking["rgb"])
    other["rgb"].pooled[gone], other["rgb"].tokens[gone] = 7.0, -7.0
    for left, right in zip(fusion(one, {}), fusion(other, {}), strict=True):
        torch.testing.assert_close(left, right)


def test_of_one_expert_nothing_is_weighed():
    fusion = MoEE({"name": 6, "image": 4}, width=8)
    assert fusion.query == "name"
    assert fusion.weigh is None
    pair = fusion({"name": Features(torch.randn(3, 6)), "image": Features(torch.randn(3, 4))}, {})
    assert pair.weights.tolist() == [[1.0]] * 3


# With Wander ----------------------------------------------------------------------------------------------------------


def make_model():
    torch.manual_seed(0)
    encoders = {"caption": TextBag(30, dim=6, dropout=0.0)} | {m: Expert(3, dim=8) for m in EXPERTS}
    return MultimodalModel(encoders, make_mmt().train()).double()


def make_batch(size=6):
    """Captions of one word each; the experts of a video tell the word."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(size, 3, generator=generator).double()
    inputs: dict[str, Any] = {"caption": torch.arange(1, size + 1)[:, None]}
    for m, length in EXPERTS.items():
        values = codes[:, None] + 0.1 * torch.randn(size, length, 3, generator=generator).double()
        inputs[m] = Padded(values, torch.arange(length) < torch.randint(1, length + 1, (size, 1), generator=generator))
    present = {"face": torch.arange(size) % 3 != 0}
    return Batch(inputs, torch.arange(size), present)


@pytest.mark.parametrize("options", [{"output": "per_modality"}, {"output": "joint", "tokens": 4}])
def test_wander_over_the_experts_trains_in_a_frozen_model(options):
    model, batch, task = make_model(), make_batch(), Retrieval(0.2)
    model.requires_grad_(False)
    before = evaluate(model, [batch], task)
    wander = Wander(dict.fromkeys(EXPERTS, 8), EXPERTS, down=4, rank_t=2, rank_h=2, **options).double()
    model.fusion.insert(wander)
    start = weights(model)
    if options["output"] == "per_modality":
        assert (evaluate(model, [batch], task).probabilities == before.probabilities).all()  # starts as the identity
    optimizer = torch.optim.Adam(wander.parameters(), 0.02)
    first = evaluate(model, [batch], task).metrics["loss"]
    touched = set()
    for _ in range(20):
        optimizer.zero_grad()
        make_step(model, batch, task).fused_loss().backward()
        touched |= {name for name, grad in grads(model).items() if grad.any()}
        optimizer.step()
    assert evaluate(model, [batch], task).metrics["loss"] < 0.9 * first
    after = weights(model)
    own = {name for name in start if name.startswith("fusion.adapter.")}
    assert difference({n: start[n] for n in start if n not in own}, {n: after[n] for n in after if n not in own}) == 0
    assert touched == own
    model.fusion.insert(None)
    assert (evaluate(model, [batch], task).probabilities == before.probabilities).all()


def test_groups_of_parameters_are_disjoint_and_complete():
    model = make_model()
    model.fusion.insert(Wander(dict.fromkeys(EXPERTS, 8), EXPERTS, down=4, output="per_modality").double())
    groups = model.param_groups(0.1)
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters())
    shared = next(group["params"] for group in groups if group["modality"] is None)
    assert {id(p) for p in model.fusion.layers.parameters()} <= {id(p) for p in shared}
    assert {id(p) for p in model.fusion.units.parameters()} <= {
        id(p) for p in model.parameters_of("caption", ["fusion"])
    }


def test_every_parameter_gets_a_gradient():
    model = make_model()
    make_step(model, make_batch(), Retrieval(1.0)).fused_loss().backward()
    quiet = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert quiet == []


def test_training_finds_the_pairs():
    model, batch, task = make_model(), make_batch(), Retrieval(0.2)
    model.fusion = MMT(DIMS, query="caption", depth=2, heads=2, hidden=16).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(25):
        optimizer.zero_grad()
        make_step(model, batch, task).fused_loss().backward()
        optimizer.step()
    found = evaluate(model, [batch], task).metrics
    assert found["r_at_1_q2g"] == found["r_at_1_g2q"] == 100


def test_mixed_precision_is_close():
    model, batch = make_model().float().eval(), make_batch()
    half = {m: Padded(x.values.float(), x.mask) for m, x in batch.inputs.items() if m != "caption"}
    batch = batch._replace(inputs=batch.inputs | half)
    exact = similarity(model(batch.inputs, batch.present).pair)
    with torch.autocast("cpu", torch.bfloat16):
        found = similarity(model(batch.inputs, batch.present).pair)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 0.05


# Bad input ------------------------------------------------------------------------------------------------------------


def test_errors():
    with pytest.raises(InputError, match=r"no gallery beside \['caption'\]; retrieval needs a query"):
        MoEE({"caption": 6})
    with pytest.raises(InputError, match=r"query=None; name the modality that asks, one of \['caption', 'face'"):
        MMT(DIMS)
    with pytest.raises(InputError, match="query='title'"):
        MoEE(DIMS, query="title")
    with pytest.raises(InputError, match=r"widths \{'face': 8, 'rgb': 4\} differ"):
        MMT({"caption": 6, "face": 8, "rgb": 4}, query="caption")
    with pytest.raises(InputError, match="heads divide the width 8"):
        MMT(DIMS, query="caption", heads=3)
    with pytest.raises(InputError, match="width=0"):
        MoEE(DIMS, query="caption", width=0)
    with pytest.raises(InputError, match="row 2 of the batch lacks its query 'caption'; fill it in"):
        make_mmt()(make_features(present={"caption": [True, True, False, True, False]}), {})
    with pytest.raises(InputError, match=r"joins \['caption', .* the query must stay apart"):
        make_mmt().insert(Wander(DIMS | {"caption": 8}, {"caption": 3, **EXPERTS}, output="per_modality"))
    with pytest.raises(InputError, match=r"acts between layers \(last=1\)"):
        make_mmt().insert(Wander(dict.fromkeys(EXPERTS, 8), EXPERTS, output="per_modality", last=1))
    encoders = {"a": MLP(3, dim=4), "b": MLP(3, dim=4)}
    across = Wander(dict.fromkeys(encoders, 4), dict.fromkeys(encoders, 1))
    with pytest.raises(InputError, match=r"would show the query 'a' to the gallery; .* fusion.insert"):
        MultimodalModel(encoders, MoEE(dict.fromkeys(encoders, 4)), adapter=across)
    MultimodalModel(copy.deepcopy(encoders), Concat(dict.fromkeys(encoders, 4), 2), adapter=across)
