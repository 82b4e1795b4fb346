"""How each golden record of balancers is compared with the library: `CHECKS[record](inputs, expected, tol)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.balancers import MSLR, PMR
from polymodal.balancers.agm import agm_coefficients, agm_losses, agm_ratios, agm_running, scale_gradient
from polymodal.balancers.mmpareto import mmpareto_combine, mmpareto_cosine, mmpareto_factor, mmpareto_weights
from polymodal.balancers.mslr import mslr_coefficients
from polymodal.balancers.ogm import ogm_ratios
from polymodal.balancers.passes import shapley_parts
from polymodal.balancers.pmr import pmr_gates
from polymodal.balancers.prototypes import average_prototypes, prototype_similarities
from polymodal.encoders import Encoder
from polymodal.fusion import Sum
from polymodal.model import MultimodalModel, totals
from polymodal.recipes.gblend import gblend_overfitting, gblend_ratios, gblend_weights
from polymodal.tasks import Classification
from polymodal.types import Batch, Features, Output, Step

Record = dict[str, Any]
Check = Callable[[Record, Record, float], None]


def tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def close(actual: Tensor, expected: Any, tol: float) -> None:
    """Equal shapes, and every number within `tol`."""
    wanted = tensor(expected)
    assert actual.dtype == torch.float64, actual.dtype
    assert actual.shape == wanted.shape, (actual.shape, wanted.shape)
    difference = (actual.detach() - wanted).abs().max().item()
    assert difference <= tol, f"differs by {difference}, allowed {tol}"


def all_close(found: dict[str, Tensor], expected: Record, tol: float) -> None:
    assert set(found) == set(expected), f"computed {sorted(found)}, the record holds {sorted(expected)}"
    for key, value in found.items():
        close(value, expected[key], tol)


class Given(Encoder):
    """Stands for features that are given; it is never run."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim


def only(full: Tensor, audio: Tensor, video: Tensor) -> dict[frozenset[str], Tensor]:
    """Logits by the modalities that are left."""
    return {frozenset("av"): full, frozenset("a"): audio, frozenset("v"): video}


def agm_parts(inputs: Record, expected: Record, tol: float) -> None:
    left = [tensor(inputs[key]) for key in ("full", "visual_zeroed", "audio_zeroed")]
    phi = shapley_parts(only(*left))
    target = torch.tensor(inputs["y"])
    task = Classification(left[0].shape[1])
    found = {f"out_{m}": part for m, part in phi.items()} | {"sum_equals_full": phi["a"] + phi["v"]}
    found |= {f"s_{m}": agm_losses(task.score(part, target)).mean() for m, part in phi.items()}
    all_close(found, expected, tol)
    close(left[0], expected["sum_equals_full"], tol)


def agm_step(inputs: Record, expected: Record, tol: float) -> None:
    losses, running = tensor(inputs["s"]), tensor(inputs["running"])
    ratios, targets = agm_ratios(losses), agm_ratios(running)
    found = {"r": ratios, "tau": targets, "k": agm_coefficients(ratios, targets, inputs["alpha"])}
    found["running_after"] = agm_running(running, losses, inputs["iteration"])
    all_close(found, expected, tol)


def agm_backward(inputs: Record, expected: Record, tol: float) -> None:
    grad = tensor(inputs["grad_out"])
    passes = [torch.zeros_like(grad, requires_grad=True) for _ in range(3)]
    phi = shapley_parts(only(*passes))
    out = torch.stack([scale_gradient(phi[m], tensor(inputs[f"k_{m}"])) for m in "av"]).sum(0)
    grads = torch.autograd.grad(out, passes, grad)
    names = ("grad_full", "grad_visual_zeroed_pass", "grad_audio_zeroed_pass")
    all_close(dict(zip(names, grads, strict=True)), expected, tol)


def agm_ratio(inputs: Record, expected: Record, tol: float) -> None:
    all_close({"r": agm_ratios(tensor(inputs["s"]))}, expected, tol)


def pmr_loss(inputs: Record, expected: Record, tol: float) -> None:
    features = {m: tensor(inputs[f"f_{m}"]) for m in "av"}
    prototypes = {m: tensor(inputs[f"proto_{m}"]) for m in "av"}
    logits, target, alpha = tensor(inputs["logits"]), torch.tensor(inputs["y"]), inputs["alpha"]
    task = Classification(logits.shape[1])
    sims = {m: prototype_similarities(features[m], prototypes[m]) for m in "av"}
    ratios = ogm_ratios(torch.stack([task.score(sims[m], target).mean() for m in "av"]))
    found = {f"sim_{m}": sims[m] for m in "av"} | {"rho": ratios[0]}
    found |= {f"beta_{m}": beta for m, beta in zip("av", alpha * pmr_gates(ratios), strict=True)}
    found |= {f"pce_{m}": task.losses(sims[m], target).mean() for m in "av"}
    # The loss is that of the balancer itself, whose prototypes are set to those of the record.
    dims = {m: h.shape[1] for m, h in features.items()}
    model = MultimodalModel({m: Given(dim) for m, dim in dims.items()}, Sum(dims, task.outputs).double())
    balancer = PMR(alpha)
    balancer.check(model, task)
    state = {
        "bank.prototypes": torch.cat([prototypes[m] for m in "av"], 1),
        "bank.known": torch.ones(len(dims), task.outputs, dtype=torch.bool),
        "bank.updates": torch.tensor(1),
        "epoch": torch.tensor(0),
    }
    balancer.load_state_dict(state)
    batch = Batch({m: Features(h) for m, h in features.items()}, target)
    output = Output(logits, {}, {m: Features(h) for m, h in features.items()})
    found["loss"] = balancer.loss(Step(model, batch, output, task, totals([batch], task, model.modalities)))
    all_close(found, expected, tol)


def pmr_average(inputs: Record, expected: Record, tol: float) -> None:
    new = average_prototypes(tensor(inputs["old"]), tensor(inputs["batch_mean"]), inputs["momentum"])
    all_close({"proto": new}, expected, tol)


def mslr_epochs(inputs: Record, expected: Record, tol: float) -> None:
    figures, memory = inputs["val_acc_per_epoch"], inputs["memory"]
    rule = [
        mslr_coefficients(tensor(figures[:epoch])[:, None], tensor([inputs["init"]]), memory)
        for epoch in range(len(figures) + 1)
    ]
    model = MultimodalModel({m: _frozen_width() for m in "av"}, Sum(dict.fromkeys("av", 2), 2).double())
    balancer, task = MSLR(initial=[inputs["init"]], memory=memory), Classification(2)
    balancer.check(model, task)
    used = [balancer.coefficients({}, task)["v"]]
    for figure in figures:
        balancer.end_epoch({"a": 0.5, "v": figure})
        used.append(balancer.coefficients({}, task)["v"])
    close(torch.stack(used), torch.cat(rule).tolist(), 1e-12)
    all_close({"coefficient_used_in_epoch_0_based": torch.cat(rule)}, expected, tol)


def _frozen_width() -> Encoder:
    encoder = Given(2)
    encoder.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    return encoder


def gblend(inputs: Record, expected: Record, tol: float) -> None:
    losses = [tensor(inputs[key]) for key in ("train_n", "val_n", "train_N", "val_N")]
    generalization, overfitting = gblend_overfitting(*losses)
    found = {"G": generalization, "O": overfitting, "raw": gblend_ratios(generalization, overfitting)}
    all_close(found | {"w": gblend_weights(*losses)}, expected, tol)


def mmpareto(inputs: Record, expected: Record, tol: float) -> None:
    multi, uni, gamma = tensor(inputs["g_multi"]), tensor(inputs["g_uni"]), inputs["gamma"]
    combined = mmpareto_combine(multi, uni)
    factor = mmpareto_factor(multi + uni, combined)
    found = {"cos": mmpareto_cosine(multi, uni), "w": mmpareto_weights(multi, uni), "new": combined, "factor": factor}
    all_close(found | {"final": gamma * factor * combined}, expected, tol)


CHECKS: dict[str, Check] = {
    "agm/mono_modal_logits_and_scores": agm_parts,
    "agm/step1_running_zero": agm_step,
    "agm/step10": agm_step,
    "agm/backward_through_decomposition": agm_backward,
    "agm/three_modality_ratio": agm_ratio,
    "pmr/loss": pmr_loss,
    "pmr/prototype_ema": pmr_average,
    "mslr/dynamic_coefficient": mslr_epochs,
    "gblend/weights": gblend,
    "mmpareto/aligned": mmpareto,
    "mmpareto/conflicting": mmpareto,
}
