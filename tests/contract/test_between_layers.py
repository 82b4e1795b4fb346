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
    encoders = {"a": Attention(3, 4, depth=2), "v": Attention(5, 4, depth=4)}
    model = MultimodalModel(encoders, Concat({"a": 4, "v": 4}, 2), adapter=Bottleneck())
    model.encoders.requires_grad_(False)
    sound, video, mask = torch.randn(2, 6, 3), torch.randn(2, 5, 5), torch.arange(6) < torch.tensor([[6], [4]])
    longer = torch.cat([torch.where(mask[..., None], sound, 9.0), torch.full((2, 3, 3), 7.0)], 1)
    out = model({"a": Padded(sound, mask), "v": video})
    padded = model({"a": Padded(longer, torch.arange(9) < torch.tensor([[6], [4]])), "v": video})
    torch.testing.assert_close(padded.logits, out.logits)
    other = model({"a": Padded(sound, mask), "v": video + 1})
    assert not torch.equal(other.features["a"].pooled, out.features["a"].pooled)
    out.features["a"].pooled.sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {"adapter.tokens"}
