"""How each golden record of sequence fusion is compared with the library: `CHECKS[record](inputs, expected, tol)`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.adapters import JointHead, Wander
from polymodal.adapters.sequence_fusion import SequenceFusion, sequence_fusion, vector_fusion
from polymodal.adapters.sequence_fusion_reference import dense_weight, sf_op, sf_vf
from polymodal.types import Features
from tests.golden.fusion_checks import close, every_key, tensor

Record = dict[str, Any]
Check = Callable[[Record, Record, float], None]
FORMS = ("auto", "stream", "core", "plain")
MODULE = "module_gelu_two_modalities"


def tensors(inputs: Record, *keys: str) -> list[list[Tensor]]:
    return [[tensor(one) for one in inputs[key]] for key in keys]


def dense(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"dense", "sum_outside", "sum_inside", "max_abs_difference"})
    h, w_t, w_h = tensors(inputs, "h", "w_t", "w_h")
    close(sf_op(h, dense_weight(w_t), dense_weight(w_h)), expected["dense"], tol)
    close(sf_vf(h, dense_weight(w_t), w_h), expected["dense"], tol)
    inside = sequence_fusion(h, w_t, w_h, rank_sum="inside")
    close(inside, expected["sum_inside"], tol)
    for form in FORMS:
        ours = sequence_fusion(h, w_t, w_h, form=form)
        close(ours, expected["sum_outside"], tol)
        close(ours, expected["dense"], tol)
        close((ours - inside).abs().max(), expected["max_abs_difference"], tol)


def rank_one(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"sum_inside"})
    h, w_t, w_h = tensors(inputs, "h", "w_t_rank1", "w_h_rank1")
    assert all(len(w) == 1 for w in [*w_t, *w_h])
    for form in FORMS:
        close(sequence_fusion(h, w_t, w_h, form=form), expected["sum_inside"], tol)


def vector(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"out"})
    h, w_h = tensors(inputs, "h", "w_h")
    close(vector_fusion(h, w_h), expected["out"], tol)


def wander_of(inputs: Record, **options: Any) -> tuple[Wander, dict[str, Features]]:
    """The module with the weights of a record, and its inputs."""
    h, down_w, down_b, w_t, w_h = tensors(inputs, "h", "down_w", "down_b", "w_t", "w_h")
    names = [f"m{i}" for i in range(len(h))]
    wander = Wander(
        {m: x.shape[2] for m, x in zip(names, h)},
        {m: w.shape[2] for m, w in zip(names, w_t)},
        down=len(down_w[0]),
        tokens=w_t[0].shape[1],
        width=w_h[0].shape[1],
        rank_t=len(w_t[0]),
        rank_h=len(w_h[0]),
        scale=1.0,
        **options,
    ).double()
    state: dict[str, Tensor] = {}
    for i, m in enumerate(names):
        state |= {f"downs.0.layers.{m}.weight": down_w[i], f"downs.0.layers.{m}.bias": down_b[i]}
        state |= {f"fusions.0.joint.w_t.{m}": w_t[i], f"fusions.0.joint.w_h.{m}": w_h[i]}
    wander.load_state_dict(state)
    return wander, {m: Features(x[:, 0], x) for m, x in zip(names, h)}


def gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad


def joint(wander: Wander, given: dict[str, Features]) -> Tensor:
    tokens = wander.after(given)[next(iter(given))].tokens
    assert tokens is not None
    return tokens


def module(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"down_act", "sf", "out_concat_prefix_residual", "sf_sum_inside", "out_sum_inside"})
    wander, given = wander_of(inputs)
    narrow = wander.downs[0]({m: f.tokens for m, f in given.items()})
    assert len(narrow) == len(expected["down_act"])
    for found, wanted in zip(narrow.values(), expected["down_act"]):
        close(found, wanted, tol)
    for options, key in [
        ({"residual": "none"}, "sf"),
        ({}, "out_concat_prefix_residual"),
        ({"residual": "none", "rank_sum": "inside"}, "sf_sum_inside"),
        ({"rank_sum": "inside"}, "out_sum_inside"),
    ]:
        close(joint(*wander_of(inputs, **options)), expected[key], tol)


def zero_init(inputs: Record, expected: Record, tol: float) -> None:
    from tests.golden.records import records

    every_key(expected, {"all_time_factors_zero", "first_only_zero"})
    found = next(one for one in records() if one.id == f"wander/{MODULE}")
    assert inputs == {"case": f"same weights as {MODULE}"}
    for key, all_of_them in {"all_time_factors_zero": True, "first_only_zero": False}.items():
        wander, given = wander_of(found.inputs, residual="none")
        fusions: Any = wander.fusions
        factors = fusions[0]["joint"].w_t
        for m in factors if all_of_them else list(factors)[:1]:
            nn.init.zeros_(factors[m])
        out = joint(wander, given)
        out.sum().backward()
        largest = [max(float(gradient(p).abs().max()) for p in wander.parameters_of(m)) for m in given]
        every_key(expected[key], {"max_out", "max_grad_per_modality"})
        close(out.abs().max(), expected[key]["max_out"], tol)
        close(torch.tensor(largest, dtype=torch.float64), expected[key]["max_grad_per_modality"], tol)


LENGTHS = {"mosi": (50, 50, 50), "iemocap": (22, 350, 50)}
OUTPUTS = {"mosi": 1, "iemocap": 4, "food": 101}
NAME = re.compile(r"(mosi|iemocap|food)(?:_(one|two))?_D(\d+)_d(\d+)_dt(\d+|d)(?:_l([\d_]+))?")


def counted_parameters(name: str) -> int:
    """Trainable parameters of the setting that a record's key names."""
    with torch.device("meta"):
        if name in ("paper_worked_example_factors_only", "sf_op_worked_example"):
            three = {m: 768 for m in "abc"}
            fusion = SequenceFusion(three, dict.fromkeys(three, 10), tokens=1, width=768)
            factors = list(fusion.w_h.values())
            if name.startswith("sf_op"):
                return dense_weight(factors).numel()
            return sum(factor.numel() for factor in factors)
        matched = NAME.fullmatch(name)
        assert matched, f"nothing computes {name}"
        data, modules, width, down, tokens, given = matched.groups()
        lengths = dict(enumerate(map(int, given.split("_")) if given else LENGTHS[data]))
        dims = {f"m{i}": int(width) for i in lengths}
        wander = Wander(
            dims,
            {f"m{i}": length for i, length in lengths.items()},
            down=int(down),
            tokens=int(down if tokens == "d" else tokens),
        )
        head: nn.Module = JointHead(dims, OUTPUTS[data])
        if data == "food" and modules == "two":  # a late-fusion head that reads the joint token once a modality
            wide = int(width)
            head = nn.Sequential(nn.Linear(len(dims) * wide, wide), nn.ReLU(), nn.Linear(wide, OUTPUTS[data]))
    one, last = (sum(p.numel() for p in part.parameters()) for part in (wander, head))
    return one * (2 if modules == "two" else 1) + last


def param_counts(inputs: Record, expected: Record, tol: float) -> None:
    assert expected
    for name, wanted in expected.items():
        close(torch.tensor(counted_parameters(name), dtype=torch.float64), wanted, tol)


CHECKS: dict[str, Check] = {
    "wander/sequence_fusion_dense_vs_cp": dense,
    "wander/inside_form_is_rank_one": rank_one,
    "wander/vector_fusion": vector,
    f"wander/{MODULE}": module,
    "wander/zero_init_gradients": zero_init,
    "wander/param_counts": param_counts,
}
