"""Switches of scale leave results equal: activation checkpoints, compilation, bf16, accumulation."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from polymodal.balancers import AGM, MLB, Balancer, MMPareto, MultiLoss
from polymodal.blocks import MaskedBatchNorm
from polymodal.checkpointing import checkpointed
from polymodal.encoders import ImageCNN, SequenceTransformer, linear_heads
from polymodal.errors import InputError
from polymodal.fit import History, fit
from polymodal.fusion import Concat
from polymodal.model import MultimodalModel
from polymodal.run import RunFolder, load_weights
from polymodal.tasks import Classification
from polymodal.types import Batch
from tests.builders import difference, rows, weights

TASK = Classification(3)
# torch.compile looks at the gradients of all tensors, which warns of some.
INSIDE_TORCH = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


def make_model(dropout: float = 0.2, norm: bool = True) -> MultimodalModel:
    """A layered encoder with dropout, and one without layers that has dropout and BatchNorm."""
    torch.manual_seed(0)
    encoders: dict[str, nn.Module] = {
        "sequence": SequenceTransformer(5, dim=8, depth=2, heads=2, dropout=dropout),
        "image": ImageCNN(1, dim=8, width=4, depth=2, grid=2, norm=norm, dropout=dropout),
    }
    return MultimodalModel(encoders, Concat(dict.fromkeys(encoders, 8), 3), linear_heads(encoders, 3)).double()


def batches(count: int = 3, size: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        target = torch.randint(0, 3, (size,), generator=generator)
        inputs = {
            "sequence": torch.randn(size, 4, 5, generator=generator, dtype=torch.float64),
            "image": torch.randn(size, 1, 8, 8, generator=generator, dtype=torch.float64),
        }
        for x in inputs.values():
            x += target.view(-1, *[1] * (x.ndim - 1))
        found.append(Batch(inputs, target))
    return found


def train(
    model: MultimodalModel, train: list[Batch] | None = None, balancer: Balancer | None = None, **options: Any
) -> History:
    torch.manual_seed(3)
    balancer = balancer or MLB()
    settings: dict[str, Any] = {"epochs": 2, "schedule": "constant", "device": "cpu", "show": False} | options
    optimizer = torch.optim.SGD(model.param_groups(0.05), momentum=0.9)
    return fit(model, train or batches(), None, task=TASK, balancer=balancer, optimizer=optimizer, **settings)


# Activation checkpoints -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [MLB, lambda: AGM(zero="input"), MMPareto])
def test_checkpoints_change_no_bit(make: Any) -> None:
    """Dropout, BatchNorm statistics, passes in eval mode (AGM) and second backward passes (MMPareto) included."""
    found, runs = [], []
    for checkpointing in (False, True):
        model, balancer = make_model(), make()
        if not balancer.needs_heads:
            model.heads.clear()
        count = [0]
        layer = cast(Any, model.encoders["sequence"]).layers[0]
        layer.register_forward_pre_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        train(model, balancer=balancer, checkpointing=checkpointing)
        found.append(weights(model))
        runs.append(count[0])
        assert not {"forward", "run_layer"} & (
            set(model.encoders["image"].__dict__) | set(model.encoders["sequence"].__dict__)
        )
    assert runs[1] > runs[0], "nothing was computed again"
    assert difference(*found) == 0
    assert int(found[0]["encoders.image.blocks.0.norm.num_batches_tracked"]) == 6


def test_a_checkpoint_holds_the_input_alone() -> None:
    model, (batch, *_) = make_model(), batches(1)

    def kept() -> int:
        """Bytes that the graph of a forward pass holds beside the parameters."""
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(batch.inputs)
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        return sum(size for place, size in seen.items() if place not in own)

    whole = kept()
    with checkpointed(model.encoders.values()):
        assert kept() < whole / 3


def test_statistics_of_padded_sequences_move_once() -> None:
    class Normed(nn.Module):
        dim = 4

        def __init__(self) -> None:
            super().__init__()
            self.norm = MaskedBatchNorm(4)

        def forward(self, x: Tensor) -> Tensor:
            return cast(Tensor, self.norm(x, None)).square()

    x, found = torch.randn(2, 3, 4, requires_grad=True), []
    for again in (False, True):
        module = Normed()
        with checkpointed([module] if again else []):
            module(x).sum().backward()
        found.append(weights(module))
    assert difference(*found) == 0
    assert bool((found[0]["norm.mean"] != 0).all())


# The other switches ---------------------------------------------------------------------------------------------------


def test_two_micro_batches_equal_one_batch() -> None:
    found = []
    for accumulate in (1, 2):
        model = make_model(dropout=0.0, norm=False)
        given = [part for batch in batches(2, 32) for part in rows(batch, *[32 // accumulate] * accumulate)]
        train(model, given, accumulate=accumulate)
        found.append(weights(model))
    assert difference(*found) < 1e-12


def test_bf16_is_single_precision_within_a_percent() -> None:
    """Without BatchNorm, whose rescaling enlarges rounding, loss and weights end within 1 % and 3 % of their change."""
    start = weights(make_model(dropout=0.0, norm=False))
    found, losses = [], []
    for precision in (None, "bf16"):
        model = make_model(dropout=0.0, norm=False).float()
        given = [batch._replace(inputs={m: x.float() for m, x in batch.inputs.items()}) for batch in batches()]
        losses.append(train(model, given, precision=precision).rows[-1]["train_loss"])
        found.append(torch.cat([one.flatten() for one in weights(model).values()]))
    way = found[0] - torch.cat([one.flatten() for one in start.values()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert 0 < (found[1] - found[0]).norm() < 0.03 * way.norm()


def assert_compiled_equals_eager(tmp_path: Path, **switches: Any) -> None:
    found = []
    for on in (False, True):
        model, run = make_model(dropout=0.0), RunFolder(tmp_path / str(on))
        train(model, batches(1), compile=on, run=run, epochs=1, **switches)
        found.append(weights(model))
        saved = load_weights(run.path / "model.safetensors")
        assert list(saved) == list(load_weights(tmp_path / "False" / "model.safetensors"))
        assert difference(saved, found[-1]) == 0
        assert not any("forward" in part.__dict__ for part in model.modules())
    assert difference(*found) < 1e-5


@INSIDE_TORCH
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_parts_compute_the_same(checkpointing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs that torch.compile finds, run as they are: to make code of them takes longer (below)."""
    calls = []
    make = torch.compile

    def counting(graph: Any, inputs: Any) -> Any:
        calls.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(make, backend=counting))
    assert_compiled_equals_eager(tmp_path, checkpointing=checkpointing)
    assert len(calls) >= 3  # two encoders and the fusion


@INSIDE_TORCH
@pytest.mark.slow
def test_compiled_code_computes_the_same(tmp_path: Path) -> None:
    assert_compiled_equals_eager(tmp_path)


@INSIDE_TORCH
def test_what_cannot_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=fail))
    with pytest.raises(InputError, match=r"torch\.compile makes no code of the encoder 'sequence'.*no compiler here"):
        train(make_model(), compile=True)


def test_sharding_takes_several_processes() -> None:
    model = make_model()
    with pytest.raises(InputError, match=r"one alone; start it with `torchrun"):
        train(model, balancer=MultiLoss(), shard=True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"balancer": MMPareto()}, "MMPareto needs whole encoders"),
        ({"observe": object()}, "an observer sees"),
    ],
)
def test_what_cannot_be_sharded_is_told(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        train(make_model(), shard=True, **options)
