"""The one training loop."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from polymodal.balancers import Balancer
from polymodal.balancers.collapse import chance_score, collapse_notes
from polymodal.checkpointing import checkpointed
from polymodal.compiling import compiled
from polymodal.distributed import gather_objects, rank
from polymodal.errors import InputError
from polymodal.loop import History, Loop
from polymodal.model import MultimodalModel, forward, totals
from polymodal.progress import Progress
from polymodal.run import RunFolder, logger
from polymodal.sharded import check_sharded, sharded
from polymodal.tasks import Task
from polymodal.types import Batch, Step, move

__all__ = ["SCHEDULES", "History", "Observer", "Schedule", "Sized", "fit", "stepwise"]

Schedule = Callable[[Optimizer, int], LRScheduler | ReduceLROnPlateau]


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """The rate falls from its start to 0 along half a cosine over all optimiser steps."""
    return LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step / max(steps, 1), 1))))


def constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    """The rate stays as it is."""
    return LambdaLR(optimizer, lambda step: 1.0)


def linear(optimizer: Optimizer, steps: int) -> LRScheduler:
    """The rate rises from 0 over the first tenth of all optimiser steps, then falls to 0."""
    warm = max(steps // 10, 1)
    return LambdaLR(optimizer, lambda step: min((step + 1) / warm, max(steps - step, 0) / max(steps - warm, 1), 1))


def plateau(optimizer: Optimizer, steps: int) -> ReduceLROnPlateau:
    """The rate is halved after two epochs without gain on validation."""
    return ReduceLROnPlateau(optimizer, mode="min", factor=0.5, patience=1, threshold=0)


def stepwise(every: int, factor: float, epochs: int) -> Schedule:
    """The schedule whose rate is multiplied by `factor` after every so many of the `epochs`, as StepLR does.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> scheduler = stepwise(2, 0.1, epochs=5)(torch.optim.SGD([weight], lr=1.0), steps=10)
        >>> scheduler.lr_lambdas[0](3), scheduler.lr_lambdas[0](4), round(scheduler.lr_lambdas[0](9), 6)
        (1.0, 0.1, 0.01)
    """
    return lambda optimizer, steps: LambdaLR(
        optimizer, lambda step: factor ** (step * epochs // max(steps, 1) // every)
    )


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "constant": constant, "linear": linear, "plateau": plateau}


class Sized(Protocol):
    """A loader: batches, and how many."""

    def __iter__(self) -> Iterator[Batch]: ...
    def __len__(self) -> int: ...


class Observer(Protocol):
    """Watches training, for example `polymodal.analysis.learning.Learning`."""

    def __call__(self, step: Step) -> None:
        """Called in each optimiser step before the balancer changes the gradients."""

    def end_epoch(self) -> Mapping[str, Any]:
        """Called after each epoch's last step; plain values, which join the history as "learning"."""


def fit(
    model: MultimodalModel,
    train: Sized,
    valid: Iterable[Batch] | None,
    *,
    task: Task,
    epochs: int,
    balancer: Balancer | None = None,
    optimizer: Optimizer | None = None,
    schedule: str | Schedule = "cosine",
    clip: float | None = None,
    precision: str | None = None,
    accumulate: int = 1,
    checkpointing: bool = False,
    compile: bool = False,
    shard: bool = False,
    select: str = "best",
    metric: str | None = None,
    device: str | None = None,
    checkpoint_every: int | None = None,
    trackers: Sequence[str] = (),
    seconds: float | None = None,
    run: RunFolder | None = None,
    show: bool | None = None,
    observe: Observer | None = None,
) -> History:
    """Train a model; on return it holds the weights of the selected epoch.

    The order inside a step is fixed: backward over all micro-batches, unscale, modulate, clip, step.

    Args:
        train: gives batches and their number; `set_epoch(epoch)` and `skip(batches)` are called where it has them.
        valid: batches of the validation split, read after each epoch; None selects the last epoch.
        task: what is trained for.
        epochs: passes over `train`.
        balancer: joint training where None.
        optimizer: AdamW, rate 2e-3, decoupled decay 1e-4 over `model.param_groups` where None.
        schedule: a name of `SCHEDULES`, or a function of the optimiser and the number of its steps; one that returns
            `ReduceLROnPlateau` is stepped by the validation metric, once an epoch.
        clip: largest norm of the gradient.
        precision: "bf16" or "fp16" for mixed precision.
        accumulate: micro-batches an optimiser step.
        checkpointing: encoders keep the inputs of their layers alone and compute the rest again, see `checkpointed`.
        compile: encoders and fusion run through torch.compile, see `compiled`.
        shard: encoders and fusion are cut over the processes (FSDP2), see `sharded`; each process keeps the given model on
            its processor meanwhile, and evaluation gathers the whole model on every device.
        select: "best" epoch by `metric` on `valid` (of equal ones the latest), or the "last".
        metric: a name that `task.metrics` gives.
        device: "cpu" keeps off accelerators; otherwise accelerate chooses.
        checkpoint_every: also write a resume point every so many optimiser steps, not only after each epoch.
        trackers: names of accelerate's trackers, e.g. "tensorboard".
        seconds: training ends after the epoch in which this time is over.
        run: folder for weights, history and resume points; an earlier attempt found there is gone on with.
        show: force the progress bar on or off; by default it shows on a terminal.
        observe: sees each optimiser step before the balancer changes its gradients.

    Raises:
        InputError: what makes no sense before the first step, and a loss that is not finite (naming the term; the weights
            of the last good epoch stay).
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    began = time.perf_counter()
    if epochs < 1 or accumulate < 1:
        raise InputError(f"epochs={epochs}, accumulate={accumulate}; both must be 1 or more")
    if select not in ("best", "last"):
        raise InputError(f"select={select!r}; it is 'best' or 'last'")
    if isinstance(schedule, str) and schedule not in SCHEDULES:
        raise InputError(f"schedule {schedule!r} is unknown; there are {sorted(SCHEDULES)}")
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("the model has no trainable parameter; unfreeze an encoder or add a head")
    if schedule == "plateau" and valid is None:
        raise InputError("schedule 'plateau' follows the validation split; give one, or choose another schedule")
    if len(train) == 0:
        raise InputError("the training split gives no batch; it needs one sample at least")
    _check_trackers(trackers)
    AcceleratorState._reset_state()  # an earlier fit of this process may have used another precision
    folder = None if run is None else str(run.path)
    accelerator = Accelerator(
        mixed_precision=precision or "no",
        cpu=device == "cpu",
        log_with=list(trackers) or None,
        project_dir=folder,
    )
    if device is not None and accelerator.device.type != device:
        raise InputError(f"device {device!r} is not there, accelerate found {accelerator.device.type!r}; leave it out")
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise InputError("precision 'fp16' needs a graphics card; on a processor use 'bf16' or leave it out")
    if trackers:
        accelerator.init_trackers("polymodal")
    balancer = balancer or Balancer()
    balancer.check(model, task)
    _check_heads(model, balancer)
    if shard:
        check_sharded(balancer, precision, observe is not None)
    with ExitStack() as switches:
        given, model = model, copy.deepcopy(model) if shard else model.to(accelerator.device)
        balancer.to(accelerator.device)
        if compile:
            switches.enter_context(compiled(model, layers=checkpointing))
        if checkpointing:
            switches.enter_context(checkpointed(model.encoders.values()))
        if shard:
            switches.enter_context(sharded(model, given, optimizer, accelerator.device))
            balancer.check(model, task)  # it is another model now
        if optimizer is None:
            groups = model.param_groups(2e-3, balancer.scope or ("encoder", "head", "fusion"))
            optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            balancer.attach(optimizer)
        for one in caught:
            logger.warning("%s", one.message)
        if shard:  # mixed precision alone: DDP is for models that are whole
            wrapped, prepared = (
                accelerator.prepare_model(model, False, evaluation_mode=True),
                accelerator.prepare(optimizer),
            )
        else:
            wrapped, prepared = accelerator.prepare(model, optimizer)
        windows = math.ceil(len(train) / accumulate)
        make = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
        scheduler = make(optimizer, windows * epochs)
        loop = Loop(
            model, optimizer, scheduler, balancer, accelerator, task, metric or task.default_metric, select, run
        )
        loop.resume()
        with Progress(
            "training", windows * epochs, done=loop.epoch * windows + loop.done, show=show and rank() == 0
        ) as bar:
            while loop.epoch < epochs:
                loop.restore_random()  # before anything that may draw from it
                if hasattr(train, "set_epoch"):
                    train.set_epoch(loop.epoch)
                if loop.done == 0:
                    balancer.start_epoch(cast(Any, model), train)
                batches = _from(train, loop.done * accumulate)
                train_mode(model)
                for window in _windows(batches, accumulate):
                    window = [move(batch, accelerator.device, non_blocking=True) for batch in window]
                    sums = totals(window, task, model.modalities)
                    for i, batch in enumerate(window):
                        alone = i + 1 < len(window) or balancer.reduces_gradients
                        with accelerator.no_sync(wrapped) if alone else nullcontext():
                            with accelerator.autocast():
                                step = forward(wrapped, batch, task, window=sums)
                            loss = balancer.backward(step, accelerator.backward)
                        loop.see(step, loss, sums)
                    accelerator.unscale_gradients(prepared)
                    if observe is not None:
                        observe(step)
                    balancer.modulate(step)
                    if clip is not None:
                        accelerator.clip_grad_norm_(model.parameters(), clip)
                    prepared.step()
                    if not isinstance(scheduler, ReduceLROnPlateau):
                        scheduler.step()
                    prepared.zero_grad()
                    loop.count()
                    bar.advance()
                    if checkpoint_every and loop.done % checkpoint_every == 0 and loop.done < windows:
                        loop.checkpoint()
                row = loop.finish_epoch(valid, {} if observe is None else {"learning": observe.end_epoch()})
                bar.note(_note(row))
                logger.info("epoch %d of %d: %s", loop.epoch, epochs, _note(row))
                for note in collapse_notes(loop.rows, balancer.bounds(), chance_score(task, balancer.score)):
                    logger.warning("%s", note)
                accelerator.log({k: v for k, v in row["valid"].items()} | {"train_loss": row["train_loss"]}, loop.epoch)
                if seconds is not None and _anyone(time.perf_counter() - began > seconds):
                    logger.warning("the time limit is reached: training stops after epoch %d of %d", loop.epoch, epochs)
                    break
        if trackers:
            accelerator.end_training()
        return loop.close()


def _anyone(mine: bool) -> bool:
    """Whether it holds on any process, so that all decide alike."""
    return any(gather_objects(mine))


def train_mode(model: nn.Module) -> None:
    """`model.train()`, but BatchNorm whose parameters are frozen keeps its statistics too."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            own = list(module.parameters(recurse=False))
            if own and not any(p.requires_grad for p in own):
                module.eval()


def _check_trackers(trackers: Sequence[str]) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    there = sorted(str(one.value) for one in get_available_trackers())
    for name in trackers:
        if name not in there:
            known = "is not installed" if name in LOGGER_TYPE_TO_CLASS else "is unknown"
            raise InputError(
                f"tracker {name!r} {known}; there are {there or 'none'} "
                "(pip install 'polymodal[track]' brings tensorboard and wandb)"
            )


def _check_heads(model: MultimodalModel, balancer: Balancer) -> None:
    if model.heads and not (balancer.needs_heads or getattr(model.fusion, "needs_heads", False)):
        raise InputError(
            f"the model has uni-modal heads that {type(balancer).__name__} does not train; build it without heads, or use "
            "balancer 'multi_loss' or 'mlb'"
        )


def _from(train: Sized, skipped: int) -> Iterator[Batch]:
    """Batches of the epoch, from number `skipped` on."""
    if skipped and hasattr(train, "skip"):
        train.skip(skipped)
        return iter(train)
    batches = iter(train)
    for _ in range(skipped):
        next(batches)
    return batches


def _windows(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    window: list[Batch] = []
    for batch in batches:
        window.append(batch)
        if len(window) == size:
            yield window
            window = []
    if window:
        yield window


def _note(row: dict[str, Any]) -> str:
    """Loss, validation metrics, and each modality's score and coefficient, in one line."""
    shown = [f"loss {row['train_loss']:.3f}"]
    shown += [f"{name} {value:.3f}" for name, value in list(row["valid"].items())[:1]]
    for m, one in row["unimodal"].items():
        text = f"{m} {next(iter(one.values())):.3f}"
        if m in row["coefficients"]:
            text += f" x{row['coefficients'][m]:.2f}"
        shown.append(text)
    return ", ".join(shown)
