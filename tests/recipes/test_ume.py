"""Recipe `ume`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from polymodal.errors import InputError
from polymodal.recipes import ume, unimodal
from tests.builders import difference, weights
from tests.recipes.small_setup import make_setup


def alone(setup: Any, result: Any) -> dict[str, Any]:
    return {m: setup.evaluate(model).probabilities for m, model in result.unimodal.items()}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_probabilities_are_averaged(count: int) -> None:
    setup = make_setup(count)
    result = ume(setup)
    expected = np.mean(list(alone(setup, result).values()), 0)
    np.testing.assert_allclose(setup.evaluate(result.model).probabilities, expected, atol=1e-12)


def test_weights_and_logits() -> None:
    setup = make_setup()
    result = ume(setup, weights={"m0": 0.8, "m1": 0.2})
    found = alone(setup, result)
    np.testing.assert_allclose(
        setup.evaluate(result.model).probabilities, 0.8 * found["m0"] + 0.2 * found["m1"], atol=1e-12
    )
    result = ume(setup, "logit")
    found = alone(setup, result)
    product = np.sqrt(found["m0"] * found["m1"])
    np.testing.assert_allclose(
        setup.evaluate(result.model).probabilities, product / product.sum(1, keepdims=True), atol=1e-12
    )
    assert result.fusion == {"name": "mixture", "combine": "logit"}


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks(task: str) -> None:
    setup = make_setup(task=task)
    result = ume(setup)
    expected = np.mean(list(alone(setup, result).values()), 0)
    np.testing.assert_allclose(setup.evaluate(result.model).probabilities, expected, atol=1e-12)


def test_trains_what_unimodal_trains() -> None:
    one, other = ume(make_setup()), unimodal(make_setup())
    for m, model in one.unimodal.items():
        assert difference(weights(model), weights(other.unimodal[m])) == 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"combine": "sum"}, "combine='sum'"), ({"weights": {"m0": 0.8}}, "weights"), ({"weights": {"m0": 2, "m1": -1}}, "weights")],
)  # fmt: skip
def test_wrong_settings_cost_no_training(
    settings: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polymodal.recipes.base.fit", None)
    with pytest.raises(InputError, match=expected):
        ume(make_setup(), **settings)
