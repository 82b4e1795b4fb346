"""Methods with extra passes, prototypes, teachers or two gradients: two processes do what one does with the whole batch."""

from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from polymodal.balancers import AGM, MLB, MSLR, OGM, PMR, UMT, MMPareto
from polymodal.distributed import world_size
from polymodal.encoders import MLP
from tests.builders import TASKS, WIDTH, difference, make_batch, make_model, make_step, weights
from tests.distributed import in_two_processes, share

TASK = TASKS["classification"]


def teachers():
    torch.manual_seed(5)
    return {f"m{i}": MLP(3 + i, dim=WIDTH, hidden=[6]).double() for i in range(3)}


METHODS = {
    "agm_input": lambda: AGM(alpha=2.0),
    "agm_features": lambda: AGM(alpha=2.0, zero="features"),
    "agm_prototypes": lambda: AGM(score="prototypes"),
    "pmr_hard": lambda: PMR(alpha=2.0),
    "pmr_soft": lambda: PMR(alpha=2.0, gate="soft", entropy_weight=0.3, fraction=0.7),
    "pmr_shapley": lambda: PMR(score="shapley"),
    "mslr": lambda: MSLR(memory=1),
    "umt": lambda: UMT(teachers()),
    "mmpareto": MMPareto,
    "mlb_shapley": lambda: MLB(score="shapley"),
    "mlb_prototypes": lambda: MLB(score="prototypes"),
    "ogm_shapley": lambda: OGM(score="shapley", param_filter="all"),
}


def train():
    """Weights and buffers of every method after 3 epochs of 4 steps."""
    found = {}
    for name, make in METHODS.items():
        balancer = make()
        model = make_model(3, heads=balancer.needs_heads)
        wrapped: Any = DistributedDataParallel(model) if world_size() > 1 else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        loader = [share(make_batch(3, size=12, seed=seed)) for seed in range(4)]
        # The last of each six rows lacks a modality, and in one batch all do.
        for i, batch in enumerate(loader):
            there = torch.arange(len(batch.target)) % 6 < (0 if i == 3 else 5)
            loader[i] = batch._replace(present={"m1": there})
        balancer.check(model, TASK)
        for _ in range(3):
            balancer.start_epoch(wrapped, loader)
            for batch in loader:
                step = make_step(wrapped, batch, TASK)
                balancer.backward(step)
                balancer.modulate(step)
                optimizer.step()
                optimizer.zero_grad()
            balancer.end_epoch({"m0": 0.9, "m1": 0.4, "m2": 0.6 + 0.1 * int(balancer.epoch)})
        found[name] = weights(model) | {f"balancer.{key}": value for key, value in balancer.state_dict().items()}
    return found


@pytest.fixture(scope="module")
def results():
    return in_two_processes(train)


@pytest.fixture(scope="module")
def alone():
    return train()


@pytest.mark.parametrize("name", METHODS)
def test_replicas_agree(results, name):
    first, second = results
    assert difference(first[name], second[name]) == 0


@pytest.mark.parametrize("name", METHODS)
def test_equals_one_process_with_the_whole_batch(results, alone, name):
    assert difference(results[0][name], alone[name]) < 1e-9
