"""Every adapter in every family of layered encoders, with two and three modalities, and what holds for all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from polymodal import adapters
from polymodal.adapters import (
    MBT,
    PMF,
    Adapter,
    Aurora,
    Houlsby,
    LoRA,
    MaPLe,
    PTuning,
    PTuningV2,
    UniAdapter,
    Wander,
    freeze,
    inject_lora,
)
from polymodal.adapters.anatomy import token_width
from polymodal.encoders import LayeredEncoder
from polymodal.fusion import Concat
from polymodal.model import MultimodalModel
from tests.adapters.hosts import FAMILIES, host

Encoders = dict[str, LayeredEncoder]


class Method(NamedTuple):
    """How an adapter is made, and by how much the features may move at first (None: they must move).

    Products of one size differ in their last place by where in memory they lie, so equal is equal to 1e-12.
    """

    make: Callable[[Encoders], Any]
    start: float | None = 1e-12
    equal_widths: bool = False


def each(put: Callable[[LayeredEncoder], Any]) -> Callable[[Encoders], dict[str, Any]]:
    """An adapter of one encoder, in all of them."""
    return lambda encoders: {m: put(encoder) for m, encoder in encoders.items()}


def widths(encoders: Encoders) -> dict[str, int]:
    return {m: token_width(encoder) for m, encoder in encoders.items()}


METHODS: dict[str, Method] = {
    "lora": Method(each(lambda encoder: inject_lora(encoder, rank=2))),
    "houlsby": Method(each(lambda encoder: Houlsby(encoder, down=3)), start=1e-3),  # neither factor is zero
    "ptuning": Method(each(lambda encoder: PTuning(encoder, tokens=2)), start=None),  # tokens are there at once
    "ptuning_v2": Method(each(lambda encoder: PTuningV2(encoder, tokens=2)), start=None),
    "maple": Method(lambda encoders: MaPLe(encoders, depth=2), start=None),
    "uniadapter": Method(lambda encoders: UniAdapter(encoders, down=3), equal_widths=True),
    "aurora": Method(lambda encoders: Aurora(encoders, rank=3, dropout=0.0), equal_widths=True),
    "pmf": Method(lambda encoders: PMF(widths(encoders), last=2, query=2), start=None),
    "mbt": Method(lambda encoders: MBT(widths(encoders), last=2, tokens=2), start=None),
    "wander": Method(
        lambda encoders: Wander(
            widths(encoders), dict.fromkeys(encoders, 50), output="per_modality", down=2, rank_t=2, rank_h=2, last=2
        )
    ),
}


class Case:
    """A model with an adapter, and without it."""

    def __init__(self, method: Method, family: str, count: int) -> None:
        self.hosts = {"a": host(family)}
        for number, m in enumerate("bc"[: count - 1], 1):
            self.hosts[m] = host("transformer", 8 if method.equal_widths else 8 + 2 * number, 2 + number, number)
        encoders = {m: one.encoder for m, one in self.hosts.items()}
        plain = MultimodalModel(encoders, Concat({m: e.dim for m, e in encoders.items()}, 2)).double().eval()
        self.inputs = {m: one.x for m, one in self.hosts.items()}
        self.before = features(plain, self.inputs)
        self.weights = {name: value.clone() for name, value in plain.encoders.state_dict().items()}
        freeze(plain.encoders)
        self.made = method.make(encoders)
        self.handles = self.made if isinstance(self.made, dict) else {"": self.made}
        adapter = self.made if isinstance(self.made, Adapter) else None
        self.model = MultimodalModel(encoders, plain.fusion, adapter=adapter).double().eval()

    def states(self) -> dict[str, dict[str, Tensor]]:
        return {
            m: dict((one.adapter_state if hasattr(one, "adapter_state") else one.state_dict)())
            for m, one in self.handles.items()
        }

    def load(self, states: dict[str, dict[str, Tensor]]) -> None:
        for m, one in self.handles.items():
            (one.load_adapter_state if hasattr(one, "load_adapter_state") else one.load_state_dict)(states[m])

    def remove(self) -> None:
        for one in self.handles.values():
            if isinstance(one, LoRA):
                one.remove(merge=False)
            elif hasattr(one, "remove"):
                one.remove()
        self.model.adapter = None


def features(model: MultimodalModel, inputs: dict[str, Any]) -> dict[str, Tensor]:
    found = model.encode(inputs)
    return {m: one.pooled.detach() for m, one in found.items()}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[m] - other[m]).abs().max()) for m in one)


NAMED = {"bert", "vit", "imagebind", "deberta", "transformer"}
"""Families that are tried with three modalities at every change, the others with two."""
CASES = [
    pytest.param(family, count, marks=[pytest.mark.slow] if count == 3 and family not in NAMED else [])
    for family in FAMILIES
    for count in (2, 3)
]


@pytest.mark.parametrize(("family", "count"), CASES)
@pytest.mark.parametrize("name", METHODS)
def test_every_adapter(name: str, family: str, count: int) -> None:
    method = METHODS[name]
    case = Case(method, family, count)
    moved = distance(features(case.model, case.inputs), case.before)
    assert moved > 1e-9 if method.start is None else moved <= method.start
    start = copy.deepcopy(case.states())

    # Two steps: what is multiplied by a zero gets no gradient in the first.
    trained = {id(p): p for one in case.handles.values() for p in one.parameters()}
    assert {id(p) for p in case.model.parameters() if p.requires_grad} - {
        id(p) for p in case.model.fusion.parameters()
    } == set(trained)
    optimizer = torch.optim.AdamW([*trained.values(), *case.model.fusion.parameters()], 0.05, weight_decay=0.1)
    case.model.train()
    for _ in range(2):
        optimizer.zero_grad()
        case.model(case.inputs).logits.square().sum().backward()
        optimizer.step()
    case.model.eval()
    assert all(p.grad is not None for p in trained.values())
    learned = case.states()
    assert all(any(not torch.equal(value, start[m][key]) for key, value in one.items()) for m, one in learned.items())
    beside = {name for name, p in case.model.encoders.named_parameters() if id(p) in trained}
    for key, value in case.model.encoders.state_dict().items():
        assert key in beside or key not in case.weights or torch.equal(value, case.weights[key]), key

    # In evaluation torch runs layers in one fused call, which must see the adapter too.
    after = features(case.model, case.inputs)
    assert distance(after, case.before) > 1e-6
    with torch.no_grad():
        assert distance(features(case.model, case.inputs), after) < 1e-10
    padded = {m: one.x if one.longer is None else one.longer for m, one in case.hosts.items()}
    assert distance(features(case.model, padded), after) < 1e-10

    learned = copy.deepcopy(learned)
    case.load(start)
    assert distance(features(case.model, case.inputs), after) > 1e-9
    case.load(learned)
    assert distance(features(case.model, case.inputs), after) < 1e-12

    case.remove()
    assert distance(features(case.model, case.inputs), case.before) < 1e-12
    restored = case.model.encoders.state_dict()
    assert restored.keys() == case.weights.keys()
    assert all(torch.equal(value, case.weights[key]) for key, value in restored.items())
    for part in case.model.encoders.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
        assert not {"embed", "run_layer"} & set(vars(part))


def test_no_adapter_is_left_out() -> None:
    """MMBT needs an image and a text; it is tested by itself."""
    known = {name for name in adapters.__all__ if name in vars(adapters) and isinstance(vars(adapters)[name], type)}
    methods = {name for name in known if issubclass(vars(adapters)[name], Adapter | LoRA)} - {"Adapter", "MMBT"}
    assert {name.lower().replace("v2", "_v2") for name in methods} == set(METHODS)
