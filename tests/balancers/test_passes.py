"""Extra passes: modes restored, inputs zeroed, subsets run once, shares that add up."""

import math
from itertools import permutations

import pytest
import torch
from torch import nn

from polymodal import InputError
from polymodal.adapters import Adapter
from polymodal.balancers.passes import check_zeroing, shapley_parts, subset_logits, zeroed
from polymodal.blocks import evaluating
from polymodal.encoders import MLP, Encoder, ImageCNN, SpectrogramCNN, TextBag, linear_heads
from polymodal.fusion import Concat, Mixture
from polymodal.model import MultimodalModel, forward
from polymodal.types import Batch, Features, Padded
from tests.builders import TASKS, make_batch, make_model, make_step
from tests.properties import assert_close, exact

TASK = TASKS["classification"]


class Counted(Encoder):
    """BatchNorm and dropout, and a note of the size of every batch."""

    def __init__(self, in_dim, dim):
        super().__init__()
        self.dim, self.sizes = dim, []
        self.net = nn.Sequential(nn.Linear(in_dim, dim), nn.BatchNorm1d(dim), nn.Dropout(0.5))

    def forward(self, x):
        self.sizes.append(len(x))
        return Features(self.net(x))


def counted_model():
    encoders = {f"m{i}": Counted(3 + i, 4) for i in range(2)}
    return MultimodalModel(encoders, Concat({"m0": 4, "m1": 4}, 3)).double()


def test_every_mode_is_restored():
    model = counted_model()
    model.encoders["m0"].eval()
    before = [sub.training for sub in model.modules()]

    def fail_inside():
        with evaluating(model):
            assert not any(sub.training for sub in model.modules())
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert [sub.training for sub in model.modules()] == before


def test_zeroed_inputs_are_encoded_once_and_real_ones_only_where_modes_differ():
    model = counted_model()
    step = make_step(model, make_batch(size=6))
    with torch.no_grad():
        subset_logits(step, "input")
    assert [encoder.sizes for encoder in model.encoders.values()] == [[6, 1, 6], [6, 1, 6]]
    model.eval()
    for encoder in model.encoders.values():
        encoder.sizes.clear()
    step = make_step(model, make_batch(size=6))
    subset_logits(step, "input")
    assert [encoder.sizes for encoder in model.encoders.values()] == [[6, 1], [6, 1]]
    subset_logits(step, "features")
    assert [encoder.sizes for encoder in model.encoders.values()] == [[6, 1], [6, 1]]


@pytest.mark.parametrize("count", [2, 3])
def test_subsets_equal_whole_passes_of_the_authors(count):
    model = counted_model() if count == 2 else make_model(3)
    batch = make_batch(count, size=6)
    model.train()
    step = make_step(model, batch)
    found = subset_logits(step, "input")
    assert len(found) == 2**count - 1
    model.eval()
    for subset, logits in found.items():
        if len(subset) == count:
            assert logits is step.output.logits
            continue
        inputs = {m: x if m in subset else torch.zeros_like(x) for m, x in batch.inputs.items()}
        assert_close(logits, model(inputs).logits)


def test_passes_carry_gradients_into_every_encoder():
    model = counted_model()
    found = subset_logits(make_step(model, make_batch(size=6)), "input")
    found[frozenset({"m0"})].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoders["m0"].net[0].parameters())
    assert model.encoders["m1"].net[0].bias.grad.abs().sum() > 0  # the encoding of the zeroed input


@pytest.mark.parametrize("zero", ["input", "features"])
def test_a_missing_modality_adds_nothing_in_any_subset(zero):
    model, batch = make_model(3), make_batch(3)
    batch = batch._replace(present={"m1": torch.zeros(8, dtype=torch.bool)})
    found = subset_logits(make_step(model, batch), zero)
    for subset, logits in found.items():
        if "m1" in subset and len(subset) > 1:
            assert_close(logits, found[subset - {"m1"}])


@pytest.mark.parametrize("zero", ["input", "features"])
def test_mixture_of_heads_is_taken_apart_too(zero):
    model = make_model(fusion=Mixture({"m0": 4, "m1": 4}, 3))
    batch = make_batch()
    found = subset_logits(make_step(model, batch), zero)
    inputs = {"m0": batch.inputs["m0"], "m1": torch.zeros_like(batch.inputs["m1"])}
    features = model.encode(batch.inputs)
    features["m1"] = Features(torch.zeros_like(features["m1"].pooled))
    unimodal = {m: head(features[m].pooled) for m, head in model.heads.items()}
    expected = model(inputs).logits if zero == "input" else model.fusion(features, unimodal)
    assert_close(found[frozenset({"m0"})], expected)


class Mixer(Adapter):
    """Each modality's features depend on the other's."""

    def after(self, features):
        one, other = features.values()
        return dict(zip(features, [one._replace(pooled=one.pooled + other.pooled), other], strict=True))


def test_an_adapter_runs_the_whole_model():
    model = make_model()
    model.adapter = Mixer()
    batch = make_batch()
    found = subset_logits(make_step(model, batch), "input")
    inputs = {"m0": torch.zeros_like(batch.inputs["m0"]), "m1": batch.inputs["m1"]}
    assert_close(found[frozenset({"m1"})], model(inputs).logits)


def test_zeroed_kinds_of_input():
    values, mask = torch.ones(3, 5, 2), torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [True] + [False] * 4])
    sound = zeroed(Padded(values, mask), 1)
    assert sound.values.shape == (1, 5, 2)
    assert not sound.values.any()
    assert sound.mask.all()
    text = zeroed(Padded(torch.ones(3, 5, dtype=torch.long), mask), 1)
    assert text.mask.tolist() == [[True] + [False] * 4]
    assert not text.values.any()
    assert torch.equal(zeroed(Padded(values, mask)).mask, mask)
    features = zeroed(Features(values[:, 0], values, mask), 1)
    assert features.pooled.shape == (1, 2)
    assert features.mask.all()
    nested = zeroed({"x": (values, mask)}, 1)
    assert not nested["x"][0].any()
    assert nested["x"][1].all()
    with pytest.raises(InputError, match="list"):
        zeroed(["text"], 1)


@pytest.mark.parametrize("zero", ["input", "features"])
def test_real_kinds_of_encoder(zero):
    encoders = {"image": ImageCNN(1, dim=4), "text": TextBag(16, dim=4), "sound": SpectrogramCNN(8, 1, dim=4)}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 4), 3))
    ids = torch.tensor([[5, 9, 0], [3, 0, 0]])
    sound = Padded(torch.randn(2, 1, 8, 12), torch.tensor([[True] * 12, [True] * 7 + [False] * 5]))
    batch = Batch(
        {"image": torch.randn(2, 1, 16, 16), "text": Padded(ids, ids > 0), "sound": sound}, torch.tensor([0, 1])
    )
    found = subset_logits(forward(model, batch, TASK), zero)
    assert all(torch.isfinite(logits).all() for logits in found.values())
    assert len(found) == 7


@pytest.mark.parametrize("zero", ["input", "features"])
def test_precomputed_features(zero):
    model, batch = make_model(), make_batch()
    features = model.encode(batch.inputs)
    step = make_step(model, batch._replace(inputs={"m0": features["m0"], "m1": batch.inputs["m1"]}))
    found = subset_logits(step, zero)[frozenset({"m1"})]
    gone = features | {"m0": Features(torch.zeros_like(features["m0"].pooled))}
    assert_close(found, model.fusion(gone, {}))


def test_small_encoders_differ_between_modes_by_their_layers_alone():
    x = torch.randn(4, 1, 16, 16)
    for encoder in (ImageCNN(1, norm=False), MLP(16, dim=4)):
        first = encoder(x if isinstance(encoder, ImageCNN) else x[:, 0, 0]).pooled
        with evaluating(encoder):
            assert torch.equal(first, encoder(x if isinstance(encoder, ImageCNN) else x[:, 0, 0]).pooled)


def shapley_loop(values, names):
    """The mean of what each modality adds, over all orders in which they may come."""
    parts = dict.fromkeys(names, 0.0)
    for order in permutations(names):
        seen: frozenset[str] = frozenset()
        for m in order:
            before = values[seen] if seen else 0.0
            seen = seen | {m}
            parts[m] = parts[m] + (values[seen] - before) / math.factorial(len(names))
    return parts


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shares_equal_a_loop_over_orders_and_add_up(count):
    names = [f"m{i}" for i in range(count)]
    subsets = [frozenset(m for i, m in enumerate(names) if code >> i & 1) for code in range(1, 2**count)]
    values = {subset: torch.randn(2, 3, dtype=torch.float64) for subset in subsets}
    found = shapley_parts(values)
    for m, expected in shapley_loop(values, names).items():
        assert_close(found[m], expected)
    assert_close(torch.stack(list(found.values())).sum(0), values[frozenset(names)])


def test_shares_need_every_subset():
    with pytest.raises(ValueError, match="each non-empty subset"):
        shapley_parts({frozenset("av"): exact([1.0]), frozenset("a"): exact([1.0])})


def test_too_many_modalities():
    encoders = {f"m{i}": MLP(2, dim=2) for i in range(7)}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 2), 3), linear_heads(encoders, 3))
    with pytest.raises(InputError, match="7 modalities have 126 subsets"):
        check_zeroing(model)
