"""Probe: an adapter that works between the layers of two encoders of different depth."""

import torch
from torch import nn

from polymodal.adapters import Adapter
from polymodal.fusion import Concat
from polymodal.model import MultimodalModel
from polymodal.types import Padded
from tests.contract.layered import Attention


class Bottleneck(Adapter):
    """Two tokens in front of every modality, which all modalities share by averaging them after each layer."""

    def __init__(self):
        super().__init__(last=2)
        self.tokens = nn.Parameter(torch.randn(2, 4))

    def start(self, states):
        return {m: s.add(self.tokens.expand(len(s.tokens), -1, -1)) for m, s in states.items()}

    def between(self, index, states):
        shared = torch.stack([s.extras() for s in states.values()]).mean(0)
        return {m: s.drop().add(shared) for m, s in states.items()}


def test_it_joins_frozen_encoders_and_padding_changes_nothing():
    encoders = {
        "a": Attention(3, 4, depth=2).requires_grad_(False),
        "v": Attention(5, 4, depth=4).requires_grad_(False),
    }
    model = MultimodalModel(encoders, Concat({"a": 4, "v": 4}, 2), adapter=Bottleneck())
    sound, video = torch.randn(2, 6, 3), torch.randn(2, 5, 5)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    loud = Padded(torch.cat([torch.where(mask[..., None], sound, 9.0), torch.full((2, 3, 3), 7.0)], 1),
                  torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], 1))  # fmt: skip
    out = model({"a": Padded(sound, mask), "v": video})
    torch.testing.assert_close(model({"a": loud, "v": video}).logits, out.logits)
    assert not torch.equal(
        model({"a": Padded(sound, mask), "v": video + 1}).features["a"].pooled, out.features["a"].pooled
    )
    out.features["a"].pooled.sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {"adapter.tokens"}
