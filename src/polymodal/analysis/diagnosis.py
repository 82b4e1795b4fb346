"""What a diagnosis says: the figures of each modality, which of them are under-trained, and what to try."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from polymodal.analysis.bootstrap import Interval

__all__ = ["Diagnosis", "Finding"]


@dataclass(frozen=True)
class Finding:
    """One modality on the validation split; all figures are values, of which more is better.

    Attributes:
        inside: of its prediction inside the fused model.
        alone: of its own uni-modal model.
        probe_inside, probe_alone: of a linear probe on its encoder in the fused model, and in its own.
        gap: `probe_alone` - `probe_inside`; an interval above zero says that its encoder is under-trained.
        distance: `alone` - `inside`, which also counts what the fusion does not use.
        shapley: its share of the fused figure.
        removed, shuffled: what the fused figure loses without it, and with another sample's.
    """

    inside: float
    alone: float
    probe_inside: float
    probe_alone: float
    gap: Interval
    distance: Interval
    shapley: Interval
    removed: Interval
    shuffled: Interval

    @property
    def under_trained(self) -> bool:
        """Whether the encoder is worse than the same encoder trained alone, by an interval that excludes zero."""
        return self.gap.sign > 0


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` finds on the validation split.

    Attributes:
        name: of the run.
        value: what is compared: "accuracy", "share of right labels" or "minus absolute error".
        samples: number of validation samples.
        level: probability that the intervals of all modalities hold together.
        source: where predictions inside the fused model come from: "heads", "parts" or "masking".
        fused: metrics of the fused model.
        late: the average of the own uni-modal models' predictions minus the fused prediction.
        modalities: by name.
        agreement: rows of the agreement matrix of the own models with the fused one; None for a regression.
        recipe, balancer: of the run.
        warnings: what training said about collapsed modalities.
    """

    name: str
    value: str
    samples: int
    level: float
    source: str
    fused: dict[str, float]
    late: Interval
    modalities: dict[str, Finding]
    agreement: dict[str, Any] | None
    recipe: str = ""
    balancer: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def under_trained(self) -> list[str]:
        """Names of the under-trained modalities, the worst first."""
        found = {m: one for m, one in self.modalities.items() if one.under_trained}
        return sorted(found, key=lambda m: -found[m].gap.estimate)

    def findings(self) -> list[str]:
        """What is wrong, a sentence each; or that nothing is."""
        said = []
        for m in self.under_trained:
            one = self.modalities[m]
            said.append(
                f"{m} is under-trained: a linear probe of its encoder reaches {one.probe_inside:.3f}, of the same encoder "
                f"trained alone {one.probe_alone:.3f}: {one.gap}."
            )
        if self.late.sign > 0:
            said.append(f"The average of separately trained uni-modal models is better than this one: {self.late}.")
        said += self.warnings
        return said or [
            "Nothing is wrong: no encoder is worse than the same encoder trained alone, as far as can be told."
        ]

    def advice(self) -> list[str]:
        """What to try, most promising first; empty where nothing is wrong."""
        if not self.under_trained and self.late.sign <= 0:
            return ["Follow the warning of training above."] if self.warnings else []
        tried = []
        if self.late.sign > 0:
            tried.append("--recipe ume: train each modality alone and average their predictions")
        if self.under_trained and self.balancer != "multi_loss":
            tried.append(
                "--balancer multi_loss: a loss on a head of each modality, so that no encoder waits for another"
            )
        if self.under_trained and self.balancer != "mlb":
            tried.append("--balancer mlb: the same losses, the slower modality pushed harder")
        if self.late.sign <= 0:
            tried.append("--recipe ume: train each modality alone and average their predictions")
        return tried

    def text(self) -> str:
        """One page of plain text."""
        lines = [f"Diagnosis of {self.name}, on its {self.samples} validation samples", ""]
        lines += self.findings()
        if self.advice():
            lines += ["", "Try:", *(f"  {one}" for one in self.advice())]
        lines += ["", f"Figures are {self.value}; inside the fused model they come from {self.source}.", ""]
        lines += [*_aligned(self.training_rows()), "", *_aligned(self.use_rows())]
        fused = ", ".join(f"{name} {self.fused[name]:.3f}" for name in self.fused)
        lines += ["", f"Fused: {fused}", f"Average of the uni-modal models minus fused: {self.late}"]
        if self.agreement is not None:
            lines += ["", "Uni-modal models", *_aligned(self.agreement_rows())]
        lines += [
            "",
            "Intervals are bootstrap intervals over validation samples, taken as independent; those of the gaps hold together at",
            f"{self.level:.0%}. They do not cover another seed of training. 'probe' is a linear probe of the encoder, fitted on",
            "training samples.",
        ]
        return "\n".join(lines)

    def training_rows(self) -> list[list[str]]:
        """Header and a row a modality: how well its encoder was trained."""
        return [["", "inside", "alone", "probe inside", "probe alone", "gap of the probes"]] + [
            [m, *(f"{x:.3f}" for x in (one.inside, one.alone, one.probe_inside, one.probe_alone)), str(one.gap)]
            for m, one in self.modalities.items()
        ]

    def use_rows(self) -> list[list[str]]:
        """Header and a row a modality: what the fused prediction owes to it."""
        return [["", "Shapley share", "lost if removed", "lost if shuffled"]] + [
            [m, str(one.shapley), str(one.removed), str(one.shuffled)] for m, one in self.modalities.items()
        ]

    def agreement_rows(self) -> list[list[str]]:
        """Header and rows of the agreement matrix; none for a regression."""
        if self.agreement is None:
            return []
        rows = zip(*(self.agreement[key] for key in ("groups", "counts", "rate")), strict=True)
        return [["", "samples", "of them fused right"]] + [
            [group, str(sum(counts)), "" if rate is None else f"{counts[1]} ({rate:.0%})"]
            for group, counts, rate in rows
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with what is said about them."""
        modalities = {
            m: {key: list(x) if isinstance(x, Interval) else x for key, x in vars(one).items()}
            | {"under_trained": one.under_trained}
            for m, one in self.modalities.items()
        }
        return vars(self) | {
            "late": list(self.late),
            "modalities": modalities,
            "under_trained": self.under_trained,
            "findings": self.findings(),
            "advice": self.advice(),
            "tables": {
                f"Figures on {self.samples} validation samples: {self.value}": self.training_rows(),
                "What the fused prediction owes to each modality": self.use_rows(),
                "Uni-modal models and the fused one": self.agreement_rows(),
            },
        }


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(one.ljust(w) if i == 0 else one.rjust(w) for i, (one, w) in enumerate(zip(row, widths)))
        for row in rows
    ]
