"""Diagnosis of models whose weakness is known, and of runs in their folders."""

# mypy: disable-error-code="arg-type, union-attr, attr-defined"

import json

import numpy as np
import pytest
import torch

from polymodal.analysis.bootstrap import Interval
from polymodal.analysis.diagnose import diagnose, examine, probe_predictions
from polymodal.analysis.diagnosis import Diagnosis, Finding
from polymodal.encoders import MLP, linear_heads
from polymodal.errors import InputError
from polymodal.fit import fit
from polymodal.fusion import FiLM, Mixture
from polymodal.model import MultimodalModel
from polymodal.predictor import Predictor
from tests.builders import TASKS, WIDTH, make_batch, make_model, names
from tests.cli import tables

QUICK = {"resamples": 100}


def own_models(task, batch, epochs=60):
    """A trained uni-modal model of each modality."""
    found = {}
    for i, m in enumerate(names(2)):
        encoder = {m: MLP(3 + i, dim=WIDTH, hidden=[6])}
        model = MultimodalModel(
            encoder, Mixture({m: WIDTH}, task.outputs, kind=task.mixture), linear_heads(encoder, task.outputs)
        )
        own = batch._replace(inputs={m: batch.inputs[m]})
        fit(model.double(), [own], None, task=task, epochs=epochs, device="cpu", show=False)
        found[m] = model
    return found


def sharp(task, size, seed):
    """A batch of which each modality alone tells the target well."""
    batch = make_batch(2, task, size, seed)
    number = batch.target.argmax(-1) if batch.target.ndim == 2 else (batch.target + (batch.target.min() < 0)).long()
    for x in batch.inputs.values():
        x[torch.arange(size), number] += 4
    return batch


def starved(model, m):
    """The model with an encoder that tells nothing of its input."""
    with torch.no_grad():
        for p in model.encoders[m].parameters():
            p.zero_()
    return model


@pytest.mark.parametrize("kind", list(TASKS))
def test_names_the_encoder_that_was_starved(kind):
    task = TASKS[kind]
    train, valid = sharp(task, 90, 0), sharp(task, 60, 1)
    alone = own_models(task, train)
    model = make_model(2, task, heads=False)
    for m in names(2):
        model.encoders[m].load_state_dict(alone[m].encoders[m].state_dict())
    healthy = examine(model, alone, [train], [valid], task, **QUICK)
    assert healthy.under_trained == []
    assert [one.gap for one in healthy.modalities.values()] == [(0, 0, 0)] * 2
    sick = examine(starved(model, "m1"), alone, [train], [valid], task, **QUICK)
    assert sick.under_trained == ["m1"]
    assert sick.modalities["m1"].gap.low > 0.05
    assert sick.modalities["m0"].gap == (0, 0, 0)
    assert "m1 is under-trained" in sick.text()
    assert (sick.agreement is None) == (kind == "regression")
    json.dumps(sick.to_dict())


def test_fusions_that_do_not_split_are_read_by_masking():
    task = TASKS["classification"]
    train, valid = sharp(task, 30, 0), sharp(task, 30, 1)
    model = make_model(2, fusion=FiLM(dict.fromkeys(names(2), WIDTH), 3), heads=False)
    found = examine(model, own_models(task, train, epochs=1), [train], [valid], task, **QUICK)
    assert found.source == "masking"
    assert "come from masking" in found.text()


def test_samples_that_lack_a_modality_do_not_count_for_it():
    task = TASKS["classification"]
    there = torch.arange(30) < 20
    train, valid = sharp(task, 30, 0), sharp(task, 30, 1)._replace(present={"m1": there})
    alone = own_models(task, train, epochs=1)
    found = examine(make_model(2, heads=False), alone, [train], [valid], task, **QUICK)
    assert found.samples == 30
    assert round(20 * found.modalities["m1"].inside, 9) % 1 == 0
    with pytest.raises(InputError, match="no validation sample has modality 'm1'"):
        examine(make_model(2), alone, [train], [valid._replace(present={"m1": there & False})], task, **QUICK)


def test_needs_a_model_of_each_modality():
    with pytest.raises(InputError, match="give one each"):
        examine(make_model(2), {}, [make_batch()], [make_batch()], TASKS["classification"])


def test_probes_of_one_class_and_of_a_class_that_is_missing():
    x = np.random.default_rng(0).normal(size=(6, 2))
    assert probe_predictions(TASKS["classification"], x, np.zeros(6), x).tolist() == [[1, 0, 0]] * 6
    rows = probe_predictions(TASKS["classification"], x, np.array([0, 2] * 3), x)
    assert (rows[:, 1] == 0).all()
    np.testing.assert_allclose(rows.sum(1), 1)
    labels = np.array([[1, 0, 1]] * 3 + [[1, 0, 0]] * 3)
    assert (probe_predictions(TASKS["multilabel"], x, labels, x)[:, :2] == [1, 0]).all()


def diagnosis(gap=(0.0, 0.0, 0.0), late=(0.0, 0.0, 0.0), **others):
    zero = Interval(0, 0, 0)
    finding = Finding(0.5, 0.6, 0.5, 0.6, Interval(*gap), zero, zero, zero, zero)
    given = {
        "name": "run <1>",
        "value": "accuracy",
        "samples": 9,
        "level": 0.95,
        "source": "parts",
        "fused": {"accuracy": 0.5},
    }
    return Diagnosis(**given, late=Interval(*late), modalities={"a": finding}, agreement=None, **others)


def test_advice():
    assert "Nothing is wrong" in diagnosis(gap=(0.1, -0.01, 0.2)).text()
    assert diagnosis().advice() == []
    assert [one.split(":")[0] for one in diagnosis(gap=(0.1, 0.01, 0.2), balancer="joint").advice()] == [
        "--balancer multi_loss", "--balancer mlb", "--recipe ume",
    ]  # fmt: skip
    assert "multi_loss" not in " ".join(diagnosis(gap=(0.1, 0.01, 0.2), balancer="multi_loss").advice())
    assert diagnosis(late=(0.1, 0.01, 0.2)).advice()[0].startswith("--recipe ume")
    warned = diagnosis(warnings=["modality 'a' is at chance"])
    assert "at chance" in warned.text()
    assert "Nothing is wrong" not in warned.text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diagnose")
    table = tables.numbers(folder)
    settings = {"modalities": ["a=a1,a2:numeric", "b=b1,b2:numeric"], "device": "cpu", "epochs": 2, "show": False}
    Predictor("label", out=folder / "run", **settings).fit(table)
    return folder / "run"


def test_a_run(run, caplog):
    with (run / "log.txt").open("a") as log:
        log.write(
            "2026 WARNING modality 'b': its score 0.3 is at chance while its coefficient has stood at its bound\n"
        )
    with caplog.at_level("INFO", "polymodal"):
        first = diagnose(run, show=False)
    assert "trained in" in caplog.text
    assert json.loads((run / "diagnose.json").read_text())["under_trained"] == first.under_trained
    assert first.samples == 6
    assert len(first.warnings) == 1
    assert (run / "diagnose" / "stages" / "unimodal_a" / "done.json").is_file()
    caplog.clear()
    saved = (run / "diagnose.json").read_bytes()
    with caplog.at_level("INFO", "polymodal"):
        again = diagnose(run, show=False)
    assert "trained in" not in caplog.text
    assert "finished already" in caplog.text
    assert again.to_dict() == first.to_dict()
    assert (run / "diagnose.json").read_bytes() == saved
    diagnose(run, epochs=1, show=False)
    assert (run / "diagnose" / "stages" / "unimodal_a-1epochs").is_dir()


def test_a_run_of_a_fusion_that_does_not_split(run, tmp_path):
    settings = {"modalities": ["a=a1,a2:numeric", "b=b1,b2:numeric"], "device": "cpu", "epochs": 1, "show": False}
    film = Predictor("label", out=tmp_path / "film", fusion="film", **settings).fit(run.parent / "numbers.csv")
    assert film.metrics["unimodal"]["from"] == "masking"
    assert set(film.metrics["unimodal"]["test"]) == {"a", "b"}
    row = json.loads((tmp_path / "film" / "history.jsonl").read_text().splitlines()[0])
    assert row["unimodal"] == {}  # masking costs passes, and is for the end
    assert diagnose(tmp_path / "film", show=False).source == "masking"


def test_a_changed_table_is_refused(run):
    table = run.parent / "numbers.csv"
    table.write_text(table.read_text().replace("ant", "bee", 1))
    with pytest.raises(InputError, match="have changed"):
        diagnose(run, show=False)
