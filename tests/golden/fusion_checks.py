"""How each golden record of fusions is compared with the library: `CHECKS[record](inputs, expected, tol)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from polymodal.fusion import LMF, TFN, FiLM, Gated, MMCosine
from polymodal.fusion.tensor import outer
from polymodal.tasks import Classification
from polymodal.types import Features

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


def every_key(expected: Record, known: set[str]) -> None:
    assert set(expected) == known, f"the record holds {sorted(expected)}, this compares {sorted(known)}"


def features(inputs: Record, keys: Sequence[str]) -> dict[str, Features]:
    return {key: Features(tensor(inputs[key])) for key in keys}


def widths(given: dict[str, Features]) -> dict[str, int]:
    return {m: f.pooled.shape[-1] for m, f in given.items()}


def fill(layer: Any, weight: Any, bias: Any = None) -> None:
    """Put a record's numbers into a linear layer; shapes must agree."""
    values = {"weight": tensor(weight)} | ({} if bias is None else {"bias": tensor(bias)})
    layer.load_state_dict(values)


def film(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"z"})
    given = features(inputs, ["a", "v"])
    fusion = FiLM(widths(given), len(inputs["bo"]), conditioner="a").double()
    fill(fusion.modulation, inputs["Wg"], inputs["bg"])
    fill(fusion.head, inputs["Wo"], inputs["bo"])
    close(fusion(given, {}), expected["z"], tol)


def gated(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"z"})
    given = features(inputs, ["a", "v"])
    fusion = Gated(widths(given), len(inputs["bo"]), hidden=len(inputs["bx"]), gate_modality="a").double()
    fill(fusion.projections["a"], inputs["Wx"], inputs["bx"])
    fill(fusion.projections["v"], inputs["Wy"], inputs["by"])
    fill(fusion.head, inputs["Wo"], inputs["bo"])
    close(fusion(given, {}), expected["z"], tol)


def tfn_tensor(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"fusion", "dim"})
    given = features(inputs, list(inputs))
    close(outer([f.pooled for f in given.values()]), expected["fusion"], tol)
    assert TFN(widths(given), outputs=1).size == expected["dim"]


def lmf(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"out", "out_sum_inside_product_wrong"})
    given = features(inputs, [key for key in inputs if key not in ("factors", "rank_weights", "bias")])
    factors = [tensor(factor) for factor in inputs["factors"]]
    rank, _, outputs = factors[0].shape
    for form, key in (("outside", "out"), ("inside", "out_sum_inside_product_wrong")):
        fusion = LMF(widths(given), outputs, rank, rank_sum=form).double()
        state = {f"factors.{index}": factor for index, factor in enumerate(factors)} | {"bias": tensor(inputs["bias"])}
        if form == "outside":
            state["rank_weights"] = tensor(inputs["rank_weights"])
        fusion.load_state_dict(state)
        close(fusion(given, {}), expected[key], tol)


def scaled_cosines(inputs: Record, expected: Record, tol: float) -> None:
    every_key(expected, {"z_a", "z_v", "z", "loss_y"})
    given = {"a": Features(tensor(inputs["f_a"])), "v": Features(tensor(inputs["f_v"]))}
    weight = tensor(inputs["W"])
    fusion = MMCosine(widths(given), len(weight), scale=inputs["scale"]).double()
    block_a, block_v = weight.split(list(fusion.dims.values()), 1)
    fill(fusion.blocks["a"], block_a.tolist())
    fill(fusion.blocks["v"], block_v.tolist())
    for mode in (fusion.train(), fusion.eval()):
        close(mode(given, {}), expected["z"], tol)
    parts = fusion.parts(given)
    close(parts["a"], expected["z_a"], tol)
    close(parts["v"], expected["z_v"], tol)
    close(_loss(fusion(given, {}), expected["loss_y"], inputs, tol), expected["loss_y"], tol)


def _loss(logits: Tensor, expected: float, inputs: Record, tol: float) -> Tensor:
    """Mean cross-entropy at the record's labels, which stand in its note alone: [0, 2], or those that fit best."""
    samples, classes = logits.shape
    task = Classification(classes)
    if "y" in inputs:
        return task.losses(logits, torch.tensor(inputs["y"])).mean()
    candidates = [(0, 2)] if samples == 2 and classes > 2 else []
    first = [task.losses(logits, torch.tensor(y)).mean() for y in candidates]
    if first and abs(first[0].item() - expected) <= tol:
        return first[0]
    assert classes**samples <= 100_000, "too many labels to try; put y into the record's inputs"
    tried = [task.losses(logits, torch.tensor(y)).mean() for y in product(range(classes), repeat=samples)]
    return min(tried, key=lambda loss: abs(loss.item() - expected))


CHECKS: dict[str, Check] = {
    "fusion/film": film,
    "fusion/gated": gated,
    "fusion/tfn_tensor": tfn_tensor,
    "fusion/lmf": lmf,
    "mmcosine/scaled_cosines": scaled_cosines,
}
