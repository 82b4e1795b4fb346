"""The one training loop."""

from __future__ import annotations

import math
import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from polymodal.balancers import Balancer
from polymodal.balancers.collapse import chance_score, collapse_notes
from polymodal.distributed import gather_objects, rank, spread, world_size
from polymodal.errors import InputError
from polymodal.evaluate import evaluate
from polymodal.model import MultimodalModel, forward, totals
from polymodal.progress import Progress
from polymodal.run import RunFolder, load_weights, logger, save_weights
from polymodal.tasks import Task
from polymodal.types import Batch, Step, Totals, move

__all__ = ["SCHEDULES", "History", "Observer", "fit"]

Schedule = Callable[[Optimizer, int], LRScheduler | ReduceLROnPlateau]


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """The rate falls from its start to 0 along half a cosine over all optimiser steps."""
    return LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step / max(steps, 1), 1))))


def constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    """The rate stays as it is."""
    return LambdaLR(optimizer, lambda step: 1.0)


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "constant": constant}


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


class History(NamedTuple):
    """What training went through: one row an epoch, the best epoch (from 1) and its validation metrics."""

    rows: list[dict[str, Any]]
    best_epoch: int
    best: dict[str, float]


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
        schedule: "cosine", "constant", or a function of the optimiser and the number of its steps; one that returns
            `ReduceLROnPlateau` is stepped by the validation metric, once an epoch.
        clip: largest norm of the gradient.
        precision: "bf16" or "fp16" for mixed precision.
        accumulate: micro-batches an optimiser step.
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
    if trackers:
        accelerator.init_trackers("polymodal")
    balancer = balancer or Balancer()
    balancer.check(model, task)
    _check_heads(model, balancer)
    model.to(accelerator.device)
    balancer.to(accelerator.device)
    if optimizer is None:
        groups = model.param_groups(2e-3, balancer.scope or ("encoder", "head", "fusion"))
        optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        balancer.attach(optimizer)
    for one in caught:
        logger.warning("%s", one.message)
    wrapped, prepared = accelerator.prepare(model, optimizer)
    windows = math.ceil(len(train) / accumulate)
    make = SCHEDULES[schedule] if isinstance(schedule, str) else schedule
    scheduler = make(optimizer, windows * epochs)
    loop = _Loop(model, optimizer, scheduler, balancer, accelerator, task, metric or task.default_metric, select, run)
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
            if seconds is not None and _anyone(time.perf_counter() - began > seconds):
                logger.warning("the time limit is reached: training stops after epoch %d of %d", loop.epoch, epochs)
                break
            accelerator.log({k: v for k, v in row["valid"].items()} | {"train_loss": row["train_loss"]}, loop.epoch)
    if trackers:
        accelerator.end_training()
    return loop.close()


class _Loop:
    """The state of training between steps, which a checkpoint holds."""

    def __init__(
        self,
        model: MultimodalModel,
        optimizer: Optimizer,
        scheduler: LRScheduler | ReduceLROnPlateau,
        balancer: Balancer,
        accelerator: Any,
        task: Task,
        metric: str,
        select: str,
        run: RunFolder | None,
    ) -> None:
        self.model, self.optimizer, self.scheduler, self.balancer = model, optimizer, scheduler, balancer
        self.accelerator, self.task, self.metric, self.select, self.run = accelerator, task, metric, select, run
        self.epoch = 0  # finished ones
        self.done = 0  # optimiser steps of the running epoch
        self.rows: list[dict[str, Any]] = []
        self.best_epoch = 0
        self.best_state: dict[str, Tensor] | None = None
        self.sums: dict[str, float] = {}
        self.random: dict[str, Any] | None = None
        self.window_loss = 0.0

    # Steps ------------------------------------------------------------------------------------------------------------

    def see(self, step: Step, loss: Tensor, sums: Totals) -> None:
        """Note one micro-batch's loss, and stop at one that is not finite."""
        value = float(loss)
        if not math.isfinite(value):
            raise InputError(self._explain(step, value))
        self.window_loss += value / world_size()

    def count(self) -> None:
        """One optimiser step is done."""
        self.done += 1
        self._add("loss", self.window_loss)
        self.window_loss = 0.0
        for kind, values in (("score", self.balancer.last_scores), ("coefficient", self.balancer.last_coefficients)):
            for m, one in values.items():
                self._add(f"{kind}/{m}", float(one))

    def _add(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.sums[f"n/{name}"] = self.sums.get(f"n/{name}", 0.0) + 1

    def _mean(self, name: str) -> float:
        return self.sums[name] / self.sums[f"n/{name}"]

    def _explain(self, step: Step, value: float) -> str:
        with torch.no_grad():
            terms = {"fused": float(step.fused_loss())} | {
                m: float(step.unimodal_loss(m)) for m in step.output.unimodal
            }
            wild = [m for m, f in step.output.features.items() if not bool(torch.isfinite(f.pooled).all())]
        bad = [name for name, term in terms.items() if not math.isfinite(term)]
        where = f"; the features of {wild} are not finite" if wild else ""
        return (
            f"the loss became {value} in step {self.done + 1} of epoch {self.epoch + 1}: not finite is the loss of {bad}"
            f"{where}; {self._go_back()}"
        )

    def _go_back(self) -> str:
        """Load the last good weights, and say so."""
        kept = "no epoch was finished before"
        if self.best_state is not None:
            self.model.load_state_dict(self.best_state)
            place = "the model" if self.run is None else str(self.run.path / "model.safetensors")
            kept = f"the weights of epoch {self.best_epoch}, the last good ones, are in {place}"
        return f"{kept}. Lower the learning rate, clip the gradient (train.clip=1) or check that modality's input"

    # Epochs -----------------------------------------------------------------------------------------------------------

    def finish_epoch(self, valid: Iterable[Batch] | None, seen: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluate, select, record, write."""
        spread(self.model.buffers())  # each process has seen other batches since the last forward pass
        wild = [name for name, p in self.model.named_parameters() if not bool(torch.isfinite(p).all())]
        if wild:
            raise InputError(f"after epoch {self.epoch + 1} the weights {wild[:3]} are not finite; {self._go_back()}")
        try:
            found = None if valid is None else evaluate(self.model, valid, self.task)
        except InputError as error:
            raise InputError(f"after epoch {self.epoch + 1} {error}; {self._go_back()}") from error
        single = {} if found is None else {m: one for m, one in found.unimodal_metrics.items()}
        name = self.task.default_metric
        self.balancer.end_epoch({m: one[name] for m, one in single.items()})
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(0.0 if found is None else self._key(found.metrics))
        losses = gather_objects(self._mean("loss"))
        row: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "train_loss": sum(losses),
            "valid": {} if found is None else found.metrics,
            "unimodal": single,
            "lr": self.optimizer.param_groups[0]["lr"],
            **seen,
        }
        for kind in ("score", "coefficient"):
            row[f"{kind}s"] = {n.split("/", 1)[1]: self._mean(n) for n in self.sums if n.startswith(f"{kind}/")}
        self.rows.append(row)
        self.epoch, self.done, self.sums = self.epoch + 1, 0, {}
        if self._better():
            self.best_epoch = self.epoch
            self.best_state = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
            if self.run is not None and rank() == 0:
                save_weights(self.run.path / "model.safetensors", self.best_state)
        if self.run is not None and rank() == 0:
            self.run.write_history(self.rows)
        self.checkpoint()
        return row

    def _key(self, metrics: dict[str, float]) -> float:
        """Smaller is better."""
        if self.metric not in metrics:
            raise InputError(f"metric {self.metric!r} is unknown; this task gives {sorted(metrics)}")
        value = metrics[self.metric]
        return value if self.metric in self.task.lower_is_better else -value

    def _better(self) -> bool:
        row = self.rows[-1]
        if self.select == "last" or not row["valid"] or not self.best_epoch:
            return True
        # On a hundred samples epochs often tie in accuracy, and the later one has had the smaller rate. The loss is no judge:
        # it grows with confidence while accuracy still does.
        return self._key(row["valid"]) <= self._key(self.rows[self.best_epoch - 1]["valid"])

    def close(self) -> History:
        """Load the selected weights."""
        if self.best_state is None:
            raise RuntimeError("training ended without an epoch")
        self.model.load_state_dict(self.best_state)
        return History(self.rows, self.best_epoch, self.rows[self.best_epoch - 1]["valid"])

    # Resume -----------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Write the exact resume point."""
        if self.run is None:
            return
        randoms = gather_objects(_random_state(self.accelerator.device))
        if rank() != 0:
            return
        scaler = self.accelerator.scaler
        self.run.save_checkpoint(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "balancer": self.balancer.state_dict(),
                "epoch": self.epoch,
                "done": self.done,
                "rows": self.rows,
                "best_epoch": self.best_epoch,
                "sums": self.sums,
                "random": randoms,
            }
        )

    def resume(self) -> None:
        """Go on from the resume point of the run folder, if it has one."""
        state = None if self.run is None else self.run.load_checkpoint()
        if state is None or self.run is None:
            return
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            self.balancer.load_state_dict(state["balancer"])
            if self.accelerator.scaler is not None and state["scaler"]:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self.epoch, self.done, self.rows = state["epoch"], state["done"], state["rows"]
            self.best_epoch, self.sums, randoms = state["best_epoch"], state["sums"], state["random"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise InputError(
                f"the checkpoint in {self.run.path} belongs to another model or version ({str(error)[:200]}); "
                "delete the folder 'checkpoint' to train this stage from its start"
            ) from error
        self.random = randoms[rank()] if rank() < len(randoms) else None
        if self.best_epoch:
            self.best_state = load_weights(self.run.path / "model.safetensors")
        logger.info("resumed %s at epoch %d, step %d", self.run.path, self.epoch + 1, self.done)

    def restore_random(self) -> None:
        """Set the random states of the resume point, once."""
        if self.random is not None:
            _set_random_state(self.random, self.accelerator.device)
            self.random = None


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


def _random_state(device: torch.device) -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    name, keys, position, has, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - the state that user code may draw from
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "python": [version, list(internal), gauss],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, np.int64)), int(position), int(has), float(cached)],
    }


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has, cached))  # noqa: NPY002


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
