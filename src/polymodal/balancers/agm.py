"""AGM: adaptive gradient modulation (Li et al. 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from polymodal.balancers.base import Balancer, scalar_dtype
from polymodal.balancers.passes import check_zeroing, shapley_parts, subset_logits
from polymodal.balancers.scores import FunctionScore, Score, masked_sum
from polymodal.distributed import all_sum
from polymodal.errors import InputError
from polymodal.types import Model, Step, Sum, Task

__all__ = ["AGM", "agm_coefficients", "agm_losses", "agm_ratios", "agm_running", "scale_gradient"]


def agm_losses(scores: Tensor, *, errors: bool = False) -> Tensor:
    """-log of each sample's score, at most -log 1e-8: (B,) probabilities of the true class -> (B,).

    With `errors` the scores are errors already and returned as they are.

    Source: Li et al. 2023, eq. 6; the bound is the authors' code.

    Example:
        >>> agm_losses(torch.tensor([1.0, 0.5, 0.0])).abs()
        tensor([ 0.0000,  0.6931, 18.4207])
    """
    return scores if errors else -scores.clamp_min(1e-8).log()


def agm_ratios(losses: Tensor) -> Tensor:
    """r_m = exp(M / (M - 1) (mean_j s_j - s_m)) of (M,) mean losses; above 1 where modality m leads.

    For two modalities r_a = exp(s_v - s_a) = 1 / r_v. Of running means it is the target tau_m. The exponent is kept
    within +-80, so that extreme errors stay finite.

    Source: Li et al. 2023, eq. 7; beyond two modalities a later port by others, with the sign that slows the leader.

    Example:
        >>> agm_ratios(torch.tensor([0.7, 1.1, 0.4]))
        tensor([1.0513, 0.5769, 1.6487])
    """
    count = len(losses)
    return (count / (count - 1) * (losses.mean() - losses)).clamp(-80, 80).exp()


def agm_coefficients(ratios: Tensor, targets: Tensor, alpha: float, cap: float = 10.0) -> Tensor:
    """k_m = exp(alpha min(tau_m - r_m, cap)); (M,), (M,) -> (M,), 1 where the ratio is what it was on average.

    Source: Li et al. 2023, eq. 8; the cap is the authors' code.

    Example:
        >>> agm_coefficients(torch.tensor([2.0, 0.5]), torch.tensor([1.0, 1.0]), alpha=1.0)
        tensor([0.3679, 1.6487])
    """
    return (alpha * (targets - ratios).clamp_max(cap)).exp()


def agm_running(running: Tensor, losses: Tensor, iteration: Tensor | int) -> Tensor:
    """S <- S (t - 1) / t + s / t: the mean over all iterations t = 1, 2, ... so far.

    Source: Li et al. 2023, eq. 9.

    Example:
        >>> agm_running(torch.tensor([0.5]), torch.tensor([1.5]), iteration=2)
        tensor([1.])
    """
    return running * ((iteration - 1) / iteration) + losses / iteration


def scale_gradient(x: Tensor, coefficient: Tensor) -> Tensor:
    """`x` itself, whose gradient is multiplied by the 0-dim coefficient on its way back."""
    y = x.view_as(x)
    if y.requires_grad:
        y.register_hook(lambda grad: grad * coefficient.to(grad))  # type: ignore[no-untyped-call]
    return y


class AGM(Balancer):
    """Joint training through the mono-modal shares of the fused logits, whose gradients are scaled by k_m.

    The logits are taken apart as o = sum_m phi_m (`shapley_parts`: passes with modalities zeroed), each phi_m passes
    its gradient on times k_m of `agm_coefficients`, and L = CE(sum_m phi_m, y). So a coefficient acts on encoders,
    fusion and head, through all passes: with two modalities the gradient g of o becomes g (k_a + k_v) / 2 for o and +-g
    (k_a - k_v) / 2 for the passes with one modality. Works with any fusion; needs no heads.

    The coefficients must be known before backward, so they come from the scores of each micro-batch, summed over
    processes; running means advance once a micro-batch.

    Args:
        alpha: strength, > 0 (the authors use 1 and 2.5; 1.5 to 3 in later re-runs).
        zero: "input" zeroes the input and encodes it in eval mode, as the authors do; "features" zeroes encoded
            features and runs the fusion alone again, at little cost.
        epochs: first and last epoch of modulation. After it this is joint training at its cost; before it, scores alone
            are collected.
        cap: of tau_m - r_m.
        score: what s_m comes from; by default the shares phi_m themselves.

    Raises:
        InputError: fewer than two or more than six modalities, no fused logits, a score without uni-modal logits.

    Source: Li et al. 2023, eq. 4 to 9.
    Differs from the authors' code: only the passes that are needed run (the zeroed input is encoded once a batch, and
    real inputs again only where eval mode makes a difference); scores are exact over processes; samples that lack a
    modality do not count in its score; a modality that all samples lack has coefficient 1; more than two modalities
    (exact Shapley values with v(nothing) = 0), several labels (-log of the mean probability of the true values) and
    regression (squared error) are ours. Their clipping of the gradient when the head's leaves [-1, 1] is left to `fit`.
    """

    running: Tensor
    """(M,) S_m."""
    iterations: Tensor
    """(M,) t."""

    def __init__(
        self,
        alpha: float = 1.0,
        zero: str = "input",
        *,
        epochs: tuple[int, int] | None = (0, 20),
        cap: float = 10.0,
        score: str | Score | None = None,
    ) -> None:
        super().__init__(score=score, epochs=epochs)
        if not alpha > 0:
            raise InputError(f"AGM: alpha={alpha}; the strength must be above 0 (the authors use 1 and 2.5)")
        if zero not in ("input", "features"):
            raise InputError(f"AGM: zero={zero!r}; it is 'input' (as the authors) or 'features' (cheaper)")
        if isinstance(self.score, FunctionScore):
            raise InputError(
                "AGM: a score given as a function has no uni-modal logits; derive a class from Score instead"
            )
        self.alpha, self.zero, self.cap = alpha, zero, cap
        self.register_buffer("running", None)
        self.register_buffer("iterations", None)

    def check(self, model: Model, task: Task) -> None:
        super().check(model, task)
        self.check_comparison(model, task)
        check_zeroing(model)
        device = next((p.device for m in model.modalities for p in model.encoders[m].parameters()), torch.device("cpu"))
        count = len(model.modalities)
        if self.running is None:
            self.register_buffer("running", torch.zeros(count, dtype=scalar_dtype(device), device=device))
            self.register_buffer("iterations", torch.zeros_like(self.running))
        elif len(self.running) != count:
            raise InputError(f"AGM: the loaded state is of {len(self.running)} modalities, the model has {count}")

    def loss(self, step: Step) -> Tensor:
        """CE(sum_m phi_m, y) with scaled gradients; advances the running means."""
        self.last_coefficients = {}
        if self.epochs is not None and int(self.epoch) > self.epochs[1]:
            return step.fused_loss()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.in_window):
            phi = shapley_parts(subset_logits(step, self.zero))
        coefficients = self._coefficients(step, phi)
        if not self.in_window:
            return step.fused_loss()
        self.last_coefficients = coefficients
        scaled = [scale_gradient(phi[m], k) if (k := coefficients.get(m)) is not None else phi[m] for m in phi]
        return step._replace(output=step.output._replace(logits=torch.stack(scaled).sum(0))).fused_loss()

    def modulate(self, step: Step) -> dict[str, Tensor]:
        """The coefficients of the last micro-batch, which have already acted."""
        return self.last_coefficients

    @torch.no_grad()
    def _coefficients(self, step: Step, phi: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = phi if self.score is None else self.score.logits(step)
        errors = step.task.score_is_error
        names = step.model.modalities
        sums: list[Sum] = []
        for m in names:
            losses = agm_losses(step.task.score(logits[m], step.batch.target), errors=errors)
            sums.append(masked_sum(losses.to(self.running.dtype), step.present(m)))
        flat = torch.stack(all_sum([value for one in sums for value in one])).view(-1, 2)
        seen = flat[:, 1] > 0
        means = flat[:, 0] / flat[:, 1].clamp_min(1)
        found: dict[str, Tensor] = {}
        if int(seen.sum()) > 1:
            # At t = 1 of any of them there is no history to compare with, and tau = 1.
            past = self.running[seen] if bool((self.iterations[seen] > 0).all()) else torch.zeros_like(means[seen])
            k = agm_coefficients(agm_ratios(means[seen]), agm_ratios(past), self.alpha, self.cap)
            found = dict(zip([m for m, one in zip(names, seen, strict=True) if one], k, strict=True))
        self.iterations += seen
        updated = agm_running(self.running, means, self.iterations.clamp_min(1))
        self.running.copy_(torch.where(seen, updated, self.running))
        self.last_scores = {
            m: (mean if errors else (-mean).exp()) for m, mean, one in zip(names, means, seen, strict=True) if one
        }
        return found
