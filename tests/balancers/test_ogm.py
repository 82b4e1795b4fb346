"""OGM and OGM-GE: rule, filter, noise."""

# mypy: disable-error-code="operator"

import math

import pytest
import torch

from polymodal import InputError
from polymodal.balancers import OGM, OGM_GE
from polymodal.balancers.ogm import ogm_coefficients, ogm_noise_std, ogm_ratios
from polymodal.encoders import ImageCNN
from polymodal.fusion import Concat, Mixture, Sum
from polymodal.model import MultimodalModel
from polymodal.types import Batch
from tests.builders import TASKS, WIDTH, difference, grads, make_model, make_step, names
from tests.properties import (
    assert_close,
    assert_equals_loop,
    assert_finite_on_extreme_logits,
    assert_only_moves,
    assert_permuting_modalities_permutes_coefficients,
    assert_scaling_all_scores_changes_nothing,
    assert_works_on_a_batch_of_one,
    backward,
    exact,
)

TASK = TASKS["classification"]
ALPHAS = [0.1, 0.3, 1.0]


def rule(alpha, errors=False):
    return lambda scores: ogm_coefficients(ogm_ratios(scores, errors=errors), alpha)


def loop(alpha, errors=False):
    """METHODS 1.6: the authors' two branches for two modalities, ours for more."""

    def coefficients(scores):
        ratios = []
        for m, own in enumerate(scores):
            others = [score for j, score in enumerate(scores) if j != m]
            mean = sum(others) / len(others)
            ratios.append(mean / own if errors else own / mean)
        if len(scores) == 2:
            rho_a, rho_v = ratios
            if rho_v > 1:
                return [1.0, 1 - math.tanh(alpha * rho_v)]
            return [1 - math.tanh(alpha * rho_a), 1.0]
        return [1 - math.tanh(alpha * rho) if rho > 1 else 1.0 for rho in ratios]

    return coefficients


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("errors", [False, True])
def test_rule(alpha, errors):
    assert_equals_loop(rule(alpha, errors), loop(alpha, errors))
    assert_permuting_modalities_permutes_coefficients(rule(alpha, errors))
    assert_scaling_all_scores_changes_nothing(rule(alpha, errors))


def test_a_tie_slows_the_first_of_two_and_none_of_more():
    assert_close(rule(0.3)(exact([0.4, 0.4])), [1 - math.tanh(0.3), 1.0])
    assert_close(rule(0.3)(exact([0.4, 0.4, 0.4])), [1.0, 1.0, 1.0])


def test_leading_modality_is_slowed_for_every_kind_of_task():
    for name, task in TASKS.items():
        k = OGM().coefficients({"m0": exact(0.9), "m1": exact(0.3)}, task)
        leads = "m1" if name == "regression" else "m0"
        assert k[leads] < 1
        assert k["m0" if leads == "m1" else "m1"] == 1


@pytest.mark.parametrize("fusion", [Concat, Sum])
def test_scores_are_of_the_split_head(fusion):
    model = make_model(3, fusion=fusion(dict.fromkeys(names(3), WIDTH), 3), heads=False)
    balancer = OGM(param_filter="all")
    step, _ = backward(balancer, model)
    balancer.modulate(step)
    shares = model.fusion.parts(step.output.features)
    assert_close(torch.stack(list(shares.values())).sum(0), step.output.logits)
    for m, share in shares.items():
        assert_close(balancer.last_scores[m], float(TASK.score(share.detach(), step.batch.target).mean()))


def test_scores_may_come_from_heads():
    model, balancer = make_model(), OGM(score="heads", param_filter="all")
    step, _ = backward(balancer, model)
    balancer.modulate(step)
    assert_close(
        balancer.last_scores["m1"], float(TASK.score(step.output.unimodal["m1"].detach(), step.batch.target).mean())
    )


# Filter ---------------------------------------------------------------------------------------------------------------


def test_only_encoders_move():
    assert_only_moves(OGM(param_filter="all"), ("encoder",))


def convolutional():
    encoders = {m: ImageCNN(1, dim=4, width=2, depth=2, grid=2) for m in ("a", "v")}
    return MultimodalModel(encoders, Concat({"a": 4, "v": 4}, 3)).double()


@pytest.mark.parametrize(("kind", "dims"), [("conv", {4}), ("weights", {2, 3, 4}), ("all", {1, 2, 3, 4})])
def test_filter_touches_what_it_says(kind, dims):
    model, balancer = convolutional(), OGM(1.0, kind)
    images = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    step = make_step(model, Batch({"a": images, "v": images.flip(0)}, torch.arange(6) % 3))
    balancer.backward(step)
    before = grads(model)
    k = balancer.modulate(step)
    slow = min(k, key=lambda m: float(k[m]))
    assert k[slow] < 1
    for name, p in model.named_parameters():
        moved = name.startswith(f"encoders.{slow}.") and p.ndim in dims
        assert torch.equal(p.grad, before[name] * k[slow] if moved else before[name]), name


def test_what_cannot_work_is_told_before_the_first_step():
    with pytest.raises(InputError, match=r"'m0' with param_filter='conv'.*try 'weights' or 'all'"):
        backward(OGM(), make_model(heads=False))
    with pytest.raises(InputError, match=r"only \['m0'\]"):
        backward(OGM(param_filter="all"), make_model(1))
    mixture = make_model(fusion=Mixture(dict.fromkeys(names(2), WIDTH), 3))
    with pytest.raises(InputError, match=r"Mixture does not.*'concat'"):
        backward(OGM(param_filter="all"), mixture)
    with pytest.raises(InputError, match="score 'heads'"):
        backward(OGM(param_filter="all", score="heads"), make_model(heads=False))


def test_bad_settings():
    for method in (OGM, OGM_GE):
        with pytest.raises(InputError, match=f"{method.__name__}: alpha=0"):
            method(0.0)
        with pytest.raises(InputError, match="'conf'"):
            method(param_filter="conf")
    with pytest.raises(InputError, match="use 'ogm'"):
        OGM_GE(apply_to="update")


def test_stops_after_its_last_epoch():
    balancer, model = OGM(param_filter="all", epochs=(0, 1)), make_model(heads=False)
    seen = []
    for _ in range(3):
        balancer.start_epoch(model, [])
        step, _ = backward(balancer, model)
        seen.append(bool(balancer.modulate(step)))
    assert seen == [True, True, False]
    assert OGM().epochs == (0, 50)


# Noise ----------------------------------------------------------------------------------------------------------------


def noisy(balancer, model=None):
    model = model or make_model(heads=False)
    step, _ = backward(balancer, model)
    balancer.modulate(step)
    return grads(model)


def test_deviation_of_the_noise():
    grad = exact([[0.1, -0.2], [0.3, 0.4]])
    values = grad.flatten().tolist()
    mean = sum(values) / 4
    assert float(ogm_noise_std(grad)) == pytest.approx(
        (sum((v - mean) ** 2 for v in values) / 3) ** 0.5 + 1e-8, abs=1e-15
    )
    assert ogm_noise_std(exact([3.0])) == 0


def test_noise_has_the_gradients_deviation_and_mean_zero():
    grad = torch.randn(400, 300, dtype=torch.float64) * 0.01
    changed = grad.clone()
    OGM_GE(seed=5).rescale(changed, exact(0.4))
    noise = changed - 0.4 * grad
    assert float(noise.std() / grad.std()) == pytest.approx(1, abs=0.01)
    assert abs(float(noise.mean())) < 5 * float(grad.std()) / grad.numel() ** 0.5
    assert abs(float(torch.corrcoef(torch.stack([noise.flatten(), grad.flatten()]))[0, 1])) < 0.015


def test_both_modalities_get_noise_and_one_element_gets_none():
    model = make_model(heads=False)
    plain = noisy(OGM(param_filter="all"))
    found = noisy(OGM_GE(param_filter="all"), model)
    for name, grad in found.items():
        assert torch.equal(grad, plain[name]) != name.startswith("encoders"), name
    single = exact([2.0])
    OGM_GE().rescale(single, exact(0.5))
    assert_close(single, [1.0])


def test_noise_is_seeded_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    OGM_GE().rescale(torch.ones(3, dtype=torch.float64), exact(1.0))
    assert torch.equal(state, torch.get_rng_state())
    same = [noisy(OGM_GE(param_filter="all", seed=7)) for _ in range(2)]
    assert difference(*same) == 0
    assert difference(same[0], noisy(OGM_GE(param_filter="all", seed=8))) > 1e-3


def test_noise_differs_between_steps_and_resumes():
    balancer = OGM_GE(param_filter="all", seed=7)
    first = noisy(balancer)
    saved = {name: value.clone() for name, value in balancer.state_dict().items()}
    second = noisy(balancer)
    assert difference(first, second) > 1e-3
    resumed = OGM_GE(param_filter="all", seed=99)
    resumed.load_state_dict(saved)
    assert difference(second, noisy(resumed)) == 0


@pytest.mark.parametrize("method", [OGM, OGM_GE])
def test_shared_properties(method):
    assert_finite_on_extreme_logits(method(param_filter="all"))
    assert_works_on_a_batch_of_one(method(param_filter="all"))
