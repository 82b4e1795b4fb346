"""The training loop: its order, its selection, and what it refuses."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from polymodal.balancers import MLB, Balancer, MultiLoss
from polymodal.errors import InputError
from polymodal.fit import SCHEDULES, History, fit, train_mode
from polymodal.model import MultimodalModel
from polymodal.run import RunFolder, load_weights
from polymodal.types import Batch, Step
from tests.builders import TASKS, difference, make_batch, make_model, rows, weights

TASK = TASKS["classification"]


def batches(*seeds: int, size: int = 8) -> list[Batch]:
    return [make_batch(seed=seed, size=size) for seed in seeds]


def run_fit(model: MultimodalModel, train: Any = None, valid: Any = None, **options: Any) -> History:
    settings: dict[str, Any] = {"epochs": 2, "balancer": MultiLoss(), "device": "cpu", "show": False} | options
    return fit(model, batches(0, 1) if train is None else train, valid, task=TASK, **settings)


def sgd(model: MultimodalModel, lr: float = 0.1) -> Optimizer:
    return torch.optim.SGD(model.param_groups(lr, ("encoder", "head", "fusion")), lr=lr)


# Order ----------------------------------------------------------------------------------------------------------------


def test_order_inside_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    told: list[str] = []

    def spy(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            told.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, called)

    for owner, name in (
        (Accelerator, "backward"), (Accelerator, "unscale_gradients"), (MLB, "modulate"),
        (Accelerator, "clip_grad_norm_"), (AcceleratedOptimizer, "step"), (AcceleratedOptimizer, "zero_grad"),
    ):  # fmt: skip
        spy(owner, name)
    model = make_model()
    run_fit(model, epochs=1, balancer=MLB(), optimizer=sgd(model), accumulate=2, clip=1.0)
    # Clipping unscales once more, which does nothing the second time.
    order = [name for i, name in enumerate(told) if name != "unscale_gradients" or told[i - 1] == "backward"]
    assert order == ["backward", "backward", "unscale_gradients", "modulate", "clip_grad_norm_", "step", "zero_grad"]


def test_clipping_comes_after_the_coefficients() -> None:
    """A coefficient of 1000 does not get past the clip."""

    class Loud(MultiLoss):
        default_score = "heads"

        def coefficients(self, scores: dict[str, Tensor], task: Any) -> dict[str, Tensor]:
            return {m: torch.tensor(1000.0) for m in scores}

    model = make_model()
    before = weights(model)
    run_fit(
        model, batches(0), epochs=1, balancer=Loud(scope=("encoder", "head")), optimizer=sgd(model, 1.0),
        schedule="constant", clip=0.5,
    )  # fmt: skip
    moved = math.sqrt(sum(float((after - before[name]).square().sum()) for name, after in weights(model).items()))
    assert moved == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize("balancer", [Balancer, MultiLoss, MLB])
def test_unequal_micro_batches_equal_the_whole_batch(balancer: type[Balancer]) -> None:
    whole = make_batch(size=10)
    found = []
    for train, accumulate in (([whole], 1), (rows(whole, 5, 3, 2), 3)):
        model = make_model(heads=balancer is not Balancer)
        run_fit(
            model, train, epochs=3, balancer=balancer(), optimizer=sgd(model), accumulate=accumulate, schedule="constant"
        )  # fmt: skip
        found.append(weights(model))
    assert difference(*found) < 1e-12


def test_a_rest_of_a_window_is_a_step() -> None:
    model = make_model()
    history = run_fit(model, batches(0, 1, 2), accumulate=2, optimizer=sgd(model))
    assert len(history.rows) == 2


# Schedules ------------------------------------------------------------------------------------------------------------


def test_cosine_ends_at_zero_and_counts_optimiser_steps() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = SCHEDULES["cosine"](optimizer, 4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cast(Any, schedule).step()
    assert rates == pytest.approx([2 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
    history = run_fit(make_model(), batches(0, 1, 2), accumulate=2, epochs=2)
    assert [row["lr"] for row in history.rows] == pytest.approx(
        [1e-3, 0.0]
    )  # the default rate of 2e-3, halved half way


def test_constant_schedule() -> None:
    history = run_fit(make_model(), schedule="constant")
    assert [row["lr"] for row in history.rows] == [2e-3, 2e-3]


def test_plateau_schedule_is_stepped_once_an_epoch_by_the_metric() -> None:
    seen: list[float] = []

    class Plateau(ReduceLROnPlateau):
        def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
            seen.append(float(metrics))
            super().step(metrics)

    history = run_fit(
        make_model(), valid=batches(5), epochs=3, metric="accuracy",
        schedule=lambda optimizer, steps: Plateau(optimizer, patience=0, factor=0.1, threshold=10, threshold_mode="abs"),
    )  # fmt: skip
    # Smaller is better for the schedule: accuracy is handed over with a minus.
    assert seen == [-row["valid"]["accuracy"] for row in history.rows]
    assert history.rows[-1]["lr"] == pytest.approx(2e-5)


# Selection ------------------------------------------------------------------------------------------------------------


class Scripted:
    """Replaces `evaluate` by metrics from a list."""

    def __init__(self, *accuracy_and_loss: tuple[float, float]) -> None:
        self.left = list(accuracy_and_loss)

    def __call__(self, model: Any, loader: Any, task: Any) -> Any:
        from polymodal.evaluate import evaluate

        accuracy, loss = self.left.pop(0)
        return evaluate(model, loader, task)._replace(metrics={"accuracy": accuracy, "loss": loss})


@pytest.mark.parametrize(
    ("figures", "select", "metric", "best"),
    [
        ([(0.5, 1.0), (0.9, 2.0), (0.7, 0.1)], "best", None, 2),
        ([(0.5, 1.0), (0.9, 2.0), (0.7, 0.1)], "best", "loss", 3),
        ([(0.5, 1.0), (0.9, 2.0), (0.7, 0.1)], "last", None, 3),
        ([(0.8, 0.5), (0.9, 0.4), (0.9, 0.6)], "best", None, 3),  # of equal ones the latest
    ],
)
def test_selected_epoch(
    figures: list[tuple[float, float]],
    select: str,
    metric: str | None,
    best: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # By its module: `polymodal.fit` is the function.
    monkeypatch.setattr(sys.modules["polymodal.loop"], "evaluate", Scripted(*figures))
    model, kept = make_model(), []
    original = Balancer.end_epoch

    def end_epoch(self: Balancer, scores: dict[str, float]) -> None:
        kept.append(weights(model))
        original(self, scores)

    monkeypatch.setattr(Balancer, "end_epoch", end_epoch)
    run = RunFolder(tmp_path / "run")
    history = run_fit(model, valid=batches(5), epochs=3, select=select, metric=metric, run=run)
    assert history.best_epoch == best
    assert history.best == history.rows[best - 1]["valid"]
    assert difference(weights(model), kept[best - 1]) == 0
    assert difference(load_weights(run.path / "model.safetensors"), kept[best - 1]) == 0


def test_without_validation_the_last_epoch_is_kept() -> None:
    history = run_fit(make_model(), epochs=3)
    assert history.best_epoch == 3
    assert history.best == {}


def test_unknown_metric_is_named() -> None:
    with pytest.raises(InputError, match="metric 'acc' is unknown"):
        run_fit(make_model(), valid=batches(5), metric="acc")


# What is recorded -----------------------------------------------------------------------------------------------------


def test_history_rows(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    history = run_fit(make_model(), valid=batches(5), balancer=MLB(), optimizer=None, run=run)
    written = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    assert written == history.rows
    for number, row in enumerate(history.rows, start=1):
        assert row["epoch"] == number
        assert set(row["unimodal"]) == set(row["scores"]) == set(row["coefficients"]) == {"m0", "m1"}
        assert {"accuracy", "loss"} <= set(row["valid"])
    assert history.rows[1]["train_loss"] < history.rows[0]["train_loss"]


def test_train_loss_is_the_mean_over_steps() -> None:
    losses: list[float] = []

    class Noting(MultiLoss):
        def backward(self, step: Step, run: Any = Tensor.backward) -> Tensor:
            loss = super().backward(step, run)
            losses.append(float(loss))
            return loss

    history = run_fit(make_model(), batches(0, 1, 2), epochs=1, balancer=Noting())
    assert history.rows[0]["train_loss"] == pytest.approx(sum(losses) / 3)


# What is refused, before the first step -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"select": "first"}, "select='first'"),
        ({"schedule": "triangle"}, "schedule 'triangle' is unknown"),
        ({"train": []}, "gives no batch"),
        ({"balancer": Balancer()}, "uni-modal heads that Balancer does not train"),
        ({"trackers": ["wandbb"]}, "tracker 'wandbb' is unknown"),
        ({"device": "cuda"}, "device 'cuda' is not there"),
        ({"device": "cpu", "precision": "fp16"}, "'fp16' needs a graphics card"),
    ],
)
def test_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        run_fit(make_model(), **options)


def test_tracker_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    with pytest.raises(InputError, match=r"tracker 'tensorboard' is not installed.*polymodal\[track\]"):
        run_fit(make_model(), trackers=["tensorboard"])


def test_nothing_to_train() -> None:
    with pytest.raises(InputError, match="no trainable parameter"):
        run_fit(make_model().requires_grad_(False))


# What is not finite ---------------------------------------------------------------------------------------------------


def spoiled(batch: Batch, modality: str) -> Batch:
    return batch._replace(inputs=batch.inputs | {modality: batch.inputs[modality] * math.inf})


class Later:
    """Good batches in the first epoch, and one bad one in the second."""

    def __init__(self, bad: Batch) -> None:
        self.bad, self.epoch = bad, 0

    def __len__(self) -> int:
        return 2

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        first, second = batches(0, 1)
        return iter([first, self.bad if self.epoch else second])


def test_loss_that_is_not_finite_keeps_the_last_good_weights(tmp_path: Path) -> None:
    run, model = RunFolder(tmp_path / "run"), make_model()
    with pytest.raises(InputError) as caught:
        run_fit(model, Later(spoiled(make_batch(seed=1), "m1")), batches(5), run=run)
    message = str(caught.value)
    assert "in step 2 of epoch 2: not finite is the loss of ['fused', 'm1']; the features of ['m1']" in message
    assert f"the weights of epoch 1, the last good ones, are in {run.path / 'model.safetensors'}" in message
    kept = load_weights(run.path / "model.safetensors")
    assert difference(weights(model), kept) == 0
    assert all(bool(torch.isfinite(value).all()) for value in kept.values())


def test_validation_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"after epoch 1 the predictions of 8 of 8 samples .* \['m0'\] are not finite"):
        run_fit(make_model(), valid=[spoiled(make_batch(seed=5), "m0")])


def test_weights_that_are_not_finite_without_validation() -> None:
    model = make_model()
    with pytest.raises(InputError, match="after epoch 1 the weights"):
        run_fit(model, batches(0), optimizer=sgd(model, math.inf), schedule="constant", epochs=1)


# Modes and precision --------------------------------------------------------------------------------------------------


def test_frozen_batchnorm_keeps_its_statistics() -> None:
    frozen, free, plain = nn.BatchNorm1d(3), nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False)
    frozen.requires_grad_(False)
    whole = nn.ModuleList([frozen, free, plain, nn.Dropout()]).eval()
    train_mode(whole)
    assert [one.training for one in whole] == [False, True, True, True]


def test_frozen_batchnorm_keeps_its_statistics_through_fit() -> None:
    model = make_model()
    for m in model.modalities:
        encoder = cast(Any, model.encoders[m])
        encoder.net = nn.Sequential(encoder.net, nn.BatchNorm1d(encoder.dim).double())
    frozen, free = (cast(Any, model.encoders[m]).net[1] for m in ("m0", "m1"))
    frozen.requires_grad_(False)
    run_fit(model, valid=batches(5), select="last")
    assert int(frozen.num_batches_tracked) == 0
    assert bool((frozen.running_mean == 0).all())
    assert int(free.num_batches_tracked) == 4


def test_bf16_trains_on_a_processor() -> None:
    model = make_model().float()
    train = [batch._replace(inputs={m: x.float() for m, x in batch.inputs.items()}) for batch in batches(0, 1, 2)]
    history = run_fit(model, train, train, precision="bf16", epochs=6, balancer=MLB(), optimizer=sgd(model))
    assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    # The next fit of this process has a precision of its own.
    run_fit(make_model())


def test_adam_with_scaled_gradients_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    run_fit(make_model(), balancer=MLB())
    assert "scales gradients, which AdamW hardly notices" in caplog.text


def test_time_limit_ends_after_an_epoch(caplog: pytest.LogCaptureFixture) -> None:
    history = run_fit(make_model(), epochs=5, seconds=0.0)
    assert len(history.rows) == 1
    assert "time limit is reached" in caplog.text
