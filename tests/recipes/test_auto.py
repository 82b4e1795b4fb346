"""Recipe `auto`: its rule, its equal budget, and what it leaves behind."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from polymodal import InputError
from polymodal.recipes import auto
from polymodal.recipes.auto import CANDIDATES, one_standard_error
from tests.builders import difference
from tests.recipes.setups import make_setup, stages

SOME = ["unimodal", "ume_logit", "multi_loss"]
RIGHT, WRONG = np.zeros(100), np.ones(100)


def errors(share: float, count: int = 100) -> np.ndarray:
    """Errors of which the first share is 1."""
    return (np.arange(count) < share * count).astype(float)


# The rule -------------------------------------------------------------------------------------------------------------


def test_equal_candidates_give_the_simplest_and_a_clear_one_wins_wherever_it_stands():
    assert one_standard_error([[RIGHT], [RIGHT], [RIGHT]]) == (0, [0.0, 0.0, 0.0])
    for place in range(3):
        figures = [[errors(0.5)], [errors(0.5)], [errors(0.5)]]
        figures[place] = [RIGHT]
        assert one_standard_error(figures)[0] == place


def test_standard_error_is_that_of_the_paired_difference():
    _, found = one_standard_error([[errors(0.3)], [errors(0.1)]])
    gap = errors(0.3) - errors(0.1)
    assert found == [pytest.approx(gap.std(ddof=1) / 10), 0.0]


def test_a_gap_within_one_standard_error_favours_the_simpler():
    random = np.random.default_rng(0)
    one, other = (random.random((2, 200)) < 0.3).astype(float)
    low, high = sorted([one, other], key=np.mean)
    gap, spread = (high - low).mean(), (high - low).std(ddof=1) / np.sqrt(200)
    assert gap < spread, "the example is one that cannot be told apart"
    assert one_standard_error([[high], [low]])[0] == 0
    assert one_standard_error([[low], [high]])[0] == 0
    # The same gap in ten times as many samples is a difference.
    assert one_standard_error([[np.tile(high, 100)], [np.tile(low, 100)]])[0] == 1


def test_every_figure_must_be_good_enough():
    same = errors(0.2)
    worse_loss, better_loss = np.full(100, 1.0), np.full(100, 0.5)
    assert one_standard_error([[same, worse_loss], [same, better_loss]])[0] == 1
    assert one_standard_error([[same, better_loss], [same, worse_loss]])[0] == 0


def test_the_best_may_be_named_by_a_metric_that_is_no_mean():
    figures = [[errors(0.5)], [errors(0.1)], [errors(0.2)]]
    assert one_standard_error(figures)[0] == 1
    assert one_standard_error(figures, main=[-0.5, -0.6, -0.9])[0] == 1
    assert one_standard_error([figures[0], figures[2]], main=[-0.9, -0.1])[0] == 0


def test_one_sample_and_one_candidate():
    assert one_standard_error([[np.zeros(1)], [np.zeros(1)]])[0] == 0
    assert one_standard_error([[WRONG]]) == (0, [0.0])


# The recipe -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    """A run with two trials a candidate: its set-up, its result and its folder."""
    run = tmp_path_factory.mktemp("auto")
    setup = make_setup(run)
    return setup, auto(setup, trials=2, candidates=SOME), run


def test_every_candidate_is_tried():
    setup = make_setup()
    setup.config.train.epochs = 1
    auto(setup)
    assert [row["candidate"] for row in setup.leaderboard] == list(CANDIDATES)
    assert {row["lr"] for row in setup.leaderboard} == {0.01}


def test_every_candidate_has_equally_many_trials_at_the_same_rates(finished):
    setup, result, run = finished
    rows = setup.leaderboard
    assert [row["candidate"] for row in rows] == [name for name in SOME for _ in range(2)]
    for first, second in list(pairwise(rows))[::2]:
        assert (first["lr"], second["lr"]) == (0.01, pytest.approx(0.01 / 3))
    assert {len(history.rows) for _, history in setup.finished.values()} == {2}
    assert sum(row["chosen"] for row in rows) == 1
    assert next(row["candidate"] for row in rows if row["chosen"]) == result.chosen
    assert all(row["seconds"] == 0 for row in rows if row["candidate"].startswith("ume")), "they are free"
    lines = (run / "leaderboard.csv").read_text().splitlines()
    assert lines[0] == "candidate,lr,accuracy,se_of_difference,loss,seconds,chosen"
    assert len(lines) == 7


def test_the_chosen_model_is_what_the_leaderboard_says(finished):
    setup, result, _ = finished
    row = next(row for row in setup.leaderboard if row["chosen"])
    found = setup.evaluate(result.model).metrics
    assert (found["accuracy"], found["loss"]) == (row["accuracy"], row["loss"])
    best = max(setup.leaderboard, key=lambda row: (row["accuracy"], -row["loss"]))
    assert row["accuracy"] >= best["accuracy"] - row["se_of_difference"]
    assert set(result.unimodal) == {"x1", "x2"}


def test_resumes_finished_stages(finished, monkeypatch: pytest.MonkeyPatch):
    setup, result, run = finished
    assert len(stages(run)) == 2 * 3
    monkeypatch.setattr("polymodal.recipes.base.fit", None)
    again = make_setup(run)
    resumed = auto(again, trials=2, candidates=SOME)
    assert resumed.chosen == result.chosen
    assert difference(resumed.model.state_dict(), result.model.state_dict()) == 0

    def without_time(rows):
        return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]

    assert without_time(again.leaderboard) == without_time(setup.leaderboard)


def test_a_single_modality_has_nothing_to_compare():
    setup = make_setup(modalities=("x1",))
    result = auto(setup)
    assert [row["candidate"] for row in setup.leaderboard] == ["unimodal"]
    assert result.chosen == "unimodal"
    assert result.model.modalities == ("x1",)


def test_some_candidates_alone():
    setup = make_setup()
    auto(setup, candidates=["joint"])
    assert list(setup.finished) == ["joint"]


def test_what_makes_no_sense_costs_no_training(tmp_path: Path):
    with pytest.raises(InputError, match="validation split"):
        auto(make_setup(tmp_path, valid=False))
    with pytest.raises(InputError, match="juont"):
        auto(make_setup(tmp_path), candidates=["juont"])
    with pytest.raises(InputError, match="trials=0"):
        auto(make_setup(tmp_path), trials=0)
    assert stages(tmp_path) == []


@pytest.mark.parametrize("count", [50, 100, 129, 400, 1000])
def test_one_sample_more_is_within_one_standard_error(count: int) -> None:
    one, none = np.zeros(count), np.zeros(count)
    one[3] = 1
    chosen, errors = one_standard_error([[one], [none]])
    assert errors[0] == pytest.approx(1 / count)
    assert chosen == 0
