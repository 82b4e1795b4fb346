"""The state of training between steps: figures so far, the best weights, and the exact resume point."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from polymodal.balancers import Balancer
from polymodal.distributed import gather_objects, rank, spread, world_size
from polymodal.errors import Diverged, InputError
from polymodal.evaluate import evaluate
from polymodal.model import MultimodalModel
from polymodal.run import RunFolder, load_weights, logger, save_weights
from polymodal.sharding import (
    gathered,
    load_own_state,
    load_whole_optimizer,
    load_whole_state,
    own_shares,
    own_state,
    own_tensor,
    whole_optimizer,
    whole_state,
)
from polymodal.tasks import Task
from polymodal.types import Batch, Step, Totals

__all__ = ["History", "Loop"]


class History(NamedTuple):
    """What training went through: one row an epoch, the best epoch (from 1) and its validation metrics."""

    rows: list[dict[str, Any]]
    best_epoch: int
    best: dict[str, float]


class Loop:
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
            raise Diverged(self._explain(step, value))
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
            load_own_state(self.model, self.best_state)
            place = "the model" if self.run is None else str(self.run.path / "model.safetensors")
            kept = f"the weights of epoch {self.best_epoch}, the last good ones, are in {place}"
        return f"{kept}. Lower the learning rate, clip the gradient (train.clip=1) or check that modality's input"

    # Epochs -----------------------------------------------------------------------------------------------------------

    def finish_epoch(self, valid: Iterable[Batch] | None, seen: Mapping[str, Any]) -> dict[str, Any]:
        """Evaluate, select, record, write."""
        spread(self.model.buffers())  # each process has seen other batches since the last forward pass
        wild = [n for n, p in self.model.named_parameters() if not bool(torch.isfinite(own_tensor(p)).all())]
        wild = list(dict.fromkeys(name for names in gather_objects(wild) for name in names))
        if wild:
            raise Diverged(f"after epoch {self.epoch + 1} the weights {wild[:3]} are not finite; {self._go_back()}")
        try:
            with gathered(self.model):
                found = None if valid is None else evaluate(self.model, valid, self.task)
        except InputError as error:
            raise type(error)(f"after epoch {self.epoch + 1} {error}; {self._go_back()}") from error
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
            self.best_state = own_state(self.model)
            if self.run is not None:
                whole = whole_state(self.model)
                if rank() == 0:
                    save_weights(self.run.path / "model.safetensors", whole)
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
        load_own_state(self.model, self.best_state)
        return History(self.rows, self.best_epoch, self.rows[self.best_epoch - 1]["valid"])

    # Resume -----------------------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Write the exact resume point."""
        if self.run is None:
            return
        randoms = gather_objects(_random_state(self.accelerator.device))
        weights, optimizer = whole_state(self.model), whole_optimizer(self.optimizer)
        if rank() != 0:
            return
        scaler = self.accelerator.scaler
        self.run.save_checkpoint(
            {
                "model": weights,
                "optimizer": optimizer,
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
            load_whole_state(self.model, state["model"])
            load_whole_optimizer(self.optimizer, state["optimizer"])
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
            self.best_state = own_shares(self.model, load_weights(self.run.path / "model.safetensors"))
        logger.info("resumed %s at epoch %d, step %d", self.run.path, self.epoch + 1, self.done)

    def restore_random(self) -> None:
        """Set the random states of the resume point, once."""
        if self.random is not None:
            _set_random_state(self.random, self.accelerator.device)
            self.random = None


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
