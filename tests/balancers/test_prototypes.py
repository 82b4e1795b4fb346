"""Prototypes: means of classes, kept where a class is absent, averaged with the old, restored from a state."""

import pytest
import torch
from torch import nn

from polymodal import InputError
from polymodal.balancers import MLB, OGM
from polymodal.balancers.prototypes import PrototypeBank, average_prototypes, prototype_similarities
from polymodal.balancers.scores import SCORES, Prototypes, resolve_score
from polymodal.encoders import Encoder
from polymodal.types import Batch, Features
from tests.builders import TASKS, make_batch, make_model, make_step
from tests.properties import assert_all_finite, assert_close, exact

TASK = TASKS["classification"]


def bank_of(model, loader, **options):
    bank = PrototypeBank(**options)
    bank.check(model, TASK, "test")
    bank.update(model, loader, "test")
    return bank


def means(model, batches, modality, classes=3):
    """Class means, one sample at a time; None where the class is absent."""
    rows: list[list[torch.Tensor]] = [[] for _ in range(classes)]
    for batch in batches:
        pooled = model.encoders[modality](batch.inputs[modality]).pooled.detach()
        there = (batch.present or {}).get(modality)
        for n, y in enumerate(batch.target.tolist()):
            if there is None or there[n]:
                rows[y].append(pooled[n])
    return [torch.stack(one).mean(0) if one else None for one in rows]


def split(bank):
    return dict(zip(["m0", "m1"], bank.prototypes.split(4, 1), strict=True))


def test_similarities_equal_a_loop_and_have_a_gradient_at_distance_zero():
    h, c = torch.randn(5, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    h[0] = c[0]
    h.requires_grad_()
    found = prototype_similarities(h, c)
    sims, rows = found.detach(), h.detach()
    for n in range(5):
        for k in range(3):
            assert float(sims[n, k]) == pytest.approx(-float((rows[n] - c[k]).norm()), abs=2e-6)
    found.sum().backward()
    assert h.grad is not None
    assert_all_finite({"gradient": h.grad})


def test_an_unknown_class_has_no_probability():
    sims = prototype_similarities(
        exact([[1e6, 0.0]]), exact([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]]), torch.tensor([1, 0, 1]) > 0
    )
    assert sims.softmax(-1)[0, 1] == 0


def test_means_over_the_first_batches_and_the_samples_that_have_the_modality():
    model = make_model()
    loader = [make_batch(seed=seed) for seed in range(4)]
    loader[0] = loader[0]._replace(present={"m1": torch.arange(8) < 5})
    found = split(bank_of(model, loader, fraction=0.5))
    for m in ("m0", "m1"):
        for k, expected in enumerate(means(model, loader[:2], m)):
            assert_close(found[m][k], expected)


def test_momentum_starts_at_the_third_time():
    model = make_model()
    loaders = [[make_batch(seed=seed)] for seed in range(4)]
    bank = bank_of(model, loaders[0], momentum=0.25)
    for count, loader in enumerate(loaders[1:], 1):
        old = bank.prototypes.clone()
        bank.update(model, loader, "test")
        new = torch.cat([torch.stack(means(model, loader, m)) for m in ("m0", "m1")], 1)
        assert_close(bank.prototypes, new if count == 1 else average_prototypes(old, new, 0.25))


def test_an_absent_class_keeps_its_prototype():
    model, batch = make_model(), make_batch()
    bank = bank_of(model, [batch], momentum=0.0)
    old = bank.prototypes.clone()
    keep = batch.target != 2
    bank.update(model, [Batch({m: x[keep] + 1 for m, x in batch.inputs.items()}, batch.target[keep])], "test")
    assert torch.equal(bank.prototypes[2], old[2])
    assert not torch.equal(bank.prototypes[0], old[0])
    assert bank.known.all()


def test_a_class_seen_late_is_not_averaged_with_nothing():
    model, batch = make_model(), make_batch()
    keep = batch.target != 2
    few = Batch({m: x[keep] for m, x in batch.inputs.items()}, batch.target[keep])
    bank = bank_of(model, [few], momentum=0.5)
    bank.update(model, [few], "test")
    assert not bank.known[:, 2].any()
    bank.update(model, [batch], "test")
    assert_close(split(bank)["m0"][2], means(model, [batch], "m0")[2])


class WithNorm(Encoder):
    """An encoder with BatchNorm on its features."""

    def __init__(self, inner, norm):
        super().__init__()
        self.dim, self.inner, self.norm = inner.dim, inner, norm

    def forward(self, x):
        return Features(self.norm(self.inner(x).pooled))


def test_modes_are_restored_and_statistics_left_alone():
    model = make_model()
    norm = nn.BatchNorm1d(4).double()
    model.encoders["m0"] = WithNorm(model.encoders["m0"], norm)
    model.train()
    model.encoders["m1"].eval()
    before = [sub.training for sub in model.modules()]
    bank_of(model, [make_batch()])
    assert [sub.training for sub in model.modules()] == before
    assert not norm.state_dict()["running_mean"].any()


def test_a_loader_without_length_and_bad_settings():
    model = make_model()
    with pytest.raises(InputError, match="loader with len"):
        bank_of(model, iter([make_batch()]))
    with pytest.raises(InputError, match="fraction"):
        PrototypeBank(fraction=0.0)
    with pytest.raises(InputError, match="momentum"):
        PrototypeBank(momentum=1.0)


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_other_targets_are_refused(kind):
    model = make_model(task=TASKS[kind])
    with pytest.raises(InputError, match="into exactly one"):
        MLB(score="prototypes").check(model, TASKS[kind])


def test_score_before_its_first_epoch():
    model = make_model(heads=False)
    balancer = OGM(score="prototypes", param_filter="all")
    with pytest.raises(InputError, match="before start_epoch"):
        balancer.start_epoch(model, [make_batch()])
    with pytest.raises(InputError, match="no prototypes yet"):
        balancer.backward(make_step(model, make_batch()))


def test_named_scores_remember_for_themselves():
    one, other = resolve_score("prototypes"), resolve_score("prototypes")
    assert one is not other
    assert isinstance(one, Prototypes)
    template = SCORES["prototypes"]
    assert isinstance(template, Prototypes)
    assert template.bank.prototypes is None


def test_a_fresh_balancer_takes_the_state_before_or_after_its_check():
    model, batch = make_model(), make_batch()
    first = MLB(score="prototypes")
    first.check(model, TASK)
    first.start_epoch(model, [batch])
    step = make_step(model, batch)
    first.backward(step)
    expected = first.modulate(step)
    for check_first in (True, False):
        second = MLB(score="prototypes")
        if check_first:
            second.check(model, TASK)
        second.load_state_dict(first.state_dict())
        second.backward(step := make_step(model, batch))
        for m, k in second.modulate(step).items():
            assert_close(k, float(expected[m]))
    third = MLB(score="prototypes")
    third.load_state_dict(first.state_dict())
    with pytest.raises(InputError, match="loaded prototypes"):
        third.check(make_model(3), TASK)
