"""What the forms of sequence fusion cost: time, memory and operations of one training step, and parameters of a tensor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from polymodal.adapters.sequence_fusion import sequence_fusion
from polymodal.adapters.sequence_fusion_reference import dense_weight, sf_op, sf_vf
from polymodal.errors import InputError

__all__ = ["costs", "peak_bytes"]

FORMS = ("sf_op", "sf_vf", "sf")
METRICS = ("gpu_time_s", "memory_mb", "flops", "example_fusion_params_b", "example_fusion_params_m")
ROUNDS = 3


def costs(settings: Mapping[str, Any] | None, metric: str) -> dict[int, float]:
    """A cost of one form of fusion, under the key 0; nothing for what has no settings or is no cost.

    Args:
        settings: `form` (sf_op, sf_vf or sf), `lengths` and `dims` of the modalities, `tokens` (d_t) and `output` (d_h) of
            the result, `rank` and `batch`.
        metric: one of the published ones; "gpu_time_s" are seconds of a forward and backward pass on the fastest device
            there is, "memory_mb" the peak of what such a pass allocates, "flops" 10^9 operations of matrix products in the
            forward pass.

    Raises:
        InputError: an unknown form, or sizes that are missing.
    """
    if settings is None or metric not in METRICS:
        return {}
    try:
        form, lengths, dims = settings["form"], tuple(settings["lengths"]), tuple(settings["dims"])
        tokens, output, rank, batch = (int(settings[key]) for key in ("tokens", "output", "rank", "batch"))
    except KeyError as error:
        raise InputError(f"cost of a fusion: its settings lack {error}") from None
    if form not in FORMS:
        raise InputError(f"cost of a fusion: form {form!r}; there are {', '.join(FORMS)}")
    if metric.startswith("example_fusion_params"):
        return {0: _parameters(form, lengths, dims, tokens, output, rank) / (1e9 if metric.endswith("_b") else 1e6)}
    return {0: _measured(form, lengths, dims, tokens, output, rank, batch)[metric]}


def _parameters(form: str, lengths: Sequence[int], dims: Sequence[int], tokens: int, output: int, rank: int) -> int:
    """Of the whole weights, or of their factors where a form has these."""
    feature = output * prod(dims) if form == "sf_op" else rank * output * sum(dims)
    return feature + (rank * tokens * sum(lengths) if form == "sf" else tokens * prod(lengths))


@lru_cache(maxsize=16)
def _measured(
    form: str, lengths: tuple[int, ...], dims: tuple[int, ...], tokens: int, output: int, rank: int, batch: int
) -> dict[str, float]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device).requires_grad_()

    h = [drawn(batch, length, dim) for length, dim in zip(lengths, dims, strict=True)]
    w_t, w_h = [drawn(rank, tokens, length) for length in lengths], [drawn(rank, output, dim) for dim in dims]
    with torch.no_grad():
        whole_t, whole_h = (
            (dense_weight(one).requires_grad_() for one in (w_t, w_h)) if form == "sf_op" else (None, None)
        )
        whole_t = dense_weight(w_t).requires_grad_() if form == "sf_vf" else whole_t
    forward: Callable[[], Tensor] = {
        "sf_op": lambda: sf_op(h, whole_t, whole_h),  # type: ignore[arg-type]
        "sf_vf": lambda: sf_vf(h, whole_t, w_h),  # type: ignore[arg-type]
        "sf": lambda: sequence_fusion(h, w_t, w_h),
    }[form]

    def step() -> None:
        torch.autograd.backward(forward().square().sum())
        if device.type == "cuda":
            torch.cuda.synchronize()

    with FlopCounterMode(display=False) as counter:
        forward()
    memory = peak_bytes(step, device)
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return {"gpu_time_s": min(seconds), "memory_mb": memory / 1e6, "flops": counter.get_total_flops() / 1e9}


def peak_bytes(step: Callable[[], object], device: torch.device) -> float:
    """Bytes that the second of two steps allocates at once, on top of what is held before it."""
    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return float(torch.cuda.max_memory_allocated() - before)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it complains of machines without a graphics card
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    profiler = watched.profiler
    assert profiler is not None
    assert profiler.kineto_results is not None
    held = most = 0
    events = [one for one in profiler.kineto_results.events() if one.name() == "[memory]"]
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return float(most)
