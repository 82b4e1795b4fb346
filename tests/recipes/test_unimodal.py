"""Recipe `unimodal`."""

import pytest

from polymodal.errors import InputError
from polymodal.recipes import unimodal
from tests.recipes.small_setup import make_setup


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_keeps_the_best_on_validation(task: str) -> None:
    setup = make_setup(3, task)
    result = unimodal(setup)
    assert list(result.best_epoch) == ["unimodal_m0", "unimodal_m1", "unimodal_m2"]
    assert set(result.unimodal) == {"m0", "m1", "m2"}
    name = setup.task.default_metric
    sign = -1 if name in setup.task.lower_is_better else 1
    found = {m: sign * setup.evaluate(model).metrics[name] for m, model in result.unimodal.items()}
    best = result.chosen
    assert best is not None
    assert found[best] == max(found.values())
    assert result.model is result.unimodal[best]
    assert result.model.modalities == (best,)


def test_goes_by_the_metric_asked_for() -> None:
    setup = make_setup(overrides=("train.metric=loss",))
    result = unimodal(setup)
    losses = {m: setup.evaluate(model).metrics["loss"] for m, model in result.unimodal.items()}
    assert result.chosen == min(losses, key=losses.__getitem__)


def test_needs_a_validation_split() -> None:
    with pytest.raises(InputError, match="give one"):
        unimodal(make_setup(valid=False))


def test_each_stage_has_its_own_seed() -> None:
    """A modality's model does not depend on what was trained before it."""
    from tests.builders import difference, weights

    both, alone = make_setup(), make_setup()
    alone.modalities = ("m1",)
    alone.train, alone.valid = both.loaders(["m1"])
    one = unimodal(both).unimodal["m1"]
    other = unimodal(alone).unimodal["m1"]
    assert difference(weights(one), weights(other)) == 0
