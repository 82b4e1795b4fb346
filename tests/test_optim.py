"""BertAdam, the optimiser of each name, and the schedules."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from polymodal.config import OptimizerConfig, load_config, of_stage
from polymodal.errors import InputError
from polymodal.fit import SCHEDULES, stepwise
from polymodal.optim import BertAdam, make_optimizer


def test_bertadam_by_hand() -> None:
    p = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = BertAdam([p], lr=0.1, weight_decay=0.01, max_norm=1.0)
    m = v = torch.zeros(2, dtype=torch.float64)
    expected = p.detach().clone()
    for g in (torch.tensor([3.0, 4.0]), torch.tensor([0.3, -0.1])):
        p.grad = g.double()
        optimizer.step()
        g = g.double() * min(1, 1 / (float(g.norm()) + 1e-6))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        expected = expected - 0.1 * (m / (v.sqrt() + 1e-6) + 0.01 * expected)
        torch.testing.assert_close(p.detach(), expected, atol=1e-6, rtol=0)


def test_bertadam_resumes_and_refuses() -> None:
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    one, two = (BertAdam([w], lr=0.01) for w in weights)
    for step in range(4):
        if step == 2:
            two.load_state_dict(copy.deepcopy(one.state_dict()))
            weights[1].data.copy_(weights[0].data)
        for w, optimizer in zip(weights, (one, two), strict=True):
            w.grad = torch.full((3,), step + 1.0)
            if step < 2 and optimizer is two:
                continue
            optimizer.step()
    assert torch.equal(weights[0], weights[1])
    with pytest.raises(InputError, match=r"lr=0.*eps are above 0"):
        BertAdam([nn.Parameter(torch.ones(1))], lr=0)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "bertadam"])
def test_optimiser_of_each_name(name: str) -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = make_optimizer([{"params": [p], "lr": 0.5}], OptimizerConfig.model_validate({"name": name}))
    assert type(optimizer).__name__.lower() == name
    assert optimizer.param_groups[0]["weight_decay"] == 1e-4
    p.grad = torch.ones(2)
    optimizer.step()
    assert bool((p < 1).all())


def rates(schedule: str, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = SCHEDULES[schedule](optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_linear_warms_up_and_falls() -> None:
    found = rates("linear", 100)
    assert found[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(found) == found[9] == found[10] == 1
    assert found[55] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(1 / 90)
    assert rates("linear", 1) == [1.0]


def test_steps_after_every_so_many_epochs_and_like_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    ours, torchs = stepwise(3, 0.5, epochs=8)(optimizer, 8 * 7), torch.optim.lr_scheduler.StepLR(other, 3, 0.5)
    for _ in range(8):
        for _ in range(7):
            assert optimizer.param_groups[0]["lr"] == pytest.approx(other.param_groups[0]["lr"])
            optimizer.step()
            ours.step()
        other.step()
        torchs.step()
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_plateau_halves_after_two_epochs_without_gain() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler: Any = SCHEDULES["plateau"](optimizer, 10)
    found = []
    for error in (0.5, 0.4, 0.4, 0.41, 0.3, 0.3, 0.3):
        scheduler.step(error)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_a_stage_has_settings_of_its_own() -> None:
    stages = {"unimodal_*": {"optimizer": {"lr": 1e-4}}, "unimodal_text": {"train": {"epochs": 3}}}
    config = load_config({"label": "y", "stages": stages}, ["stages.joint.train.schedule=plateau"])
    text = of_stage(config, "unimodal_text")
    assert (text.optimizer.lr, text.train.epochs) == (1e-4, 3)
    assert of_stage(config, "unimodal_audio").train.epochs == config.train.epochs
    assert of_stage(config, "joint").train.schedule == "plateau"
    assert math.isclose(of_stage(config, "mmlora").optimizer.lr, config.optimizer.lr)
    with pytest.raises(InputError, match=r"unknown key 'stages.joint.train.epoch'; did you mean 'epochs'\?"):
        load_config({"label": "y", "stages": {"joint": {"train": {"epoch": 1}}}})
