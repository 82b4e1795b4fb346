"""The base of all balancing methods, which is itself joint training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from polymodal.balancers.collapse import Bound
from polymodal.balancers.prototypes import size_from_state
from polymodal.balancers.scores import Score, resolve_score
from polymodal.distributed import all_sum
from polymodal.errors import InputError
from polymodal.sharding import own_tensor
from polymodal.types import Batch, Model, Step, Sum, Task

__all__ = ["Balancer", "Joint"]


class Balancer(nn.Module):
    """Joint training, and the seam for every method that changes the gradient of one step.

    A training loop calls two verbs: `backward(step)` and, before the optimiser's step, `modulate(step)`. A method
    overrides the least it needs of `loss`, `backward`, `scores`, `coefficients`, `rescale`, `start_epoch`, `end_epoch`.
    What it must remember lives in buffers, so that a checkpoint resumes it.

    Args:
        score: how well each modality does; a name of `polymodal.balancers.scores` or a function of a step.
        scope: which parameters count as a modality's: any of "encoder", "head", "fusion", "adapter".
        apply_to: "grad" multiplies gradients, as the authors' codes do; "update" multiplies the modality's learning rate
            for this one step, which Adam cannot undo, and needs `attach(optimizer)` once.
        epochs: (first, last) epoch of modulation, both inclusive; None is always.

    Example:
        >>> from polymodal import balancers
        >>> balancers.MLB(alpha=0.5, beta_max=10).scope
        ('encoder', 'head', 'fusion')
    """

    default_score: ClassVar[str | None] = None
    """Name of the score the method reads; None where it reads none."""
    needs_heads: ClassVar[bool] = False
    """Whether the loss itself trains uni-modal heads."""
    reduces_gradients: ClassVar[bool] = False
    """True where `backward` sets the gradients itself and averages them over processes, instead of DDP."""
    shardable: ClassVar[bool] = True
    """False where the method needs whole encoders between the forward and the backward pass (`train.shard`)."""

    epoch: Tensor

    def __init__(
        self,
        *,
        score: str | Score | None = None,
        scope: Iterable[str] = (),
        apply_to: str = "grad",
        epochs: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if apply_to not in ("grad", "update"):
            raise InputError(
                f"apply_to={apply_to!r}; it is 'grad' (scale gradients) or 'update' (scale learning rates)"
            )
        self.score = resolve_score(score or self.default_score)
        self.scope = tuple([scope] if isinstance(scope, str) else scope)
        self.apply_to = apply_to
        self.epochs = None if epochs is None else (int(epochs[0]), int(epochs[1]))
        self.register_buffer("epoch", torch.tensor(-1))
        self.last_scores: dict[str, Tensor] = {}
        self.last_coefficients: dict[str, Tensor] = {}
        self._sums: dict[str, Sum] = {}
        self._checked: int | None = None  # id only: an attribute would make the model a submodule of the balancer
        self._attached = False

    # What a method overrides ------------------------------------------------------------------------------------------

    def loss(self, step: Step) -> Tensor:
        """The 0-dim loss of one micro-batch: L = CE(z, y)."""
        return step.fused_loss()

    def scores(self, step: Step) -> dict[str, Sum]:
        """How well each modality does on this micro-batch, as sum and count."""
        return {} if self.score is None else self.score(step)

    def coefficients(self, scores: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
        """0-dim coefficient of each modality from its mean score over the optimiser step; none by default."""
        return {}

    def bounds(self) -> tuple[Bound, ...]:
        """What the coefficients approach, for the collapse guard (`polymodal.balancers.collapse`); nothing by default."""
        return ()

    def rescale(self, grad: Tensor, coefficient: Tensor) -> None:
        """Change one gradient in place; under `train.shard` it is a DTensor, this process's share of it a part."""
        grad.mul_(coefficient.to(grad))

    def parameters_of(self, model: Model, modality: str) -> list[nn.Parameter]:
        """Parameters that the coefficient of `modality` acts on."""
        return model.parameters_of(modality, self.scope)

    def check(self, model: Model, task: Task) -> None:
        """Raise `InputError` where the method cannot work on this model; called before the first step."""
        self._checked = id(model)
        if self.needs_heads and set(model.heads) != set(model.modalities):
            raise InputError(
                f"{type(self).__name__} trains a uni-modal head for each of {list(model.modalities)}, and the model has "
                f"heads for {list(model.heads)}; build it with heads=polymodal.encoders.linear_heads(encoders, outputs)"
            )
        if self.needs_coefficients:
            self.check_comparison(model, task)
            self.check_scope(model)

    def check_once(self, step: Step) -> None:
        """`check` at the first step of a loop that did not call it, for those who override `backward`."""
        if self._checked != id(step.model):
            self.check(step.model, step.task)

    def start_epoch(self, model: Model, loader: Iterable[Batch]) -> None:
        """Called before each epoch's first step."""
        self.epoch += 1
        if self.score is not None and self.in_window:
            self.score.start_epoch(model, loader)

    def end_epoch(self, scores: dict[str, float]) -> None:
        """Called after each epoch with the uni-modal validation metric of each modality (may be empty)."""

    # The two verbs ----------------------------------------------------------------------------------------------------

    def backward(self, step: Step, run: Callable[[Tensor], Any] = Tensor.backward) -> Tensor:
        """Back-propagate the loss of one micro-batch, collect its scores, return the detached 0-dim loss.

        Args:
            step: made by `polymodal.forward`.
            run: what propagates a loss backwards, e.g. `accelerator.backward` under mixed precision.
        """
        self.check_once(step)
        if self.active:
            for modality, one in self.scores(step).items():
                seen = self._sums.get(modality)
                self._sums[modality] = one if seen is None else Sum(seen.total + one.total, seen.count + one.count)
        loss = self.loss(step)
        run(loss)
        return loss.detach()

    @torch.no_grad()
    def modulate(self, step: Step) -> dict[str, Tensor]:
        """Apply the coefficients to the gradients of the optimiser step; returns them (empty where the method has none).

        Call it once an optimiser step, after gradients are unscaled and before they are clipped.
        """
        sums, self._sums = self._sums, {}
        self.last_coefficients = {}
        if not sums or not self.active:
            return {}
        flat = all_sum([value for one in sums.values() for value in one])
        reduced = {m: Sum(flat[2 * i], flat[2 * i + 1]) for i, m in enumerate(sums)}
        seen = {m: one.total / one.count for m, one in reduced.items() if one.count > 0}
        self.last_scores = seen
        # A modality that the whole step lacks has no say and keeps its pace.
        return self.act(step, self.coefficients(seen, step.task) if len(seen) > 1 else {})

    @torch.no_grad()
    def act(self, step: Step, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scale the gradients (or the learning rates of the next step) by these coefficients; returns them."""
        self.last_coefficients = dict(found)
        if self.apply_to == "grad":
            for modality, coefficient in found.items():
                self._rescale_all(self.parameters_of(step.model, modality), coefficient)
        elif found and not self._attached:
            raise InputError("apply_to='update' acts through the optimiser; call balancer.attach(optimizer) once")
        return self.last_coefficients

    def _rescale_all(self, parameters: list[nn.Parameter], coefficient: Tensor) -> None:
        grads = [p.grad for p in parameters if p.grad is not None]
        if type(self).rescale is Balancer.rescale and grads:
            own = [own_tensor(grad) for grad in grads]  # of gradients that are cut over processes, this one's shares
            torch._foreach_mul_(own, coefficient.to(own[0]))
        else:
            for grad in grads:
                self.rescale(grad, coefficient)

    # The optimiser ----------------------------------------------------------------------------------------------------

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Tell the balancer of the optimiser: needed once for `apply_to="update"`, else it only warns of Adam.

        The optimiser's parameter groups carry their modality (`model.param_groups(lr, scope=balancer.scope)` makes them).
        Before each step the rate of a group is multiplied by its modality's coefficient, and set back after. Decoupled
        weight decay is divided by it for the same step, so that the decay itself keeps its pace.

        Raises:
            InputError: no parameter group names a modality.
        """
        adaptive = any("betas" in group or "alpha" in group for group in optimizer.param_groups)
        if self.apply_to == "grad":
            if adaptive and self.needs_coefficients:
                warnings.warn(
                    f"{type(self).__name__} scales gradients, which {type(optimizer).__name__} hardly notices; "
                    "apply_to='update' scales its learning rate instead",
                    AdaptiveOptimizerWarning,
                    stacklevel=2,
                )
            return
        if not any(group.get("modality") for group in optimizer.param_groups):
            raise InputError(
                "apply_to='update' needs an optimiser whose parameter groups name their modality; make them with "
                "model.param_groups(lr, scope=balancer.scope)"
            )
        kept: list[tuple[dict[str, Any], Any, Any]] = []

        def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            decoupled = isinstance(optimizer, torch.optim.AdamW) or "AdamW" in type(optimizer).__name__
            for group in optimizer.param_groups:
                coefficient = self.last_coefficients.get(group.get("modality") or "")
                if coefficient is None:
                    continue
                kept.append((group, group["lr"], group.get("weight_decay")))
                factor = max(float(coefficient), 1e-8)
                group["lr"] = group["lr"] * factor
                if decoupled:
                    group["weight_decay"] = group["weight_decay"] / factor

        def after(*_: Any) -> None:
            for group, rate, decay in kept:
                group["lr"] = rate
                if decay is not None:
                    group["weight_decay"] = decay
            kept.clear()

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)
        self._attached = True

    # ------------------------------------------------------------------------------------------------------------------

    @property
    def needs_coefficients(self) -> bool:
        """Whether the method modulates gradients at all."""
        return type(self).coefficients is not Balancer.coefficients

    @property
    def active(self) -> bool:
        """Whether this epoch lies in the window of modulation; always, where no epoch was ever started."""
        return self.needs_coefficients and self.in_window

    @property
    def in_window(self) -> bool:
        """Whether this epoch lies in `epochs`; true where no epoch was ever started."""
        return self.epochs is None or int(self.epoch) < 0 or self.epochs[0] <= int(self.epoch) <= self.epochs[1]

    def check_comparison(self, model: Model, task: Task) -> None:
        """Raise `InputError` for a model of one modality, or one whose scores cannot be told."""
        if len(model.modalities) < 2:
            raise InputError(
                f"{type(self).__name__} compares modalities and the model has only {list(model.modalities)}; "
                "give a second one, or use balancer 'joint'"
            )
        if self.score is not None:
            self.score.check(model, task)

    def check_scope(self, model: Model) -> None:
        """Raise `InputError` for a modality of which the scope matches no trainable parameter."""
        for modality in model.modalities:
            if not any(p.requires_grad for p in self.parameters_of(model, modality)):
                raise InputError(
                    f"{type(self).__name__}: scope {list(self.scope)} matches no trainable parameter of modality "
                    f"{modality!r}{self.filter_hint()}, so that it would silently be joint training"
                )

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        size_from_state(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def filter_hint(self) -> str:
        """What to say of a filter beyond the scope when it matches nothing."""
        return ""


def scalar_dtype(device: torch.device) -> torch.dtype:
    """Of scores and coefficients that a buffer keeps: double precision, which Apple's GPUs alone do not have."""
    return torch.float32 if device.type == "mps" else torch.float64


class AdaptiveOptimizerWarning(UserWarning):
    """Gradient scaling under an optimiser that normalises gradients (METHODS 1.5)."""


Joint = Balancer
"""Joint training, L = CE(z, y): the base class itself."""
