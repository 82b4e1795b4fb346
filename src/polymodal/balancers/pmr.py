"""PMR: prototypical modal rebalance (Fan et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from polymodal.balancers.base import Balancer
from polymodal.balancers.ogm import ogm_ratios
from polymodal.balancers.prototypes import PrototypeBank
from polymodal.balancers.scores import Score, masked_sum
from polymodal.distributed import all_sum
from polymodal.errors import InputError
from polymodal.types import Batch, Model, Step, Sum, Task

__all__ = ["PMR", "pmr_gates"]


def pmr_gates(ratios: Tensor, gate: str = "hard") -> Tensor:
    """How strongly each lagging modality is pulled to its prototypes; (M,) rho_m = s_m / mean_{j != m} s_j -> (M,).

    "hard" is 1 where rho_m < 1, else 0; "soft" is clip(1 / rho_m - 1, 0, 1). Nobody is pulled at equal scores.

    Source: Fan et al. 2023, eq. 9 and 10 ("soft"); the released code ("hard"). Beyond two modalities ours.

    Example:
        >>> pmr_gates(torch.tensor([2.0, 0.5])), pmr_gates(torch.tensor([1.25, 0.8]), "soft")
        (tensor([0., 1.]), tensor([0.0000, 0.2500]))
    """
    if gate == "soft":
        return (1 / ratios - 1).clamp(0, 1)
    # Beyond two, equal scores may differ from the mean of the others by rounding.
    return (ratios < (1 if len(ratios) == 2 else 1 - 1e-6)).to(ratios)


class PMR(Balancer):
    """Joint training that pulls the features of the lagging modality to the prototypes of their class.

    sim_m = -||h_m - c_{m,k}||_2 are the logits of a classifier without parameters, rho_m the ratio of the scores
    s_m = mean_n softmax(sim_m)[n, y_n] (`ogm_ratios`), and

        L = CE(z, y) + alpha sum_m gate(rho_m) CE(sim_m, y) - entropy_weight sum_m gate(1 / rho_m) H(softmax(sim_m)),

    where the last term slows the leading modality during the first epochs. Prototypes are computed by `start_epoch`
    (`PrototypeBank`) and constant in the loss. The gate must be known before backward, so it comes from the scores of
    each micro-batch, summed over processes. A sample whose class was never seen adds 0.

    Args:
        alpha: weight of the prototype loss, > 0 (the authors use 0.5 to 3).
        gate: "hard" as the authors' code, "soft" as the paper.
        entropy_weight: weight of the entropy term, which the released script lacks.
        entropy_epochs: how many first epochs have it.
        momentum: of the old prototypes (the authors' parser has 0.2, their commands 0).
        fraction: share of the training batches that prototypes come from.
        epochs: first and last epoch of the method; outside it is joint training.
        score: what the ratio comes from; by default the prototypes.
        eps: added to the scores of the ratio.

    Raises:
        InputError: fewer than two modalities, targets that are not one class a sample, a first step without prototypes.

    Source: Fan et al. 2023, eq. 6 to 12; the entropy term and the soft gate were not checked against the authors' code,
    which has neither.
    Differs from the authors' code: the former mode of every module is restored after the prototypes are computed; a
    class that is missing keeps its prototype; always training data (theirs are of the validation split on AVE).
    """

    def __init__(
        self,
        alpha: float = 1.0,
        gate: str = "hard",
        *,
        entropy_weight: float = 0.0,
        entropy_epochs: int = 10,
        momentum: float = 0.2,
        fraction: float = 0.1,
        epochs: tuple[int, int] | None = (0, 70),
        score: str | Score | None = None,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(score=score, epochs=epochs)
        if not alpha > 0:
            raise InputError(f"PMR: alpha={alpha}; the weight must be above 0 (the authors use 0.5 to 3)")
        if gate not in ("hard", "soft"):
            raise InputError(f"PMR: gate={gate!r}; it is 'hard' (the authors' code) or 'soft' (the paper)")
        if entropy_weight < 0:
            raise InputError(f"PMR: entropy_weight={entropy_weight}; it is 0 (none) or above")
        self.alpha, self.gate, self.eps = alpha, gate, eps
        self.entropy_weight, self.entropy_epochs = entropy_weight, entropy_epochs
        self.bank = PrototypeBank(fraction, momentum)

    def check(self, model: Model, task: Task) -> None:
        super().check(model, task)
        self.check_comparison(model, task)
        self.bank.check(model, task, "PMR")

    def start_epoch(self, model: Model, loader: Iterable[Batch]) -> None:
        super().start_epoch(model, loader)
        if self.in_window:
            self.bank.update(model, loader, "PMR")

    def loss(self, step: Step) -> Tensor:
        self.last_coefficients = {}
        loss = step.fused_loss()
        if not self.in_window:
            return loss
        similarities = self.bank.similarities({m: f.pooled for m, f in step.output.features.items()}, "PMR")
        ratios = self._ratios(step, similarities)
        if len(ratios) < 2:
            return loss
        stacked = torch.stack(list(ratios.values()))
        pull = dict(zip(ratios, pmr_gates(stacked, self.gate), strict=True))
        for m, beta in pull.items():
            losses = step.task.losses(similarities[m], step.batch.target)
            loss = loss + self.alpha * beta.to(losses) * self._mean(step, m, losses)
        if self.entropy_weight and int(self.epoch) < self.entropy_epochs:
            weights = step.task.weights(step.batch.target)
            for m, gamma in zip(ratios, pmr_gates(1 / stacked, self.gate), strict=True):
                log_p = similarities[m].log_softmax(-1)
                entropies = -(log_p.exp() * log_p).sum(-1) * weights.to(log_p)
                loss = loss - self.entropy_weight * gamma.to(log_p) * self._mean(step, m, entropies)
        self.last_coefficients = pull
        return loss

    def modulate(self, step: Step) -> dict[str, Tensor]:
        """The gates of the last micro-batch, which have already acted in the loss."""
        return self.last_coefficients

    def _mean(self, step: Step, modality: str, losses: Tensor) -> Tensor:
        counted = self.bank.known_class(modality, step.batch.target)
        present = step.present(modality)
        if present is not None:
            counted = counted & present
        return torch.where(counted, losses, torch.zeros_like(losses)).sum() / step.totals.unimodal[modality]

    @torch.no_grad()
    def _ratios(self, step: Step, similarities: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.score is None:
            target = step.batch.target
            sums = {m: masked_sum(step.task.score(z, target), step.present(m)) for m, z in similarities.items()}
        else:
            sums = self.score(step)
        flat = all_sum([value for one in sums.values() for value in one])
        reduced = {m: Sum(flat[2 * i], flat[2 * i + 1]) for i, m in enumerate(sums)}
        means = {m: one.total / one.count for m, one in reduced.items() if one.count > 0}
        self.last_scores = means
        if len(means) < 2:
            return {}
        # Added to all scores, so that scores of zero are equal ones and no ratio is infinite.
        found = ogm_ratios(torch.stack(list(means.values())) + self.eps)
        return dict(zip(means, found, strict=True))
