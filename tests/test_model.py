"""The model: what it refuses, whose parameters are whose, one modality alone, missing ones."""

# mypy: disable-error-code="arg-type, index, operator, union-attr"

import copy

import pytest
import torch
from torch import nn

import polymodal as pm
from polymodal import InputError
from polymodal.adapters import PMF, Adapter, Aurora
from polymodal.encoders import MLP, linear_heads
from polymodal.fusion import Concat, Mixture, Sum
from polymodal.model import MultimodalModel, forward, totals
from polymodal.tasks import Classification
from polymodal.types import Batch, Features
from tests.adapters.hosts import host, stir
from tests.builders import FUSIONS, TASKS, WIDTH, make_batch, make_fusion, make_model, make_step, names, rows
from tests.contract.layered import Attention
from tests.contract.test_between_layers import Bottleneck

ALL = ("encoder", "head", "fusion")


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


# Building -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["type", "keys", "a.b", "", "forward"])
def test_names_that_torch_cannot_hold(name):
    with pytest.raises(InputError, match="plain words"):
        MultimodalModel({name: MLP(3, dim=4)}, nn.Identity())


def test_parts_that_do_not_fit():
    encoders = {"a": MLP(3, dim=4), "v": MLP(3, dim=5)}
    fits = Concat({"a": 4, "v": 5}, 2)
    for build, text in (
        (lambda: MultimodalModel({}, fits), "there is no modality"),
        (lambda: MultimodalModel(encoders, Concat({"a": 4, "t": 5}, 2)), r"\['a', 't'\].*\['a', 'v'\]"),
        (lambda: MultimodalModel(encoders, Concat({"a": 4, "v": 6}, 2)), "'v' yields width 5 .* expects 6"),
        (lambda: MultimodalModel(encoders, fits, {"t": nn.Linear(4, 2)}), r"heads of \['t'\]"),
        (lambda: MultimodalModel(encoders, Mixture({"a": 4, "v": 5}, 2)), "linear_heads"),
        (lambda: MultimodalModel(encoders, fits, adapter=Adapter(last=1)), r"\['a', 'v'\] have none"),
    ):
        with pytest.raises(InputError, match=text):
            build()
    with pytest.raises(TypeError, match="Linear has no integer `dim`"):
        MultimodalModel({"a": nn.Linear(3, 4)}, Concat({"a": 4}, 2))
    layered = {"a": Attention(3, 4, depth=2), "v": Attention(3, 4, depth=4)}
    with pytest.raises(InputError, match=r"last=3 layers of encoders {'a': 2, 'v': 4} deep"):
        MultimodalModel(layered, Concat({"a": 4, "v": 4}, 2), adapter=Adapter(last=3))


def test_inputs_of_other_modalities():
    model, batch = make_model(), make_batch(3)
    with pytest.raises(InputError, match=r"inputs of \['m0', 'm1', 'm2'\] for a model of \['m0', 'm1'\]"):
        model(batch.inputs)


def test_public_names():
    assert pm.MultimodalModel is MultimodalModel
    assert pm.forward is forward


def test_an_adapter_that_does_nothing_changes_nothing():
    layered = {"a": Attention(3, 4, depth=2), "v": Attention(5, 4, depth=4)}
    fusion = Concat({"a": 4, "v": 4}, 2)
    inputs = {"a": torch.randn(2, 6, 3), "v": torch.randn(2, 7, 5)}
    plain = MultimodalModel(layered, fusion)(inputs)
    for last in (0, 1, 2):
        close(MultimodalModel(layered, fusion, adapter=Adapter(last))(inputs).logits, plain.logits)


# Parameters -----------------------------------------------------------------------------------------------------------


def test_parameters_of_each_scope():
    model = make_model()
    assert model.parameters_of("m0") == list(model.encoders["m0"].parameters())
    assert model.parameters_of("m1", ["head"]) == list(model.heads["m1"].parameters())
    assert model.parameters_of("m1", ["fusion"]) == [model.fusion.blocks["m1"].weight]
    assert model.parameters_of("m1", ["adapter"]) == []
    assert make_model(heads=False).parameters_of("m1", ["head"]) == []
    with pytest.raises(InputError, match="'fusions'"):
        model.parameters_of("m0", ["fusions"])
    model.encoders["m0"].requires_grad_(False)
    assert model.parameters_of("m0", ALL) == [*model.heads["m0"].parameters(), model.fusion.blocks["m0"].weight]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("scope", [ALL, ("encoder",), ("encoder", "head")], ids="+".join)
def test_groups_hold_every_trainable_parameter_once(fusion, scope):
    model = make_model(3, fusion=make_fusion(fusion, 3, TASKS["classification"]))
    model.encoders["m2"].net[0].requires_grad_(False)
    groups = model.param_groups(0.1, scope)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    named = {group["modality"]: group["params"] for group in groups}
    for m in names(3):
        assert [id(p) for p in named[m]] == [id(p) for p in model.parameters_of(m, scope)]
    assert all(group["lr"] == 0.1 for group in groups)
    assert all(group["params"] for group in groups)
    torch.optim.SGD(groups)


# One modality ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", [Concat, Sum])
def test_only_is_the_share_of_an_additive_fusion(fusion):
    model = make_model(3, fusion=fusion(dict.fromkeys(names(3), WIDTH), 3), heads=False)
    inputs = make_batch(3).inputs
    shares = [model.only(m)({m: inputs[m]}).logits for m in names(3)]
    close(torch.stack(shares).sum(0), model(inputs).logits)
    assert model.only("m1").modalities == ("m1",)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_only_is_the_head_where_there_is_one(fusion, kind):
    task = TASKS[kind]
    model = make_model(2, task, fusion=make_fusion(fusion, 2, task)).eval()
    batch = make_batch(2, task)
    for m in names(2):
        found = model.only(m)({m: batch.inputs[m]}).logits
        close(task.probabilities(found), task.probabilities(model(batch.inputs).unimodal[m]))


def test_only_shares_the_weights():
    model = make_model()
    one = model.only("m0")
    assert {id(p) for p in one.parameters()} <= {id(p) for p in model.parameters()}
    present = {"m0": torch.tensor([True, False] * 4)}
    assert torch.isfinite(one({"m0": make_batch().inputs["m0"]}, present).logits).all()


def test_only_of_what_cannot_stand_alone():
    model = make_model()
    with pytest.raises(InputError, match="'sound'"):
        model.only("sound")
    dense = make_model(fusion=make_fusion("Gated", 2, TASKS["classification"]), heads=False)
    with pytest.raises(InputError, match=r"Gated does not split.*'concat', 'sum'"):
        dense.only("m0")


def test_only_keeps_an_adapter_inside_of_the_encoders():
    encoders = {m: host("transformer", seed=i).encoder for i, m in enumerate(names(2))}
    adapter = Aurora(encoders, rank=2)
    model = MultimodalModel(encoders, Concat(dict.fromkeys(names(2), 8), 3), adapter=adapter).double().eval()
    stir(adapter)
    inputs = {m: host("transformer").x for m in names(2)}
    parts = model.fusion.parts(model.encode(inputs))
    for m in names(2):
        alone = copy.deepcopy(model.only(m))
        close(alone({m: inputs[m]}).logits, parts[m])
        assert {name.partition(".")[0] for name, _ in alone.named_parameters()} >= {"encoders", "fusion", "adapter"}


def test_only_of_modalities_that_see_each_other():
    encoders = {m: host("transformer").encoder for m in names(2)}
    adapter = PMF(dict.fromkeys(names(2), 8), last=2, query=1)
    model = MultimodalModel(encoders, Concat(dict.fromkeys(names(2), 8), 3), adapter=adapter)
    with pytest.raises(InputError, match=r"'m1' alone: with the adapter PMF its features depend on those of m0;"):
        model.only("m1")


# Missing modalities and means -----------------------------------------------------------------------------------------


def test_presence_is_told_to_fusions_and_losses():
    model, batch = make_model(), make_batch()
    there = torch.tensor([True] * 5 + [False] * 3)
    step = make_step(model, batch._replace(present={"m1": there}))
    assert torch.equal(step.output.features["m1"].present, there)
    assert step.output.features["m0"].present is None
    only_there = make_step(model, rows(batch, 5, 3)[0])
    close(step.unimodal_loss("m1"), only_there.unimodal_loss("m1"))
    close(step.output.logits[:5], only_there.output.logits)
    gone = model.fusion.blocks["m0"](step.output.features["m0"].pooled[5:]) + model.fusion.bias
    close(step.output.logits[5:], gone)


def test_a_modality_that_nobody_has_costs_nothing():
    model, batch = make_model(), make_batch()
    step = make_step(model, batch._replace(present={"m1": torch.zeros(8, dtype=torch.bool)}))
    assert step.unimodal_loss("m1") == 0
    step.unimodal_loss("m1").backward()
    assert all(not p.grad.any() for p in model.parameters_of("m1", ("encoder", "head")))


def test_precomputed_features_keep_their_own_presence():
    there = torch.tensor([True, False])
    given = {m: Features(torch.randn(2, WIDTH, dtype=torch.float64), present=there) for m in names(2)}
    output = make_model()(given)
    close(output.logits[1], make_model().fusion.bias)


def test_an_absent_modality_does_not_pass_through_an_adapter():
    encoders = {"a": Attention(3, 4, depth=2), "v": Attention(5, 4, depth=4)}
    model = MultimodalModel(encoders, Concat({"a": 4, "v": 4}, 2), adapter=Bottleneck()).double()
    sound, video = torch.randn(2, 6, 3).double(), torch.randn(2, 5, 5).double()
    there = {"v": torch.tensor([True, False])}
    before = model({"a": sound, "v": video}, there)
    after = model({"a": sound, "v": video + 1}, there)
    close(after.logits[1], before.logits[1])
    assert not torch.allclose(after.features["a"].pooled[0], before.features["a"].pooled[0])
    after.logits.sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_totals_count_samples_by_weight_and_presence():
    task = Classification(3, [1.0, 2.0, 4.0])
    target = torch.tensor([0, 1, 2, 2])
    here = torch.tensor([True, False, True, False])
    batch = Batch({}, target, {"m1": here})
    found = totals([batch, Batch({}, target[:1])], task, ["m0", "m1"])
    assert [float(found.fused), float(found.unimodal["m0"]), float(found.unimodal["m1"])] == [12.0, 12.0, 6.0]


def test_linear_heads_are_of_the_encoders_width():
    heads = linear_heads({"a": MLP(3, dim=7), "v": MLP(3, dim=2)}, outputs=5)
    assert {m: tuple(head.weight.shape) for m, head in heads.items()} == {"a": (5, 7), "v": (5, 2)}
