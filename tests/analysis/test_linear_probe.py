"""Linear probes against scikit-learn called by hand, and what they read from a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from polymodal.analysis.linear_probe import encoder_features, linear_probe, probe_encoders
from polymodal.errors import InputError
from polymodal.types import Batch
from tests.builders import make_batch, make_model, rows


def blobs(seed: int, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y = np.arange(count) % 3
    return random.normal(size=(count, 4)) + 1.2 * np.eye(4)[y], y


def test_is_logistic_regression_on_standardised_features():
    (x, y), (x_test, y_test) = blobs(0), blobs(1)
    mean, std = x.mean(0), x.std(0)
    reference = LogisticRegression(C=0.1, max_iter=5000).fit((x - mean) / std, y)
    assert linear_probe(x, y, x_test, y_test) == reference.score((x_test - mean) / std, y_test)


def test_does_not_depend_on_the_scale_of_a_feature():
    (x, y), (x_test, y_test) = blobs(0), blobs(1)
    scale = np.array([1e-3, 1.0, 50.0, 7.0])
    assert linear_probe(x * scale + 3, y, x_test * scale + 3, y_test) == linear_probe(x, y, x_test, y_test)


def test_dead_feature_does_no_harm():
    (x, y), (x_test, y_test) = blobs(0), blobs(1)
    dead = np.zeros((len(x), 1))
    assert linear_probe(np.hstack([x, dead]), y, np.hstack([x_test, dead]), y_test) == linear_probe(
        x, y, x_test, y_test
    )


def test_refuses_what_cannot_be_probed():
    x, y = blobs(0)
    with pytest.raises(InputError, match="not finite"):
        linear_probe(x * np.nan, y, x, y)
    with pytest.raises(InputError, match="only one"):
        linear_probe(x, y * 0, x, y)


def test_probe_of_each_encoder_equals_a_probe_of_its_features():
    model, train, test = make_model(), make_batch(size=60), make_batch(size=30, seed=1)
    with torch.no_grad():
        features = [model.eval().encode(batch.inputs) for batch in (train, test)]
    expected = {
        m: linear_probe(features[0][m].pooled, train.target, features[1][m].pooled, test.target)
        for m in model.modalities
    }
    assert probe_encoders(model, rows(train, 20, 40), [test]) == expected


def test_features_in_evaluation_mode_and_modes_restored():
    model, batch = make_model(), make_batch()
    for module in model.encoders["m0"].modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.train()
    model.encoders["m1"].eval()
    one, _, _ = encoder_features(model, [batch])
    two, target, _ = encoder_features(model, [batch])
    assert np.array_equal(one["m0"], two["m0"])
    assert np.array_equal(target, batch.target)
    assert model.training
    assert model.encoders["m0"].training
    assert not model.encoders["m1"].training


def test_sample_that_lacks_a_modality_takes_no_part():
    model, train, test = make_model(), make_batch(size=60), make_batch(size=30, seed=1)
    present = {"m1": torch.arange(60) % 4 > 0}
    broken = train.inputs["m1"].clone()
    broken[~present["m1"]] = 1e3
    lacking = Batch({**train.inputs, "m1": broken}, train.target, present)
    whole = {"m0": train.inputs["m0"][present["m1"]], "m1": train.inputs["m1"][present["m1"]]}
    found = probe_encoders(model, [lacking], [test])
    assert found["m1"] == probe_encoders(model, [Batch(whole, train.target[present["m1"]])], [test])["m1"]
    assert found["m0"] == probe_encoders(model, [train], [test])["m0"]


def test_loader_may_hold_more_than_the_model():
    train, test = make_batch(size=60), make_batch(size=30, seed=1)
    assert set(probe_encoders(make_model(1), [train], [test])) == {"m0"}


def test_empty_loader():
    with pytest.raises(InputError, match="no batch"):
        encoder_features(make_model(), [])
