"""Samples that lack a modality, with every adapter: finite, and whatever stands in its place takes no part."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from polymodal.types import Padded
from tests.adapters.test_every_adapter import METHODS, Case


def disturbed(value: Any, rows: torch.Tensor) -> Any:
    """The same input with other numbers in `rows`."""
    if isinstance(value, Padded):
        return value._replace(values=disturbed(value.values, rows))
    other = value.clone()
    other[rows] = other[rows].flip(-1) + 3 if value.is_floating_point() else 1
    return other


@pytest.mark.parametrize("lacking", ["a", "b"])
@pytest.mark.parametrize("name", METHODS)
def test_an_absent_modality_takes_no_part(name: str, lacking: str) -> None:
    case = Case(METHODS[name], "transformer", 3)
    batch = len(case.model.encode(case.inputs)["a"].pooled)
    there = torch.arange(batch) % 2 == 1
    for present in ({lacking: there}, {lacking: torch.zeros(batch, dtype=torch.bool)}):
        gone = ~present[lacking]
        logits = case.model(case.inputs, present).logits
        assert bool(torch.isfinite(logits).all())
        other = case.inputs | {lacking: disturbed(case.inputs[lacking], gone)}
        torch.testing.assert_close(case.model(other, present).logits, logits, rtol=0, atol=1e-10)
        assert not torch.allclose(case.model(case.inputs).logits[gone], logits[gone])
        case.model.zero_grad()
        logits.square().sum().backward()
        gradients = [p.grad for p in case.model.parameters() if p.grad is not None]
        assert gradients
        assert all(bool(torch.isfinite(one).all()) for one in gradients)
