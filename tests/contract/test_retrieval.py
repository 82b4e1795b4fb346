"""Probe: retrieval between images and names, with in-batch negatives gathered over processes."""

import torch
from torch.nn import functional as F

from polymodal.distributed import gather_rows, rank, world_size
from polymodal.encoders import MLP, TextBag
from polymodal.fusion import Fusion
from polymodal.model import MultimodalModel
from polymodal.tasks import Task
from polymodal.types import Batch, Pair
from tests.builders import difference, make_step, rows
from tests.distributed import in_two_processes, replica


class Match(Fusion):
    def forward(self, features, unimodal):
        query, gallery = (F.normalize(f.pooled, dim=-1)[:, None] for f in features.values())
        return Pair(query, gallery, query.new_ones(len(query), 1))


class Retrieval(Task):
    def fused_losses(self, output, batch):
        query, gallery, weight, whose = map(gather_rows, (*output.pair, torch.full_like(batch.target, rank())))
        similarity = torch.einsum("qed,ged,qe->qg", query, gallery, weight) / 0.1
        return -(similarity.log_softmax(0) + similarity.log_softmax(1)).diagonal()[whose == rank()]


def gradients():
    torch.manual_seed(0)
    encoders = {"image": MLP(3), "name": TextBag(9, dropout=0)}
    model = MultimodalModel(encoders, Match({"image": 64, "name": 64}, 0)).double()
    batch = Batch({"image": torch.randn(6, 3).double(), "name": torch.randint(1, 9, (6, 4))}, torch.arange(6))
    wrapped, mine = replica(model), rows(batch, 4, 2)[rank()] if world_size() > 1 else batch
    make_step(wrapped, mine, Retrieval()).fused_loss().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_two_unequal_shares_equal_the_whole_batch():
    assert all(difference(one, gradients()) < 1e-12 for one in in_two_processes(gradients))
