"""Wander: the token sequences of frozen encoders interact through low-rank factors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from polymodal.recipes.adapter import train_adapter
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.transfer import StartFrom
from polymodal.recipes.unimodal import Checkpoints
from polymodal.tasks import Retrieval

__all__ = ["wander"]


def wander(
    setup: Setup,
    down: int | None = None,
    rank_t: int = 8,
    rank_h: int = 8,
    output: str | None = None,
    tokens: int | None = None,
    width: int | None = None,
    residual: str | None = None,
    rank_sum: str = "outside",
    shared_rank: bool = False,
    activation: str = "gelu",
    fusion: str = "sequence",
    pool: str = "first",
    zero: str | None = None,
    scale: float | None = None,
    last: int = 0,
    at: Collection[int] | None = None,
    lengths: Mapping[str, int] | None = None,
    longer: str = "cut",
    form: str = "auto",
    fine_tune: bool = True,
    checkpoints: Checkpoints = None,
    start_from: StartFrom = None,
    after: str | Mapping[str, Any] | None = None,
) -> Result:
    """Fine-tune each encoder alone, freeze all, put Wander behind them or after their layers, train it and the head.

    Wander(h) = residual + SF(act(Down_m h_m)), with SF(h) = sum_r sum_s prod_m (w_t,m^(r) h_m w_h,m^(s)^T). Behind the encoders
    (`last=0`) their token sequences come from a cache, so that an epoch costs what the adapter costs. With the joint output the
    default fusion `concat` is one linear layer on the joint sequence (`JointHead`); any other reads that sequence once a
    modality. With `output="per_modality"` the configured fusion reads each modality's own, and the model begins as it would
    without the adapter. The configured balancer acts in the joint stage.

    Args:
        down: width d behind Down; an eighth of the smallest encoder's by default, 0 for no Down.
        rank_t: R_t.
        rank_h: R_h.
        output: "joint" (one sequence of all modalities) or "per_modality" (each keeps its own; after layers only this). By
            default "joint", and "per_modality" for retrieval, where Wander stands over the experts of the gallery alone.
        tokens: d_t of the joint output, 16 by default.
        width: d_h of the joint output; must be given where the encoders' widths differ.
        residual: "concat_prefix", "cls_sum", "projected" or "none"; of "per_modality" "own" or "none".
        rank_sum: "outside" the product, or "inside" as the paper prints last, which is of rank 1.
        shared_rank: one rank index for both factors.
        activation: "gelu", "relu" or "none".
        fusion: "sequence"; "vector", of mean tokens; "sf_op" or "sf_vf", the paper's forms with whole weights, whose numbers
            grow with the product of widths and lengths.
        pool: the pooled features of the joint output, its "first" token or the "mean".
        zero: the modality whose time factor starts at zero; the last by default.
        scale: of SF; (R_t R_h)^(-1/2) by default.
        last: layers of all encoders that run side by side, with Wander after each; 0 is behind the encoders.
        at: after which of these layers, 0 to last - 1; all by default.
        lengths: the most tokens of each modality; by default the longest of training and validation.
        longer: longer sequences are "cut", or an "error".
        form: how the fusion is computed, see `adapters.sequence_fusion`.
        fine_tune: false leaves out the uni-modal phase, for encoders that are pre-trained.
        checkpoints: of the uni-modal phase, see `frozen_features`.
        start_from: what the encoders begin with, see `adapter`.
        after: another recipe whose encoders are frozen, such as mmlora, or joint with a balancer, see `adapter`.

    Raises:
        InputError: settings that cannot be, before anything is trained.

    Source: Guo et al. 2025, sections 3.2 and 3.3.
    Differs from the authors' code: see `adapters.Wander`; what is known of it computes `rank_sum="inside"`.
    """
    output = output or ("per_modality" if isinstance(setup.task, Retrieval) else "joint")
    part = {
        "name": "wander", "down": down, "rank_t": rank_t, "rank_h": rank_h, "output": output, "tokens": tokens, "width": width,
        "residual": residual, "rank_sum": rank_sum, "shared_rank": shared_rank, "activation": activation, "fusion": fusion,
        "pool": pool, "zero": zero, "scale": scale, "last": last, "at": None if at is None else sorted(at), "lengths": lengths,
        "longer": longer, "form": form,
    }  # fmt: skip
    return train_adapter(setup, "wander", part, None, fine_tune, checkpoints, start_from, after)
