"""The evaluation loop: every sample once, in order, each modality over the samples that have it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polymodal.data.missing import without
from polymodal.errors import InputError
from polymodal.evaluate import evaluate, evaluate_subsets, predict, unimodal_source
from polymodal.fusion import MLP as MLPFusion
from polymodal.fusion import Concat, Sum
from polymodal.metrics import accuracy
from polymodal.model import MultimodalModel
from polymodal.types import Batch
from tests.builders import TASKS, WIDTH, make_batch, make_model, rows
from tests.distributed import in_two_processes, share

TASK = TASKS["classification"]


def with_ids(batch: Batch) -> Batch:
    return batch._replace(ids=[f"s{i}" for i in range(len(batch.target))])


def test_samples_come_once_and_in_order_whatever_the_batches() -> None:
    model, whole = make_model(), make_batch(size=10)
    one = evaluate(model, [with_ids(whole)], TASK)
    two = evaluate(model, rows(whole, 3, 3, 3, 1), TASK)
    assert one.ids == [f"s{i}" for i in range(10)]
    np.testing.assert_allclose(one.probabilities, two.probabilities, atol=1e-15)
    np.testing.assert_array_equal(one.target, whole.target.numpy())
    assert one.metrics == pytest.approx(two.metrics)
    expected = model(whole.inputs).logits.softmax(-1)
    np.testing.assert_allclose(one.probabilities, expected.detach().numpy(), atol=1e-15)
    assert one.metrics["accuracy"] == pytest.approx(accuracy(expected.argmax(-1).numpy(), whole.target.numpy()))


@pytest.mark.parametrize("task", TASKS)
def test_every_task(task: str) -> None:
    it = TASKS[task]
    found = evaluate(make_model(task=it), [make_batch(task=it)], it)
    assert it.default_metric in found.metrics
    assert set(found.unimodal_metrics) == {"m0", "m1"}
    assert all(set(one) == set(found.metrics) for one in found.unimodal_metrics.values())


def test_source_of_unimodal_predictions() -> None:
    dims = {"m0": WIDTH, "m1": WIDTH}
    assert unimodal_source(make_model()) == "heads"
    assert unimodal_source(make_model(heads=False)) == "parts"
    assert unimodal_source(make_model(fusion=MLPFusion(dims, 3, hidden=4), heads=False)) is None
    for fusion in (Concat(dims, 3), Sum(dims, 3)):
        model, batch = make_model(fusion=fusion, heads=False), make_batch()
        found = evaluate(model, [batch], TASK)
        parts = fusion.parts(model(batch.inputs).features)
        for m, logits in parts.items():
            np.testing.assert_allclose(found.unimodal[m], logits.softmax(-1).detach().numpy(), atol=1e-15)
    none = evaluate(make_model(fusion=MLPFusion(dims, 3, hidden=4), heads=False), [make_batch()], TASK)
    assert none.unimodal == none.unimodal_metrics == {}


def test_a_modality_counts_where_it_is_there() -> None:
    model, batch = make_model(), make_batch()
    there = torch.arange(8) < 3
    found = evaluate(model, [batch._replace(present={"m1": there})], TASK)
    assert np.isnan(found.unimodal["m1"][3:]).all()
    first = evaluate(model, [rows(batch, 3, 5)[0]], TASK)
    assert found.unimodal_metrics["m1"] == pytest.approx(first.unimodal_metrics["m1"])
    absent = evaluate(model, [batch._replace(present={"m1": torch.zeros(8, dtype=torch.bool)})], TASK)
    assert set(absent.unimodal_metrics) == {"m0"}


def test_modes_and_gradients_are_left_as_they_were() -> None:
    model = make_model()
    model.train()
    model.encoders["m0"].eval()
    evaluate(model, [make_batch()], TASK)
    assert model.training
    assert not model.encoders["m0"].training
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(InputError, match="inputs of"):
        evaluate(model, [make_batch()._replace(inputs={})], TASK)
    assert model.training


def test_dropout_is_off() -> None:
    model = make_model()
    model.encoders["m0"].net.insert(1, torch.nn.Dropout(0.9))  # type: ignore[operator, union-attr]
    model.train()
    one, two = (predict(model, [make_batch()], TASK).probabilities for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_predict_has_no_metrics() -> None:
    found = predict(make_model(), [make_batch()], TASK)
    assert (found.metrics, found.unimodal_metrics) == ({}, {})


def test_no_batch() -> None:
    with pytest.raises(ValueError, match="no batch"):
        evaluate(make_model(), [], TASK)


def test_predictions_that_are_not_finite_name_sample_and_modality() -> None:
    batch = with_ids(make_batch())
    batch.inputs["m1"][2] = math.inf
    with pytest.raises(InputError, match=r"1 of 8 samples are not finite, first of sample 's2'; .*\['m1'\]"):
        predict(make_model(), [batch], TASK)


def _evaluated(size: int) -> dict[str, torch.Tensor]:
    own = with_ids(share(make_batch(size=size))) if size > 1 else with_ids(make_batch(size=size))
    empty = size == 1 and torch.distributed.get_rank() == 1
    found = evaluate(make_model(), [] if empty else [own], TASK)
    return {"p": torch.from_numpy(found.probabilities), "loss": torch.tensor(found.metrics["loss"])}


@pytest.mark.parametrize("size", [8, 1])
def test_processes_share_the_samples_and_all_get_the_whole(size: int) -> None:
    alone = evaluate(make_model(), [make_batch(size=size)], TASK)
    for found in in_two_processes(_evaluated, size):
        np.testing.assert_allclose(found["p"].numpy(), alone.probabilities, atol=1e-15)
        assert float(found["loss"]) == pytest.approx(alone.metrics["loss"])


def subset_model() -> MultimodalModel:
    torch.manual_seed(0)
    return make_model(3, fusion=MLPFusion({f"m{i}": WIDTH for i in range(3)}, 3, hidden=4), heads=False)


def test_every_subset_is_what_a_batch_without_the_others_gives() -> None:
    model, batch = subset_model(), make_batch(3)
    batch = batch._replace(present={"m1": torch.arange(8) > 1})
    found = evaluate_subsets(model, rows(batch, 5, 3), TASK)
    assert [one.modalities for one in found] == [
        ("m0",), ("m1",), ("m2",), ("m0", "m1"), ("m0", "m2"), ("m1", "m2"), ("m0", "m1", "m2"),
    ]  # fmt: skip
    assert [one.samples for one in found] == [8, 6, 8, 8, 8, 8, 8]
    for one in found:
        cut = without(batch, {"m0", "m1", "m2"} - set(one.modalities))
        expected = predict(model, [cut], TASK)
        some = slice(2, None) if one.modalities == ("m1",) else slice(None)
        assert one.metrics == pytest.approx(TASK.metrics(expected.probabilities[some], expected.target[some]))
    assert len({one.metrics["loss"] for one in found}) == 7
    assert evaluate(model, [batch], TASK).metrics == pytest.approx(found[-1].metrics)


def test_subsets_leave_modes_and_samples_without_any_modality_alone() -> None:
    model, batch = subset_model(), make_batch(3)
    model.train()
    gone = torch.zeros(8, dtype=torch.bool)
    found = evaluate_subsets(model, [batch._replace(present={"m1": gone})], TASK)
    assert model.training
    assert (found[1].samples, found[1].metrics) == (0, {})


def test_subsets_that_cannot_be_told() -> None:
    with pytest.raises(ValueError, match="no batch"):
        evaluate_subsets(subset_model(), [], TASK)
    many = make_model(11, fusion=Concat({f"m{i}": WIDTH for i in range(11)}, 3), heads=False)
    with pytest.raises(InputError, match="11 modalities have 2047 subsets"):
        evaluate_subsets(many, [make_batch(11)], TASK)
    batch = with_ids(make_batch(3))
    batch.inputs["m2"][5] = math.inf
    with pytest.raises(InputError, match=r"with m2 alone: .* of sample 's5'"):
        evaluate_subsets(subset_model(), [batch], TASK)


def _subsets() -> dict[str, torch.Tensor]:
    found = evaluate_subsets(subset_model(), [share(make_batch(3))], TASK)
    return {"+".join(one.modalities): torch.tensor(one.metrics["loss"]) for one in found}


def test_processes_tell_the_same_subsets() -> None:
    alone = {
        "+".join(one.modalities): one.metrics["loss"] for one in evaluate_subsets(subset_model(), [make_batch(3)], TASK)
    }
    for found in in_two_processes(_subsets):
        assert {name: float(one) for name, one in found.items()} == pytest.approx(alone)
