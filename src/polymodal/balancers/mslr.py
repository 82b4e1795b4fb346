"""MSLR: modality-specific learning rates (Yao and Mihalcea 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice

import torch
from torch import Tensor

from polymodal.balancers.base import Balancer, scalar_dtype
from polymodal.errors import InputError
from polymodal.types import Model, Step, Task

__all__ = ["MSLR", "mslr_coefficients", "mslr_smooth"]


def mslr_coefficients(history: Tensor, initial: Tensor, memory: int, *, errors: bool = False) -> Tensor:
    """k_m = init_m acc_m / mean(the `memory` accuracies before): (T, M) validation accuracies, (M,) -> (M,).

    The last row of `history` is the newest; until there are `memory` rows before it, k_m = init_m. With `errors` a
    smaller figure is better and the ratio is turned over. A history of zeros counts as no change.

    Source: Yao and Mihalcea 2022, the dynamic strategy, as coded.

    Example:
        >>> mslr_coefficients(torch.tensor([[0.4], [0.5], [0.54]]), torch.tensor([0.9]), memory=2)
        tensor([1.0800])
    """
    if len(history) <= memory:
        return initial
    last, before = history[-1], history[-1 - memory : -1].mean(0)
    ratio = before / last if errors else last / before
    return initial * torch.where((last > 0) & (before > 0), ratio, torch.ones_like(ratio))


def mslr_smooth(initial: Tensor) -> Tensor:
    """k_m half-way between init_m and the mean of all: (M,) -> (M,).

    Source: after the smooth strategy of Yao and Mihalcea 2022, whose formula was not at hand; the weight of one half is
    ours.

    Example:
        >>> mslr_smooth(torch.tensor([0.8, 1.2]))
        tensor([0.9000, 1.1000])
    """
    return (initial + initial.mean()) / 2


class MSLR(Balancer):
    """Joint training of an additive late fusion with a learning rate of its own for each modality.

    L = CE(z, y); the gradient (or, with `apply_to="update"`, the learning rate) of modality m is multiplied by k_m:
    "keep": init_m throughout; "smooth": `mslr_smooth`; "dynamic": `mslr_coefficients`, from the uni-modal metric on the
    validation split after each epoch (`end_epoch`), never the test split.

    Args:
        variant: "keep", "smooth" or "dynamic".
        initial: init_m, one a modality by name, or numbers taken in turn in the order of the modalities (0.9, 1.1 are
            the authors'; 0.7, 1.3 in re-runs).
        memory: K, epochs that the newest is compared with (5; 10 and 20 in re-runs).
        apply_to: "grad" as both known codes, "update" as the paper's name says.
        scope: see `Balancer`; heads count where a mixture of heads is the late fusion.

    Raises:
        InputError: fewer than two modalities, a fusion without uni-modal predictions ("dynamic"), an unknown modality.

    Source: Yao and Mihalcea 2022.
    Differs from the authors' code: validation split only (one of the codes reads the test split); any number of
    modalities; where smaller is better (the error of a regression) the ratio is turned over, which is ours.

    Example:
        >>> MSLR(initial={"audio": 0.7, "video": 1.3}).memory
        5
    """

    history: Tensor
    """(K + 1, M) newest validation metrics, the newest last."""
    stored: Tensor
    """How many rows of `history` are filled, from the end."""

    def __init__(
        self,
        variant: str = "dynamic",
        initial: Mapping[str, float] | Sequence[float] = (0.9, 1.1),
        memory: int = 5,
        *,
        apply_to: str = "grad",
        scope: Iterable[str] = ("encoder", "head", "fusion"),
    ) -> None:
        super().__init__(apply_to=apply_to, scope=scope)
        if variant not in ("keep", "smooth", "dynamic"):
            raise InputError(f"MSLR: variant={variant!r}; it is 'keep', 'smooth' or 'dynamic'")
        values = list(initial.values()) if isinstance(initial, Mapping) else list(initial)
        if not values or not min(values) > 0:
            raise InputError(f"MSLR: initial={initial}; give multipliers above 0")
        if memory < 1:
            raise InputError(f"MSLR: memory={memory} epochs; give 1 or more")
        self.variant, self.memory = variant, memory
        self.initial = dict(initial) if isinstance(initial, Mapping) else tuple(initial)
        self.register_buffer("history", None)
        self.register_buffer("stored", torch.tensor(0))
        self._names: tuple[str, ...] = ()
        self._errors = False

    def check(self, model: Model, task: Task) -> None:
        super().check(model, task)
        if isinstance(self.initial, dict) and set(self.initial) != set(model.modalities):
            raise InputError(f"MSLR: initial names {sorted(self.initial)} and the model has {sorted(model.modalities)}")
        if self.variant == "dynamic":
            silent = [m for m in model.modalities if m not in model.heads]
            if silent and not getattr(model.fusion, "additive", False):
                raise InputError(
                    f"MSLR compares uni-modal validation metrics, and {silent} have neither a head nor a share of "
                    f"{type(model.fusion).__name__}; use an additive fusion ('concat', 'sum'), or variant 'keep'"
                )
        self._names = model.modalities
        self._errors = getattr(task, "default_metric", "") in getattr(task, "lower_is_better", ())
        if self.history is None:
            device = next(p.device for m in model.modalities for p in self.parameters_of(model, m))
            shape = (self.memory + 1, len(self._names))
            self.register_buffer("history", torch.zeros(shape, dtype=scalar_dtype(device), device=device))
        elif self.history.shape != (self.memory + 1, len(self._names)):
            raise InputError(
                f"MSLR: the loaded history is {tuple(self.history.shape)}, (memory + 1, modalities) of another run"
            )

    def end_epoch(self, scores: dict[str, float]) -> None:
        if self.variant != "dynamic":
            return
        missing = [m for m in self._names if m not in scores]
        if missing or not self._names:
            raise InputError(
                f"MSLR: no uni-modal validation metric of {missing or 'any modality'}; give a validation split to fit, or "
                "in your own loop call check(model, task) once and end_epoch({modality: metric, ...}) after each epoch"
            )
        newest = self.history.new_tensor([scores[m] for m in self._names])
        self.history.copy_(torch.cat([self.history[1:], newest[None]]))
        self.stored.copy_((self.stored + 1).clamp_max(self.memory + 1))

    def coefficients(self, scores: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
        """k_m of this epoch; the scores of a batch have no part in it."""
        given = self.initial
        values = [given[m] for m in self._names] if isinstance(given, dict) else islice(cycle(given), len(self._names))
        initial = self.history.new_tensor(list(values))
        if self.variant == "dynamic":
            history = self.history[len(self.history) - int(self.stored) :]
            found = mslr_coefficients(history, initial, self.memory, errors=self._errors)
        else:
            found = mslr_smooth(initial) if self.variant == "smooth" else initial
        return dict(zip(self._names, found, strict=True))

    def modulate(self, step: Step) -> dict[str, Tensor]:
        return self.act(step, self.coefficients({}, step.task))
