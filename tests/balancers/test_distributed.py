"""Every balancer in two gloo processes: replicas stay identical and equal one process with the doubled batch."""

import pytest
import torch

from polymodal.distributed import unwrap
from tests.builders import BALANCERS, TASKS, difference, make_balancer, make_batch, make_model, make_step, weights
from tests.distributed import in_two_processes, replica, share

TASK = TASKS["classification"]
HAVE_COEFFICIENTS = {"AGM", "MLB", "MSLR", "OGM", "OGM_GE", "PMR"}
STEPS, STEPS_AN_EPOCH = 20, 5
# The first process alone lacks modality m1 in the second half of the steps; in one step both do.
PRESENT = torch.tensor([False] * 4 + [True, False, True, True])
CASES: dict[str, tuple[str, dict[str, str], bool]] = {
    f"{name}{'/missing' if missing else ''}": (name, {}, missing) for name in BALANCERS for missing in (False, True)
}
CASES["MLB/update"] = ("MLB", {"apply_to": "update"}, False)
CASES["MLB/update/missing"] = ("MLB", {"apply_to": "update"}, True)


def batch_of(number, missing):
    batch = make_batch(seed=number)
    if missing and number >= STEPS // 2:
        batch = batch._replace(present={"m1": PRESENT & (number != STEPS - 3)})
    return share(batch)


def train(name, options, missing):
    """Weights after 20 steps, and each step's loss and coefficients."""
    model = make_model(heads=BALANCERS[name].needs_heads)
    balancer = make_balancer(name, model, **options)
    wrapped = unwrap(replica(model)) if balancer.reduces_gradients else replica(model)
    optimizer = torch.optim.SGD(model.param_groups(0.02), momentum=0.9)
    balancer.attach(optimizer)
    balancer.check(model, TASK)
    seen: dict[str, torch.Tensor] = {}
    for number in range(STEPS):
        if number % STEPS_AN_EPOCH == 0:
            balancer.start_epoch(model, [batch_of(i, missing) for i in range(STEPS_AN_EPOCH)])
        step = make_step(wrapped, batch_of(number, missing), TASK)
        balancer.backward(step)
        balancer.modulate(step)
        optimizer.step()
        optimizer.zero_grad()
        seen |= {f"{number}/{m}": k.clone() for m, k in balancer.last_coefficients.items()}
        if number % STEPS_AN_EPOCH == STEPS_AN_EPOCH - 1:
            balancer.end_epoch({"m0": 0.9 - 0.01 * number, "m1": 0.3 + 0.02 * number})
    return weights(model), seen


def train_all():
    return {case: train(*arguments) for case, arguments in CASES.items()}


@pytest.fixture(scope="module")
def runs():
    return in_two_processes(train_all)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_with_the_doubled_batch(case, runs):
    (first, coefficients), (second, others) = runs[0][case], runs[1][case]
    assert difference(first, second) == 0
    assert coefficients == others
    alone, expected = train(*CASES[case])
    assert difference(first, alone) < 1e-9
    assert coefficients.keys() == expected.keys()
    assert all(abs(coefficients[key] - expected[key]) < 1e-9 for key in expected)
    if case.split("/")[0] in HAVE_COEFFICIENTS:
        assert any(abs(coefficients[f"{n}/m0"] - coefficients[f"{n}/m1"]) > 1e-2 for n in range(STEPS // 2))
        assert any(abs(k - 1) > 1e-2 for k in coefficients.values())
    else:
        assert not coefficients


@pytest.mark.parametrize("name", [name for name in BALANCERS if name not in ("Joint", "MultiLoss")])
def test_every_balancer_does_something(name, runs):
    plain = "MultiLoss" if BALANCERS[name].needs_heads else "Joint"
    own, other = runs[0][name][0], runs[0][plain][0]
    assert max(float((own[key] - other[key]).abs().max()) for key in other) > 1e-6
