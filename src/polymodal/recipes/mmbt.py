"""MMBT: one BERT reads a text and the cells of an image, trained as a whole (Kiela et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from polymodal.adapters import MMBT, insert
from polymodal.balancers import Balancer
from polymodal.encoders.base import width
from polymodal.errors import InputError
from polymodal.model import MultimodalModel
from polymodal.names import dotted
from polymodal.recipes.adapter import head_part
from polymodal.recipes.base import Result, Setup
from polymodal.recipes.transfer import StartFrom, started
from polymodal.tasks import Retrieval
from polymodal.types import Step

__all__ = ["mmbt"]


class _Thawing(Balancer):
    """Joint training in whose first epochs some encoders stand still: their gradients are dropped before the step.

    BatchNorm's running statistics move meanwhile, as they do in the authors' code.

    Args:
        epochs: of each modality, for how many its encoder stands still.
    """

    def __init__(self, epochs: Mapping[str, int]) -> None:
        super().__init__()
        self.still = dict(epochs)

    @torch.no_grad()
    def modulate(self, step: Step) -> dict[str, Tensor]:
        for m, count in self.still.items():
            for p in step.model.parameters_of(m, ("encoder",)) if int(self.epoch) < count else ():
                p.grad = None
        return super().modulate(step)


def mmbt(
    setup: Setup,
    images: int = 3,
    freeze_image: int = 3,
    freeze_text: int = 5,
    sep: int = 102,
    start_from: StartFrom = None,
) -> Result:
    """Train one BERT on the words of a text behind the cells of an image, and the image encoder with it.

    The sequence is [CLS] image 1 ... image N [SEP] text, see `polymodal.adapters.MMBT`. The default fusion `concat` is one
    linear layer on its pooled token (`JointHead`). There is one stage, and no prediction of a single modality.

    Args:
        images: N, cells that the last map of the image encoder is averaged to, 1 to 9.
        freeze_image: epochs in which the image encoder does not train.
        freeze_text: epochs in which BERT does not train.
        sep: number of the token [SEP]; 102 in the vocabularies of BERT.
        start_from: a run's folder or a file of weights (or one a modality), whose encoders' tensors are what the encoders begin
            with.

    Raises:
        InputError: other encoders than one of BERT's build with two segments and one with a square map of cells, a balancer, a
            retrieval task, or fewer than 0 epochs.

    Source: Kiela et al. 2019, section 3; N and the epochs as in their code.
    Differs from the authors' code: see `adapters.MMBT`; texts are cut by `data.inputs.<modality>.max_length`.
    """
    if isinstance(setup.task, Retrieval):
        raise InputError(
            "mmbt: it makes one prediction of an image and its text together; retrieval needs two embeddings"
        )
    if min(freeze_image, freeze_text) < 0:
        raise InputError(f"mmbt: freeze_image={freeze_image}, freeze_text={freeze_text}; epochs, 0 or more")
    if type(setup.make_balancer()) is not Balancer:
        raise InputError(
            f"mmbt: balancer {setup.config.balancer.name!r} compares modalities, which are one sequence here; use joint"
        )
    setup = started(setup, start_from)[0]
    part = {"name": dotted(MMBT), "images": images, "sep": sep}

    def build() -> MultimodalModel:
        encoders = {m: setup.make_encoder(m) for m in setup.modalities}
        trained = [p for encoder in encoders.values() for p in encoder.parameters() if p.requires_grad]
        put = insert(part, encoders, trust=setup.trust)
        assert isinstance(put, MMBT)
        for p in trained:
            p.requires_grad_(True)
        dims = put.dims_after({m: width(encoder) for m, encoder in encoders.items()})
        return MultimodalModel(encoders, setup.fusion(dims, head_part(setup, put)), adapter=put)

    setup.seed("check")
    adapter = build().adapter
    assert isinstance(adapter, MMBT)
    balancer = _Thawing(dict(zip(adapter.modalities, (freeze_image, freeze_text), strict=True)))
    model, history = setup.fit("mmbt", build, balancer)
    kept = {"part": part, "lengths": None, "modalities": None}
    return Result(model, head_part(setup, model.adapter), {setup.stage_name("mmbt"): history.best_epoch}, adapter=kept)
