"""What the library computes for each golden record: `CHECKS[topic][name](inputs, keys)` gives every key of `expected`.

Numbers, sizes, the modalities and their number come from the record alone; nothing is computed here that the library has.
"""

# mypy: disable-error-code="arg-type, operator, union-attr, index"

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymodal import metrics, tasks
from polymodal.balancers import MLB, OGM, OGM_GE, Balancer
from polymodal.balancers.mlb import mlb_ratios
from polymodal.balancers.ogm import ogm_noise_std, ogm_ratios
from polymodal.balancers.scores import heads
from polymodal.encoders import Encoder
from polymodal.fusion import Concat, Mixture, Sum
from polymodal.fusion.mixture import log_mixture
from polymodal.model import MultimodalModel, forward
from polymodal.tasks import Classification, MultiLabel
from polymodal.types import Batch, Features, Task
from polymodal.types import Sum as Count

Inputs = dict[str, Any]
Keys = Sequence[str]
Check = Callable[[Inputs, Keys], dict[str, Any]]


def exact(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def by_modality(inputs: Inputs, prefix: str) -> dict[str, Tensor]:
    """{"logits_a": ..., "logits_v": ...} as {"a": ..., "v": ...}."""
    return {key.removeprefix(prefix): exact(value) for key, value in inputs.items() if key.startswith(prefix)}


class Linear(Encoder):
    """h = x W without bias."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.dim = weight.shape[1]
        self.layer = linear(weight)

    def forward(self, x: Tensor) -> Features:
        return Features(self.layer(x))


class Given(Encoder):
    """Stands for features that are given; it is never run."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim


def linear(weight: Tensor) -> nn.Linear:
    """x W without bias."""
    layer = nn.Linear(weight.shape[0], weight.shape[1], bias=False, dtype=weight.dtype)
    layer.weight.data.copy_(weight.T)
    return layer


def averaging(logits: dict[str, Tensor], **options: Any) -> tuple[MultimodalModel, dict[str, Features]]:
    """A model whose uni-modal heads yield exactly these logits, and the inputs for it."""
    width = next(iter(logits.values())).shape[1]
    dims = dict.fromkeys(logits, width)
    mixture = Mixture(dims, width, **options)
    model = MultimodalModel({m: Given(width) for m in logits}, mixture, {m: nn.Identity() for m in logits})
    return model, {m: Features(z) for m, z in logits.items()}


def turned(parameter: Tensor) -> Tensor:
    """A weight as the records have it, (in, out); a bias as it is."""
    return parameter.mT if parameter.ndim == 2 else parameter


# mlb ------------------------------------------------------------------------------------------------------------------


def mlb_rule(inputs: Inputs, keys: Keys) -> dict[str, Any]:
    scores = {str(i): exact(s) for i, s in enumerate(inputs["scores"])}
    balancer = MLB(alpha=inputs["alpha"], beta_max=inputs["beta_max"], eps=0.0)
    k = balancer.coefficients(scores, Classification(2))
    return {"r": mlb_ratios(exact(inputs["scores"])), "k": [k[m] for m in scores]}


def mlb_scores(inputs: Inputs, keys: Keys) -> dict[str, Any]:
    logits = {m: exact(z) for m, z in inputs["logits"].items()}
    model, features = averaging(logits)
    target = torch.tensor(inputs["y"])
    found = heads(forward(model, Batch(features, target), Classification(model.fusion.outputs)))
    return {
        "s_mean": {m: one.total / one.count for m, one in found.items()},
        "s_sum": {m: one.total for m, one in found.items()},
    }


def mlb_step(inputs: Inputs, keys: Keys) -> dict[str, Any]:
    xs, target = by_modality(inputs, "x_"), torch.tensor(inputs["y"])
    given = {name: exact(value) for name, value in inputs["params"].items()}
    classes = len(given["b"])

    def model_of_record() -> tuple[MultimodalModel, dict[str, Any]]:
        encoders = {m: Linear(given[f"W{m}"]) for m in xs}
        fusion = Concat({m: encoder.dim for m, encoder in encoders.items()}, classes).double()
        for m in xs:
            fusion.blocks[m] = linear(given[f"U{m}"])
        fusion.bias.data.copy_(given["b"])
        heads = {m: linear(given[f"C{m}"]) for m in xs}
        named = {f"W{m}": encoders[m].layer.weight for m in xs} | {f"U{m}": fusion.blocks[m].weight for m in xs}
        named |= {"b": fusion.bias} | {f"C{m}": heads[m].weight for m in xs}
        return MultimodalModel(encoders, fusion, heads), named

    def train(scope: Sequence[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        model, named = model_of_record()
        balancer = MLB(alpha=inputs["alpha"], beta_max=inputs["beta_max"], eps=0.0, scope=scope)
        step = forward(model, Batch(xs, target), Classification(classes))
        loss = balancer.backward(step)
        before = {name: turned(p.grad).clone() for name, p in named.items()}
        k = balancer.modulate(step)
        s = [balancer.last_scores[m] for m in xs]
        torch.optim.SGD(model.parameters(), lr=inputs["lr"]).step()
        seen = {"loss": loss, "grads": before, "s": s, "r": mlb_ratios(torch.stack(s)), "k": [k[m] for m in xs]}
        return seen, {name: turned(p.detach()) for name, p in named.items()}

    seen, paper = train(("encoder", "head"))
    _, code = train(("encoder", "head", "fusion"))
    return seen | {"after_paper_scope": paper, "after_official_code_scope": code}


class Prescribed(Balancer):
    """Coefficients that are given beforehand: one a step for modality "a", 1 for "b"."""

    def __init__(self, values: Iterator[float], apply_to: str) -> None:
        one = Count(exact(1.0), exact(1.0))
        super().__init__(score=lambda step: {"a": one, "b": one}, scope=("encoder",), apply_to=apply_to)
        self.values = values

    def coefficients(self, scores: dict[str, Tensor], task: Task) -> dict[str, Tensor]:
        return {"a": exact(next(self.values)), "b": exact(1.0)}


class Slope(tasks.Task):
    """Loss = target x logit, whose gradient is the target."""

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits[:, 0] * target


def mlb_adam(inputs: Inputs, keys: Keys) -> dict[str, Any]:
    def trace(coefficients: Sequence[float], apply_to: str) -> dict[str, list[Tensor]]:
        model = MultimodalModel({m: Linear(exact([[0.0]])) for m in "ab"}, Sum(dict.fromkeys("ab", 1), 1).double())
        for layer in model.fusion.layers.values():
            nn.init.ones_(layer.weight)
        model.fusion.requires_grad_(False)
        optimizer = torch.optim.Adam(model.param_groups(inputs["lr"], ("encoder",)))
        balancer = Prescribed(iter(coefficients), apply_to)
        if apply_to == "update":
            balancer.attach(optimizer)
        places: dict[str, list[Tensor]] = {"a": [], "b": []}
        for grad in inputs["grads"]:
            step = forward(model, Batch(dict.fromkeys("ab", exact([[1.0]])), exact([grad])), Slope())
            balancer.backward(step)
            balancer.modulate(step)
            optimizer.step()
            optimizer.zero_grad()
            for m, seen in places.items():
                seen.append(model.encoders[m].layer.weight.detach().clone().squeeze())
        return places

    constant = [inputs["const_k"]] * len(inputs["grads"])
    results = {
        f"{kind}_{apply_to}_scaling": trace(k, apply_to)
        for kind, k in (("const_k", constant), ("varying_k", inputs["varying_k"]))
        for apply_to in ("grad", "update")
    }
    free = [places["b"] for places in results.values()]
    assert all(torch.equal(torch.stack(one), torch.stack(free[0])) for one in free)
    return {name: places["a"] for name, places in results.items()} | {"no_scaling": free[0]}


# ogm ------------------------------------------------------------------------------------------------------------------


def ogm_rule(inputs: Inputs, keys: Keys) -> dict[str, Any]:
    scores = by_modality(inputs, "sum_score_")
    rho = ogm_ratios(torch.stack(list(scores.values())))
    k = OGM(inputs["alpha"], eps=0.0).coefficients(scores, Classification(2))
    return {f"rho_{m}": rho[i] for i, m in enumerate(scores)} | {f"k_{m}": k[m] for m in scores}


def ogm_split(inputs: Inputs, keys: Keys) -> dict[str, Any]:
    given, weight, bias = by_modality(inputs, "f_"), exact(inputs["W"]), exact(inputs["b"])
    dims = {m: f.shape[1] for m, f in given.items()}
    fusion = Concat(dims, len(bias)).double()
    for m, block in zip(dims, weight.split(list(dims.values()), 1), strict=True):
        fusion.blocks[m].weight.data.copy_(block)
    fusion.bias.data.copy_(bias)
    features = {m: Features(f) for m, f in given.items()}
    return {"z": fusion(features, {})} | {f"z_{m}": share for m, share in fusion.parts(features).items()}


def ogm_noise(inputs: Inputs, keys: Keys) -> dict[str, Any]:
    grad, k, seed = exact(inputs["grad"]), exact(inputs["k"]), 3
    changed, mean = grad.clone(), grad.clone()
    OGM_GE(seed=seed).rescale(changed, k)
    OGM().rescale(mean, k)
    normal = torch.empty_like(grad).normal_(generator=torch.Generator().manual_seed(seed))
    # Both from the noisy gradient: what is left of it without the noise, and the noise in units of a standard normal.
    return {"mean": changed - ogm_noise_std(grad) * normal, "noise_std": ((changed - mean) / normal).mean()}


# mmlora ---------------------------------------------------------------------------------------------------------------


def mixture_losses(inputs: Inputs, keys: Keys) -> dict[str, Any]:
    logits = {m: z.requires_grad_() for m, z in by_modality(inputs, "logits_").items()}
    target = torch.tensor(inputs["y"])
    stacked = torch.stack(list(logits.values()))
    task = Classification(stacked.shape[-1])

    def loss_of(model: MultimodalModel, features: dict[str, Features]) -> tuple[Tensor, Tensor]:
        step = forward(model, Batch(features, target), task)
        assert step.output.logits is not None
        return step.output.logits, step.fused_loss()

    z, nll = loss_of(*averaging(logits))
    averaged, nll_logit = loss_of(*averaging(logits, combine="logit"))
    classes = stacked.shape[-1]
    total = Sum(dict.fromkeys(logits, classes), classes).double()
    for layer in total.layers.values():
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    features = {m: Features(one) for m, one in logits.items()}
    _, nll_sum = loss_of(MultimodalModel({m: Given(classes) for m in logits}, total), features)
    unnormalised = log_mixture(stacked, torch.zeros(stacked.shape[:2], dtype=torch.float64))
    grads = torch.autograd.grad(nll, list(logits.values()))
    return {
        "prob_average": task.probabilities(z),
        "log_mixture": z,
        "nll_mixture": nll,
        "nll_logit_average": nll_logit,
        "nll_sum_of_logits": nll_sum,
        "eq3_without_1_over_M": -unnormalised[torch.arange(len(target)), target].mean(),
        "argmax_prob": task.predict(task.probabilities(z).detach().numpy()),
        "argmax_logit": task.predict(task.probabilities(averaged).detach().numpy()),
    } | {f"grad_logits_{m}": grad for m, grad in zip(logits, grads, strict=True)}


def mixture_rules(inputs: Inputs, keys: Keys) -> dict[str, Any]:
    logits = by_modality(inputs, "logits_")
    task = Classification(next(iter(logits.values())).shape[1])
    found = {}
    for rule in ("prob", "logit"):
        model, features = averaging(logits, combine=rule)
        found[f"argmax_{rule}"] = task.predict(task.probabilities(model(features).logits).numpy())
    return found


def mixture_of_bernoullis(inputs: Inputs, keys: Keys) -> dict[str, Any]:
    logits, target = by_modality(inputs, "logits_"), exact(inputs["target"])
    task = MultiLabel(target.shape[1])
    steps = {}
    for rule in ("prob", "logit"):
        model, features = averaging(logits, combine=rule, kind="bernoulli")
        steps[rule] = forward(model, Batch(features, target), task)
    probabilities = task.probabilities(steps["prob"].output.logits)
    return {
        "prob_average": probabilities,
        "bce_prob_average": steps["prob"].fused_loss(),
        "bce_logit_average": steps["logit"].fused_loss(),
        "pred_at_half": task.predict(probabilities.numpy()),
    }


# analysis -------------------------------------------------------------------------------------------------------------


def calibration(inputs: Inputs, keys: Keys) -> dict[str, Any]:
    """Keys are "bins5_right", "bins5_left", or "bins5" where both closings agree."""
    found = {}
    for key in keys:
        bins, _, closed = key.removeprefix("bins").partition("_")
        both = {
            side: metrics.calibration(inputs["confidence"], inputs["correct"], bins=int(bins), closed=side)._asdict()
            for side in ("right", "left")
        }
        if not closed:
            assert all(abs(both["left"][name] - both["right"][name]) < 1e-12 for name in both["left"])
        found[key] = both[closed or "right"]
    return found


def multilabel_f1(inputs: Inputs, keys: Keys) -> dict[str, Any]:
    return {average: metrics.f1(inputs["pred"], inputs["true"], average) for average in keys}


CHECKS: dict[str, dict[str, Check]] = {
    "mlb": {
        "two_modalities_beta10": mlb_rule,
        "two_modalities_symmetric_beta2": mlb_rule,
        "three_modalities_beta5": mlb_rule,
        "beta_max_1_means_no_acceleration": mlb_rule,
        "equal_scores_give_one": mlb_rule,
        "scores_from_logits": mlb_scores,
        "one_sgd_step_linear_model": mlb_step,
        "adam_scale_invariance": mlb_adam,
    },
    "ogm": {
        "audio_dominates": ogm_rule,
        "visual_dominates": ogm_rule,
        "tie_goes_to_else_branch": ogm_rule,
        "split_concat_head": ogm_split,
        "ge_noise_std": ogm_noise,
    },
    "mmlora": {
        "mixture_nll_vs_logit_average": mixture_losses,
        "rules_disagree": mixture_rules,
        "multilabel": mixture_of_bernoullis,
    },
    "analysis": {
        "ece": calibration,
        "ece_no_value_on_an_edge": calibration,
        "multilabel_f1": multilabel_f1,
    },
}
