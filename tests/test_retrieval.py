"""Retrieval: ranks against sorting, the ranking loss against a loop, similarities of lacking experts, whole splits."""

# mypy: disable-error-code="union-attr"

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from polymodal import InputError, evaluate, metrics
from polymodal.distributed import rank, world_size
from polymodal.encoders import MLP
from polymodal.fusion import Concat, Fusion
from polymodal.model import MultimodalModel
from polymodal.tasks import Classification, Retrieval, similarity
from polymodal.types import Batch, Output, Pair
from tests.builders import difference, make_step, rows
from tests.distributed import in_two_processes, replica


class Match(Fusion):
    """Two modalities as they come, one expert."""

    def forward(self, features, unimodal):
        query, gallery = (F.normalize(f.pooled, dim=-1)[:, None] for f in features.values())
        return Pair(query, gallery, query.new_ones(len(query), 1))


def make_model():
    torch.manual_seed(0)
    encoders = {"name": MLP(3, dim=4, hidden=[6]), "image": MLP(5, dim=4, hidden=[6])}
    return MultimodalModel(encoders, Match(dict.fromkeys(encoders, 4), 0)).double()


def make_batch(size=8, items=None):
    generator = torch.Generator().manual_seed(1)
    inputs = {"name": torch.randn(size, 3, generator=generator), "image": torch.randn(size, 5, generator=generator)}
    target = torch.arange(size) if items is None else torch.tensor(items)
    first = metrics.own_columns(target)
    inputs["image"] = inputs["image"][first[1][first[0]]]  # rows of one item have one image
    return Batch({m: x.double() for m, x in inputs.items()}, target)


# Ranks ----------------------------------------------------------------------------------------------------------------


def test_ranks_are_places_in_the_sorted_row_and_column():
    scores = np.random.default_rng(0).standard_normal((30, 30))
    found = metrics.ranks(scores)
    for i in range(30):
        assert found.query[i] == 1 + np.argsort(-scores[i]).tolist().index(i)
        assert found.gallery[i] == 1 + np.argsort(-scores[:, i]).tolist().index(i)


def test_of_an_item_with_several_queries_the_best_counts():
    item = ["b", "a", "b", "c", "a"]
    scores = np.random.default_rng(1).standard_normal((5, 3))  # columns b, a, c
    found = metrics.ranks(scores, item)
    column = [0, 1, 0, 2, 1]
    assert found.query.tolist() == [1 + sum(scores[i] > scores[i, column[i]]) for i in range(5)]
    for c in range(3):
        order = [column[i] for i in np.argsort(-scores[:, c])]
        assert found.gallery[c] == 1 + order.index(c)


def test_ties_count_for_the_model():
    assert metrics.ranks(np.zeros((4, 4))).query.tolist() == [1] * 4


def test_figures():
    scores = np.zeros((20, 20))
    scores[np.triu_indices(20, 1)] = 1  # query i has 19 - i better items, item j has j better queries
    found = metrics.retrieval(scores)
    assert (found["r_at_1_q2g"], found["r_at_5_q2g"], found["r_at_10_q2g"]) == (5, 25, 50)
    assert (found["mdr_g2q"], found["mnr_g2q"]) == (10.5, 10.5)
    assert found["rsum"] == 2 * (5 + 25 + 50)


def test_columns_that_are_not_the_items():
    with pytest.raises(ValueError, match="5 queries with 3 different items"):
        metrics.ranks(np.zeros((5, 5)), [0, 0, 1, 1, 2])


# Similarity -----------------------------------------------------------------------------------------------------------


def test_weights_are_shared_out_over_the_experts_that_an_item_has():
    torch.manual_seed(0)
    query, gallery = torch.randn(3, 4, 6).double(), torch.randn(5, 4, 6).double()
    weights, there = torch.rand(3, 4).double().softmax(-1), torch.rand(5, 4) < 0.6
    there[4] = False
    gallery = torch.where(there[..., None], gallery, 0.0)
    found = similarity(Pair(query, gallery, weights))
    for i in range(3):
        for j in range(5):
            experts = [e for e in range(4) if there[j, e]]
            share = sum(float(weights[i, e]) for e in experts)
            expected = sum(float(weights[i, e]) / share * float(query[i, e] @ gallery[j, e]) for e in experts)
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-12)
    assert not found[:, 4].any()


def test_similarity_without_experts_has_finite_gradients():
    query, weights = torch.randn(2, 1, 3, requires_grad=True), torch.ones(2, 1, requires_grad=True)
    similarity(Pair(query, torch.zeros(2, 1, 3), weights)).sum().backward()
    assert query.grad.isfinite().all()
    assert weights.grad.isfinite().all()


# Loss -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", [None, [0, 1, 0, 2, 3, 1, 4, 5]])
def test_loss_is_the_mean_over_pairs_of_other_items(items):
    model, batch, task = make_model(), make_batch(items=items), Retrieval(0.3)
    step = make_step(model, batch, task)
    assert step.output.pair is not None
    scores, item = similarity(step.output.pair).detach(), batch.target.tolist()
    for i, found in enumerate(task.fused_losses(step.output, batch)):
        others = [j for j in range(8) if item[j] != item[i]]
        costs = [max(0, 0.3 + float(scores[i, j] - scores[i, i])) for j in others]
        costs += [max(0, 0.3 + float(scores[j, i] - scores[i, i])) for j in others]
        assert found.item() == pytest.approx(sum(costs) / len(costs), abs=1e-12)
    assert step.fused_loss().item() == pytest.approx(task.fused_losses(step.output, batch).mean().item())


def test_loss_is_that_of_torch():
    model, batch, task = make_model(), make_batch(), Retrieval(0.3)
    step = make_step(model, batch, task)
    assert step.output.pair is not None
    scores = similarity(step.output.pair)
    own = scores.diagonal()[:, None].expand(8, 8)
    off = ~torch.eye(8, dtype=torch.bool)
    both = [F.margin_ranking_loss(own[off], one[off], torch.ones(56), margin=0.3) for one in (scores, scores.mT)]
    torch.testing.assert_close(step.fused_loss(), torch.stack(both).mean())
    assert evaluate(model, [batch], task).metrics["loss"] == pytest.approx(step.fused_loss().item())


def gradients():
    model, batch = make_model(), make_batch(6, items=[0, 1, 2, 0, 3, 4])
    wrapped, mine = replica(model), rows(batch, 4, 2)[rank()] if world_size() > 1 else batch
    make_step(wrapped, mine, Retrieval(0.5)).fused_loss().backward()
    return {name: p.grad for name, p in model.named_parameters()} | {
        name: torch.tensor(value).double() for name, value in evaluate(model, [mine], Retrieval(0.5)).metrics.items()
    }


def test_two_unequal_shares_equal_the_whole_batch():
    assert all(difference(one, gradients()) < 1e-12 for one in in_two_processes(gradients))


def test_training_pulls_pairs_together():
    model, batch, task = make_model(), make_batch(), Retrieval()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    before = evaluate(model, [batch], task).metrics
    for _ in range(60):
        optimizer.zero_grad()
        make_step(model, batch, task).fused_loss().backward()
        optimizer.step()
    after = evaluate(model, [batch], task).metrics
    assert after["loss"] < 0.3 * before["loss"]
    assert after["rsum"] > before["rsum"]


# Whole splits ---------------------------------------------------------------------------------------------------------


def test_the_gallery_is_the_whole_split():
    items = [0, 1, 0, 2, 3, 1, 4, 5]
    model, batch, task = make_model(), make_batch(items=items), Retrieval()
    whole, parts = evaluate(model, [batch], task), evaluate(model, rows(batch, 3, 1, 4), task)
    assert whole.probabilities.shape == parts.probabilities.shape == (8, 6)
    np.testing.assert_allclose(parts.probabilities, whole.probabilities, atol=1e-12)
    pair = model(batch.inputs).pair
    first = Pair(pair.query, pair.gallery[[0, 1, 3, 4, 6, 7]], pair.weights)
    np.testing.assert_allclose(whole.probabilities, similarity(first).detach().numpy(), atol=1e-12)
    assert whole.metrics == pytest.approx(task.metrics(whole.probabilities, whole.target))
    assert whole.unimodal == whole.unimodal_metrics == {}
    assert evaluate(model, [batch], task, masking=True).unimodal == {}


# Bad input ------------------------------------------------------------------------------------------------------------


def test_errors():
    model, batch = make_model(), make_batch()
    with pytest.raises(InputError, match=r"a batch of one row: .* use a batch size of 2"):
        make_step(model, rows(batch, 1, 7)[0], Retrieval()).fused_loss()
    with pytest.raises(InputError, match=r"margin 0.* must be above 0"):
        Retrieval(0.0)
    joined = MultimodalModel(dict(model.encoders.items()), Concat(dict.fromkeys(model.modalities, 4), 2)).double()
    with pytest.raises(InputError, match=r"no pair of query and gallery embeddings.*'moee' or 'mmt'"):
        make_step(joined, batch, Retrieval()).fused_loss()
    with pytest.raises(InputError, match="no pair of query and gallery"):
        evaluate(joined, [batch], Retrieval())
    with pytest.raises(TypeError, match="evaluated with the task Retrieval"):
        evaluate(model, [batch], Classification(2))
    for wrong in (Retrieval().score, Retrieval().losses):
        with pytest.raises(InputError, match="no uni-modal predictions"):
            wrong(torch.zeros(2, 2), torch.zeros(2))
    broken = Output(None, {}, {}, Pair(torch.full((2, 1, 1), torch.nan), torch.ones(2, 1, 1), torch.ones(2, 1)))
    with pytest.raises(InputError, match="not finite"):
        evaluate(Yields(broken), [Batch({"name": torch.zeros(2, 3)}, torch.arange(2))], Retrieval())


class Yields(MultimodalModel):
    def __init__(self, output):
        super().__init__({"name": MLP(3, dim=4)}, Match({"name": 4}, 0))
        self.output = output

    def forward(self, inputs, present=None):
        return self.output
