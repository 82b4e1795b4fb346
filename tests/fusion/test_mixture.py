"""Mixture: averages of probabilities, stable at any logit."""

import math

import pytest
import torch
from torch.nn import functional as F

from polymodal import InputError
from polymodal.fusion import Mixture
from polymodal.fusion.mixture import log_mixture, logit_mixture
from polymodal.types import Features

KINDS = ["categorical", "bernoulli", "mean"]


def logits_of(*values):
    return {f"m{i}": torch.tensor(value, dtype=torch.float64) for i, value in enumerate(values)}


def random_logits(count, rows=5, classes=3):
    return {f"m{i}": torch.randn(rows, classes, dtype=torch.float64) for i in range(count)}


def mixture(logits, **options):
    return Mixture(dict.fromkeys(logits, 1), 3, **options)


def absent(**present):
    return {m: Features(torch.zeros(len(one), 1), present=torch.tensor(one)) for m, one in present.items()}


def loop(logits, weights, squash):
    """sum_m w_m P_m, one number at a time."""
    first = next(iter(logits.values()))
    found = torch.zeros_like(first)
    for m, z in logits.items():
        found += weights[m] * squash(z)
    return found


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_probabilities_are_averaged(count, weighted):
    logits = random_logits(count)
    weights = {m: (i + 1) / (count * (count + 1) / 2) for i, m in enumerate(logits)} if weighted else None
    shares = weights or dict.fromkeys(logits, 1 / count)
    found = mixture(logits, weights=weights)({}, logits).softmax(-1)
    torch.testing.assert_close(found, loop(logits, shares, lambda z: z.softmax(-1)), rtol=0, atol=1e-12)
    found = mixture(logits, weights=weights, kind="bernoulli")({}, logits).sigmoid()
    torch.testing.assert_close(found, loop(logits, shares, torch.sigmoid), rtol=0, atol=1e-12)
    for options in ({"kind": "mean"}, {"combine": "logit"}, {"combine": "logit", "kind": "bernoulli"}):
        found = mixture(logits, weights=weights, **options)({}, logits)
        torch.testing.assert_close(found, loop(logits, shares, lambda z: z), rtol=0, atol=1e-12)


def test_cross_entropy_is_the_loss_of_the_paper():
    logits, target = random_logits(3), torch.tensor([0, 1, 2, 1, 0])
    found = F.cross_entropy(mixture(logits)({}, logits), target)
    expected = 0.0
    for n, y in enumerate(target.tolist()):
        expected -= math.log(sum(float(z[n].softmax(-1)[y]) for z in logits.values()) / 3) / len(target)
    assert float(found) == pytest.approx(expected, abs=1e-12)


def test_the_modality_that_is_right_takes_the_gradient():
    logits = {m: z.requires_grad_() for m, z in logits_of([[8.0, 0.0, 0.0]], [[0.0, 8.0, 0.0]]).items()}
    F.cross_entropy(mixture(logits)({}, logits), torch.tensor([0])).backward()
    gamma = {m: float(z.softmax(-1)[0, 0].detach()) for m, z in logits.items()}
    right = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    for m, z in logits.items():
        share = gamma[m] / sum(gamma.values())
        torch.testing.assert_close(z.grad, -share * (right - z.detach().softmax(-1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [100.0, 1e4])
def test_extreme_logits_keep_their_gradient(kind, size):
    logits = logits_of([[-size, size, 0.0]], [[-size, 0.0, size]])
    logits = {m: z.requires_grad_() for m, z in logits.items()}
    fused = mixture(logits, kind=kind)({}, logits)
    assert torch.isfinite(fused).all()
    loss = (
        F.cross_entropy(fused, torch.tensor([0])) if kind == "categorical"
        else F.binary_cross_entropy_with_logits(fused, torch.ones_like(fused)) if kind == "bernoulli"
        else fused.sum()
    )  # fmt: skip
    loss.backward()
    for z in logits.values():
        assert torch.isfinite(z.grad).all()
        assert z.grad[0, 0].abs() > 0.1


def test_stable_in_single_precision():
    z = torch.tensor([[[-200.0, 200.0]], [[-210.0, 210.0]]])
    weights = torch.full((2, 1), 0.5).log()
    assert float(log_mixture(z, weights)[0, 0]) == pytest.approx(-400 - math.log(2), rel=1e-6)
    assert float(logit_mixture(z, weights)[0, 0]) == pytest.approx(-200 - math.log(2), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("combine", ["prob", "logit"])
@pytest.mark.parametrize("weights", [None, {"m0": 0.2, "m1": 0.3, "m2": 0.5}])
def test_absent_modalities_hand_their_weight_to_the_others(kind, combine, weights):
    logits = random_logits(3, rows=2)
    fusion = mixture(logits, kind=kind, combine=combine, weights=weights)
    features = absent(m1=[False, True], m2=[False, True]) | {"m0": Features(torch.zeros(2, 1))}
    found, full = fusion(features, logits), fusion({}, logits)
    torch.testing.assert_close(found[1], full[1], rtol=0, atol=1e-12)
    alone = mixture({"m0": logits["m0"]}, kind=kind, combine=combine)({}, {"m0": logits["m0"]})
    torch.testing.assert_close(found[0], alone[0], rtol=0, atol=1e-12)
    features["m2"] = Features(torch.zeros(2, 1))
    two = {m: logits[m] for m in ("m0", "m2")}
    shares = None if weights is None else {"m0": 2 / 7, "m2": 5 / 7}
    expected = mixture(two, kind=kind, combine=combine, weights=shares)({}, two)
    torch.testing.assert_close(fusion(features, logits)[0], expected[0], rtol=0, atol=1e-12)


def test_a_sample_that_lacks_all_falls_back_to_all():
    logits = random_logits(2, rows=1)
    features = absent(m0=[False], m1=[False])
    torch.testing.assert_close(mixture(logits)(features, logits), mixture(logits)({}, logits))


def test_only_modalities_of_weight_zero_there():
    logits = {m: z.requires_grad_() for m, z in random_logits(2, rows=2).items()}
    fusion = mixture(logits, weights={"m0": 1.0, "m1": 0.0})
    fused = fusion(absent(m0=[True, False], m1=[True, True]), logits)
    assert torch.isfinite(fused).all()
    F.cross_entropy(fused, torch.tensor([0, 1])).backward()
    assert all(torch.isfinite(z.grad).all() for z in logits.values())


def test_bad_settings():
    two = {"a": 1, "v": 1}
    for weights in ({"a": 0.5, "v": 0.6}, {"a": 1.5, "v": -0.5}, {"a": 1.0}, {"a": 0.5, "t": 0.5}):
        with pytest.raises(InputError, match="weights"):
            Mixture(two, 2, weights=weights)
    with pytest.raises(InputError, match="combine='mean'"):
        Mixture(two, 2, combine="mean")
    with pytest.raises(InputError, match="kind='labels'"):
        Mixture(two, 2, kind="labels")
