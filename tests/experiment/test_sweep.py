"""The search itself, by a stand-in for training except where processes share real runs."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from polymodal.config import laid
from polymodal.errors import Diverged, InputError
from polymodal.experiment.sweep import sweep
from polymodal.experiment.sweep_file import read_sweep
from polymodal.experiment.trials import draw
from tests.cli import tables
from tests.cli.run import fails, polymodal
from tests.experiment import processes

FILE: dict[str, Any] = {
    "title": "Three methods",
    "note": "On numbers.",
    "table": "numbers.csv",
    "defaults": {
        "label": "label",
        "data": {"modalities": list(tables.NUMBERS[1::2])},
        "train": {"epochs": 1, "batch_size": 24, "device": "cpu"},
        "data.workers": 0,
    },
    "trials": 4,
    "select_seeds": [0, 1],
    "seeds": [0, 2],
    "metric": "accuracy",
    "space": {"optimizer.lr": {"log": [0.003, 0.1]}},
    "methods": {
        "joint": {"settings": {"balancer": "joint"}},
        "mlb": {
            "settings": {"balancer": "mlb", "balancer.apply_to": "update"},
            "space": {"balancer.alpha": {"log": ["5e-1", 5]}, "balancer.beta_max": {"uniform": [2, 20]}},
        },
        "sgd": {"settings": {"optimizer": {"name": "sgd"}}, "space": {"train.epochs": {"integer": [2, 3]}}},
    },
}
Figures = Callable[[Mapping[str, Any]], dict[str, Any]]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tables.numbers(tmp_path_factory.mktemp("sweep")).parent


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(FILE | changes, sort_keys=False))
    return path


def changed(**methods: Any) -> dict[str, Any]:
    return {"methods": {**FILE["methods"], **methods}}


def name_of(values: Mapping[str, Any]) -> str:
    """The method whose settings these are."""
    return str(laid({"balancer": {"name": "sgd"}}, {"balancer": values.get("balancer", {})})["balancer"]["name"])


class StandIn:
    """Measures nothing: figures are a function of the settings; notes who was measured."""

    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self.seen: list[tuple[str, float, int]] = []

    def __call__(self, values: Mapping[str, Any], out: Path, *, show: bool | None = None) -> dict[str, Any]:
        self.seen.append((name_of(values), values["optimizer"]["lr"], values["seed"]))
        return {
            "unimodal": {},
            "parameters": 1,
            "trainable": 1,
            "seconds": 2.0,
            "peak_mib": 1.0,
            **self.figures(values),
        }


def rate_decides(values: Mapping[str, Any]) -> dict[str, Any]:
    """The greatest rate is best on validation and the smallest on test; seeds differ a little."""
    lr, seed = values["optimizer"]["lr"], values["seed"]
    return {"valid": {"accuracy": lr + seed, "loss": 1.0}, "test": {"accuracy": 1 - lr + 0.01 * seed}}


# Drawing --------------------------------------------------------------------------------------------------------------


def test_what_is_drawn_lies_in_its_range_and_is_shared(tmp_path: Path) -> None:
    file = read_sweep(written(tmp_path, trials=50))
    drawn = draw(file)
    assert {len(trials) for trials in drawn.values()} == {50}
    for method, trials in drawn.items():
        space = file.space_of(method)
        assert all(set(trial) == set(space) for trial in trials)
        assert all(space[key].holds(value) for trial in trials for key, value in trial.items())
    rates = {method: [trial["optimizer.lr"] for trial in trials] for method, trials in drawn.items()}
    assert rates["joint"] == rates["mlb"] == rates["sgd"]
    assert len(set(rates["joint"])) > 40
    middle = sorted(math.log(rate) for rate in rates["joint"])[25]
    assert abs(middle - math.log(0.003 * 0.1) / 2) < 0.7, "uniform in the logarithm"
    assert {trial["train.epochs"] for trial in drawn["sgd"]} == {2, 3}


def test_other_methods_settings_and_trials_move_nothing(tmp_path: Path) -> None:
    drawn = draw(read_sweep(written(tmp_path)))
    ogm = {"settings": {"balancer": "ogm"}, "space": {"balancer.alpha": {"uniform": [0, 1]}}}
    more = draw(read_sweep(written(tmp_path, trials=6, methods={"ogm": ogm, **FILE["methods"]})))
    assert {method: trials[:4] for method, trials in more.items() if method != "ogm"} == drawn
    wider = {"train.clip": {"choice": ["1e-1", 1, None]}, **FILE["methods"]["mlb"]["space"]}
    again = draw(read_sweep(written(tmp_path, **changed(mlb={**FILE["methods"]["mlb"], "space": wider}))))
    assert [{k: v for k, v in trial.items() if k != "train.clip"} for trial in again["mlb"]] == drawn["mlb"]
    assert {trial["train.clip"] for trial in again["mlb"]} <= {0.1, 1, None}
    assert draw(read_sweep(written(tmp_path, seed=1)))["joint"] != drawn["joint"]


def test_the_list_beside_the_file_is_what_is_run(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path)
    polymodal("sweep", file, "--draw")
    beside = tmp_path / "small.trials.json"
    assert "3 methods with 4 trials each" in capsys.readouterr().err
    kept = json.loads(beside.read_text())
    kept["methods"]["joint"]["trials"][0]["optimizer.lr"] = 0.05
    beside.write_text(json.dumps(kept))
    stand_in = StandIn(rate_decides)
    sweep(file, data, tmp_path / "out", measure=stand_in)
    assert ("joint", 0.05, 0) in stand_in.seen
    assert json.loads((tmp_path / "out" / "trials.json").read_text()) == kept
    polymodal("sweep", file, "--draw")  # which replaces it
    with pytest.raises(InputError, match=r"out/trials.json is not the list .*small.trials.json; name another folder"):
        sweep(file, data, tmp_path / "out", measure=stand_in)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seed": 3}, "it was drawn with seed 0, not 3"),
        ({"trials": 5}, "'joint' has 4 trials, not 5"),
        ({"space": {"optimizer.lr": {"log": [0.003, 0.2]}}}, "'joint' was drawn from another space"),
        (
            changed(ogm={"settings": {"balancer": "ogm"}}),
            "it has the methods joint, mlb, sgd, not joint, mlb, sgd, ogm",
        ),
    ],
)
def test_a_list_that_does_not_fit(changes: dict[str, Any], problem: str, tmp_path: Path, data: Path) -> None:
    polymodal("sweep", written(tmp_path), "--draw")
    with pytest.raises(
        InputError, match=f"small.trials.json does not fit the sweep file: {problem}; draw it anew with: "
    ):
        sweep(written(tmp_path, **changes), data, tmp_path / "out", measure=StandIn(rate_decides))
    assert not (tmp_path / "out").exists()


def test_a_list_that_was_spoilt(tmp_path: Path, data: Path) -> None:
    file = written(tmp_path)
    polymodal("sweep", file, "--draw")
    beside = tmp_path / "small.trials.json"
    kept = json.loads(beside.read_text())
    kept["methods"]["mlb"]["trials"][2]["balancer.beta_max"] = 21
    beside.write_text(json.dumps(kept))
    with pytest.raises(
        InputError, match=r"trial 3 of 'mlb' does not lie in its space \(balancer.beta_max\); draw it anew"
    ):
        sweep(file, data, tmp_path / "out")
    beside.write_text('{"seed": 0}')
    with pytest.raises(InputError, match=r"small\.trials\.json is not a list of trials"):
        sweep(file, data, tmp_path / "out")


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trails": 3}, "unknown key 'trails'; did you mean 'trials'?"),
        ({"trials": 0}, "key 'trials' = 0"),
        ({"table": None}, "name either a table or a source"),
        ({"seeds": [1, 1]}, r"seeds \[1, 1\]: expected different numbers"),
        ({"folds": 3, "defaults": {"label": "y", "data.fold": [1, 2]}}, "defaults.data.fold: the file's own folds say it"),
        ({"folds": 1}, "folds"),
        ({"defaults": {"label": "label", "seed": 1}}, "defaults.seed: the file's own table, source and seeds say it"),
        (changed(mlb={"combines": ["sgd", "mlb"]}), "methods.mlb.combines mlb: expected other methods of the file"),
        (changed(mlb={"combines": ["adam"]}), "methods.mlb.combines adam: expected other methods"),
        (changed(mlb={"spaces": {}}), "unknown key 'methods.mlb.spaces'; did you mean 'space'?"),
        ({"space": {"optimizer.lr": {"log": [0, 1]}}}, r"'space.optimizer.lr' .*log \[0.0, 1.0\]: expected .* with 0 < a"),
        ({"space": {"optimizer.lr": {"log": [1, 2], "choice": [3]}}}, "expected one of .*, found log, choice"),
        ({"space": {"optimizer.rate": {"log": [1, 2]}}}, "method 'joint': unknown key 'optimizer.rate'"),
        ({"space": {"optimizer.lr": {"uniform": [-2, -1]}}}, "method 'joint': key 'optimizer.lr' = -"),
        (changed(mlb={"settings": {"balancer": "mlp"}}), "method 'mlb': 'mlp' is no balancer but a fusion: --fusion mlp"),
        (changed(mlb={"settings": {"balancer": "mlb", "balancer.alhpa": 1}}), "method 'mlb': balancer.alhpa: .*mean 'alpha'"),
    ],
)  # fmt: skip
def test_a_broken_file_names_the_key(changes: dict[str, Any], message: str, tmp_path: Path, data: Path) -> None:
    with pytest.raises(InputError, match=message):
        sweep(written(tmp_path, **changes), data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_such_table_or_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path)
    assert "numbers.csv: no such file; name the folder that it lies below" in fails(
        capsys, "sweep", file, "--data", tmp_path
    )
    assert "--jobs 0: at least one process" in fails(capsys, "sweep", file, "--jobs", 0)
    assert "no such file" in fails(capsys, "sweep", tmp_path / "none.yaml")
    source = written(tmp_path, table=None, source="cremad/mlb")
    assert "source cremad/mlb: name the folder" in fails(capsys, "sweep", source)


# The search -----------------------------------------------------------------------------------------------------------


def test_validation_chooses_and_test_is_read_for_the_chosen_alone(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, out, stand_in = written(tmp_path), tmp_path / "out", StandIn(rate_decides)
    with caplog.at_level(logging.INFO, "polymodal"):
        found = sweep(file, data, out, measure=stand_in)
    trials = draw(read_sweep(file))
    best = max(trial["optimizer.lr"] for trial in trials["joint"])
    # Of each method four trials on two seeds, and one more seed of the chosen; each once.
    assert len(stand_in.seen) == len(set(stand_in.seen)) == 3 * (4 * 2 + 1)
    assert {lr for _, lr, seed in stand_in.seen if seed == 2} == {best}
    told = [
        record.getMessage()
        for record in caplog.records
        if " left" in record.getMessage() or "last" in record.getMessage()
    ]
    assert len(told) == 27
    assert told[0].startswith(
        f"joint, trial 1, seed 0: validation accuracy {trials['joint'][0]['optimizer.lr']:.4f}, 2 s; 26 left"
    )
    assert told[-1].endswith("; the last")
    rows = found.rows()
    assert [row["method"] for row in rows] == ["joint", "mlb", "sgd"]
    assert [row["trial"] for row in rows] == [1 + [t["optimizer.lr"] for t in trials["joint"]].index(best)] * 3
    assert rows[1]["test_accuracy"] == pytest.approx(1 - best + 0.01)
    assert rows[1]["sd"] == pytest.approx(0.02 / math.sqrt(2))
    assert (rows[1]["difference"], rows[1]["difference_se"]) == (0, 0)
    text = (out / "sweep.md").read_text()
    assert text == found.text()
    assert text.startswith("# Three methods\n\nOn numbers.\n\n| method |")
    assert f"| {best + 0.5:.4f} | {1 - best + 0.01:.4f} ± 0.0141 | +0.0000 (0.0000) | 2.0 |" in text
    board = pd.read_csv(out / "leaderboard.csv")
    assert list(board.columns) == ["method", "trial", "settings", "valid_accuracy", "sd", "valid_loss", "seeds"]
    assert len(board) == 12
    assert board.groupby("method")["valid_accuracy"].apply(lambda column: column.is_monotonic_decreasing).all()
    again = StandIn(rate_decides)
    assert sweep(file, data, out, measure=again).text() == text
    assert again.seen == []


def test_folds_choose_and_no_run_of_the_search_reads_the_test_part(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, float, int, Any]] = []

    def figures(values: Mapping[str, Any]) -> dict[str, Any]:
        """The smallest rate is best in the folds, the greatest on validation and on test."""
        lr, seed, fold = values["optimizer"]["lr"], values["seed"], values["data"].get("fold")
        seen.append((name_of(values), lr, seed, fold))
        held = lr if fold is None else 1 - lr + 0.1 * fold[0]
        return {"valid": {"accuracy": lr, "loss": 1.0}, "test": {"accuracy": held, "loss": 1.0}}

    file, out = written(tmp_path, folds=3), tmp_path / "out"
    with caplog.at_level(logging.INFO, "polymodal"):
        found = sweep(file, data, out, measure=StandIn(figures))
    rates = [trial["optimizer.lr"] for trial in draw(read_sweep(file))["joint"]]
    # Of each method four trials on two seeds of three folds each, then the chosen one on both seeds, without folds.
    assert len(seen) == 3 * (4 * 2 * 3 + 2)
    search, last = [one for one in seen if one[3]], [one for one in seen if not one[3]]
    assert seen == search + last
    assert {tuple(one[3]) for one in search} == {(1, 3), (2, 3), (3, 3)}
    assert {(lr, seed) for _, lr, seed, _ in last} == {(min(rates), 0), (min(rates), 2)}
    row = found.rows()[0]
    assert row["valid_accuracy"] == pytest.approx(1 - min(rates) + 0.2)
    assert row["test_accuracy"] == pytest.approx(min(rates))
    told = [one.getMessage() for one in caplog.records if one.getMessage().startswith("joint, trial 1, seed 0, ")]
    assert told[0].startswith(
        f"joint, trial 1, seed 0, fold 1 of 3: held-out accuracy {1.1 - rates[0]:.4f}, 2 s; 77 left"
    )
    assert (
        "chosen by accuracy on what 3 folds of the training and validation rows hold out (seeds 0, 1)" in found.text()
    )


def test_what_others_have_done_is_not_left(tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, stand_in = written(tmp_path), StandIn(rate_decides)
    sweep(file, data, tmp_path / "before", measure=stand_in)

    def beside_others(values: dict[str, Any], run: Path, **options: Any) -> dict[str, Any]:
        done = tmp_path / "out" / "units" / "done"
        for unit in (tmp_path / "before" / "units" / "done").iterdir():
            if unit.stem != run.name:
                shutil.copy(unit, done)
        return stand_in(values, run, **options)

    caplog.clear()
    with caplog.at_level(logging.INFO, "polymodal"):
        sweep(file, data, tmp_path / "out", measure=beside_others)
    told = [one.getMessage() for one in caplog.records if "seed 0: " in one.getMessage()]
    assert "; 3 left" in told[0]


def test_ties_go_to_the_lower_loss_then_to_the_first(tmp_path: Path, data: Path) -> None:
    def tied(values: Mapping[str, Any]) -> dict[str, Any]:
        odd = values["seed"] % 2  # means are equal, whatever the order of the seeds
        loss = values["optimizer"]["lr"] if name_of(values) == "mlb" else 1.0
        return {"valid": {"accuracy": 0.1 + 0.2 * odd, "loss": loss}, "test": {"accuracy": 0.5}}

    file = written(tmp_path)
    rows = {row["method"]: row for row in sweep(file, data, tmp_path / "out", measure=StandIn(tied)).rows()}
    rates = [trial["optimizer.lr"] for trial in draw(read_sweep(file))["mlb"]]
    assert rows["joint"]["trial"] == rows["sgd"]["trial"] == 1
    assert rows["mlb"]["trial"] == 1 + rates.index(min(rates))


def test_lower_is_better_for_a_loss(tmp_path: Path, data: Path) -> None:
    def figures(values: Mapping[str, Any]) -> dict[str, Any]:
        return {part: {"loss": values["optimizer"]["lr"]} for part in ("valid", "test")}

    file = written(tmp_path, metric="loss")
    found = sweep(file, data, tmp_path / "out", measure=StandIn(figures))
    assert found.rows()[0]["valid_loss"] == min(trial["optimizer.lr"] for trial in draw(read_sweep(file))["joint"])
    assert "lower is better" in found.text()


@pytest.mark.parametrize(("metric", "sign"), [("accuracy", 1), ("loss", -1)])
def test_the_combination_that_validation_prefers_beside_the_single_methods(
    metric: str, sign: int, tmp_path: Path, data: Path
) -> None:
    merit = {"joint": (0.1, 0.50), "sgd": (0.2, 0.40), "mlb": (0.3, 0.90), "ogm": (0.4, 0.45)}

    def figures(values: Mapping[str, Any]) -> dict[str, Any]:
        valid, test = merit[name_of(values)]
        # Over joint the gains of seeds 0 and 2 are .05 apart, over sgd they are equal.
        test += 0.05 * (name_of(values) == "joint") * (values["seed"] / 2 - 0.5)
        return {"valid": {metric: sign * valid, "loss": sign * valid}, "test": {metric: sign * test}}

    combining = {
        "mlb": FILE["methods"]["mlb"] | {"combines": ["joint"]},  # best by test, but not by validation
        "ogm": {"settings": {"balancer": "ogm"}, "combines": ["joint", "sgd"]},
    }
    file = written(tmp_path, **changed(**combining), metric=metric)
    found = sweep(file, data, tmp_path / "out", measure=StandIn(figures))
    assert found.combination is not None
    assert found.combination.method == "ogm"
    gains = found.gains()
    assert list(gains) == ["joint", "sgd"]
    assert gains["joint"] == pytest.approx((-0.05, 0.025))
    assert gains["sgd"] == pytest.approx((0.05, 0.0))
    told = found.text()
    assert "| seconds | ogm over it |" in told
    assert "| 2.0 | -0.0500 (0.0250) |" in told
    assert "validation prefers ogm; by more than one standard error of seeds it is worse than joint on test" in told


def test_a_single_method_without_a_figure_is_not_called_better(tmp_path: Path, data: Path) -> None:
    def figures(values: Mapping[str, Any]) -> dict[str, Any]:
        if name_of(values) == "sgd" and values["seed"] == 2:  # a seed of the comparison, not of the search
            raise Diverged("the loss became nan")
        return rate_decides(values)

    combining = {"mlb": FILE["methods"]["mlb"] | {"combines": ["joint"]}}
    found = sweep(written(tmp_path, **changed(**combining)), data, tmp_path / "out", measure=StandIn(figures))
    assert math.isnan(found.gains()["sgd"][0])
    assert "it is worse than none of the others, leaving out sgd, where a run was not finite, on test" in found.text()


def test_a_run_that_diverges_is_never_chosen(tmp_path: Path, data: Path) -> None:
    def figures(values: Mapping[str, Any]) -> dict[str, Any]:
        if name_of(values) == "sgd" or values["optimizer"]["lr"] == worst:
            raise Diverged("the loss became nan")
        return rate_decides(values)

    file = written(tmp_path)
    rates = sorted(trial["optimizer.lr"] for trial in draw(read_sweep(file))["joint"])
    worst = rates[-1]
    found = sweep(file, data, tmp_path / "out", measure=StandIn(figures))
    rows = found.rows()
    assert rows[0]["settings"] == f"optimizer.lr={rates[-2]}"
    assert "| sgd | none stayed finite | - | - | - | - |" in found.text()
    board = pd.read_csv(tmp_path / "out" / "leaderboard.csv")
    assert board[board["method"] == "joint"]["valid_accuracy"].isna().tolist() == [False, False, False, True]


def test_a_metric_or_part_that_the_runs_lack(tmp_path: Path, data: Path) -> None:
    with pytest.raises(InputError, match="metric 'f2': the runs have accuracy, loss"):
        sweep(written(tmp_path, metric="f2"), data, tmp_path / "out", measure=StandIn(rate_decides))
    untested = StandIn(lambda values: {"valid": rate_decides(values)["valid"]})
    with pytest.raises(InputError, match="the runs have no test figures: give the table a test part"):
        sweep(written(tmp_path), data, tmp_path / "other", measure=untested)


# Several processes ----------------------------------------------------------------------------------------------------


def test_three_workers_of_which_one_is_killed_end_as_one(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = {name: FILE["methods"][name] for name in ("joint", "mlb")}
    file = written(tmp_path, trials=2, select_seeds=[0], seeds=[0, 1], methods=methods)
    polymodal("sweep", file, "--draw")
    together = processes.context().Barrier(3)
    workers = [processes.start(processes.sweep, file, data, tmp_path / "out", together, one == 1) for one in range(3)]
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, -signal.SIGKILL, 0]
    ended = (tmp_path / "ended").read_text().split()
    assert len(ended) == len(set(ended)) == 2 * 2 + 2
    assert {path.name for path in (tmp_path / "out" / "runs").iterdir()} == set(ended)
    printed = (tmp_path / "printed").read_text().splitlines()
    assert printed == [repr((tmp_path / "out" / "sweep.md").read_text())] * 2

    half = tmp_path / "alone" / "runs" / ended[0] / ".config.yaml.1-0.tmp"  # of a worker that was killed as it began
    half.parent.mkdir(parents=True)
    half.touch()
    capsys.readouterr()
    polymodal("sweep", file, "--data", data, "--out", tmp_path / "alone")
    alone, told = capsys.readouterr()
    assert alone == (tmp_path / "alone" / "sweep.md").read_text()
    assert told.count("note: ") == 6, "one line a finished run"
    for name in ("sweep.csv", "leaderboard.csv"):
        one, other = (
            pd.read_csv(tmp_path / out / name).drop(columns="seconds", errors="ignore") for out in ("out", "alone")
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert sorted(os.listdir(tmp_path / "alone" / "runs")) == sorted(ended)

    commands: list[list[str]] = []

    class Worker:
        def __init__(self, command: list[str], **_: Any) -> None:
            commands.append(command)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr("polymodal.experiment.jobs.subprocess.Popen", Worker)
    polymodal("sweep", file, "--data", data, "--out", tmp_path / "alone", "--jobs", 3)
    assert capsys.readouterr().out == alone
    assert commands[0] == commands[1]
    assert len(commands) == 2
    polymodal(*commands[0][3:])
    assert capsys.readouterr().out == alone
