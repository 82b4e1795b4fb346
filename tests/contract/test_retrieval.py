"""Probe: retrieval between images and names, with in-batch negatives gathered over processes."""

import torch
from torch.nn import functional as F

from polymodal.distributed import gather_rows, rank
from polymodal.encoders import MLP, TextBag
from polymodal.fusion import Fusion
from polymodal.model import MultimodalModel
from polymodal.tasks import Task
from polymodal.types import Batch, Pair
from tests.builders import difference, make_step
from tests.distributed import in_two_processes, replica, share


class Match(Fusion):
    def forward(self, features, unimodal):
        query, gallery = (F.normalize(f.pooled, dim=-1)[:, None] for f in features.values())
        return Pair(query, gallery, query.new_ones(len(query), 1))


class Retrieval(Task):
    def fused_losses(self, output, batch):
        query, gallery, weight = (gather_rows(part) for part in output.pair)
        mine = gather_rows(torch.full_like(batch.target, rank())) == rank()
        similarity = torch.einsum("qed,ged,qe->qg", query, gallery, weight) / 0.1
        return -(similarity.log_softmax(0) + similarity.log_softmax(1)).diagonal()[mine]


def gradients():
    torch.manual_seed(0)
    model = MultimodalModel(
        {"image": MLP(3), "name": TextBag(9, dropout=0)}, Match({"image": 64, "name": 64}, 0)
    ).double()
    batch = share(Batch({"image": torch.randn(6, 3).double(), "name": torch.randint(1, 9, (6, 4))}, torch.arange(6)))
    wrapped = replica(model)
    make_step(wrapped, batch, Retrieval()).fused_loss().backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_two_processes_equal_one_with_the_doubled_batch():
    first, second = in_two_processes(gradients)
    assert difference(first, second) == 0
    assert difference(first, gradients()) < 1e-12
