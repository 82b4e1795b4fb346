"""Experiment files: what is run, reused and printed, with a stand-in for training; one row is trained for real."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import yaml

from polymodal.datasets import open_table
from polymodal.encoders.presets import PRETRAINED
from polymodal.errors import Diverged, InputError
from polymodal.experiment.figures import Measured, figure_of, paired, summarise
from polymodal.experiment.file import read_experiment
from polymodal.experiment.fingerprints import configuration, fingerprint
from polymodal.experiment.mini import Miniatures
from polymodal.experiment.plan import Sources, plan
from polymodal.experiment.results import significance
from polymodal.experiment.table import run_table
from tests.cli.run import fails, polymodal

AVE = {"source": "ave/mlb"}
TABLE: dict[str, Any] = {
    "table": "own/table.csv",
    "settings": {"label": "y", "data": {"modalities": ["a=x:numeric", "b=z:numeric"]}},
}


def experiment(folder: Path, **changed: Any) -> Path:
    """A file of three rows, two of which share their run."""
    values = {
        "paper": "ours", "table": "table1", "title": "Three rows", "seeds": [0, 1, 2],
        "defaults": {"train": {"epochs": 2}, "optimizer": {"lr": 0.01}},
        "data": {"Own": TABLE},
        "rows": [
            {"row": "joint", "settings": {"recipe": "joint"}, "published": {"Own": {"top1": 70.5}}},
            {"row": "joint, probed", "modality": "a", "measure": "probe:a", "published": {"Own": {"top1": 60}}},
            {"row": "mlb", "settings": {"balancer": "mlb"}, "published": {"Own": {"top1": None, "ece": 0.2}}},
        ],
    } | changed  # fmt: skip
    path = folder / "file.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def begins_with(row: str, recipe: str = "joint") -> dict[str, Any]:
    settings = {"recipe": {"name": recipe, "start_from": f"row:{row}@Own"}}
    return {"row": "a", "settings": settings, "published": {"Own": {"top1": 1}}}


def own_table(folder: Path, rows: int = 12) -> Path:
    lines = ["x,z,y,split"] + [
        f"{i % 2}.5,{i},{'ab'[i % 2]},{('train', 'train', 'valid', 'test')[i % 4]}" for i in range(rows)
    ]
    (folder / "own").mkdir(parents=True, exist_ok=True)
    (folder / "own" / "table.csv").write_text("\n".join(lines))
    return folder


class Trainer:
    """A stand-in for `measure`: figures from balancer and seed, and a count of what it was asked for."""

    def __init__(self, wrong: str = "") -> None:
        self.asked: list[tuple[str, int, bool]] = []
        self.wrong = wrong

    def __call__(
        self, values: dict[str, Any], out: Path, *, probe: bool = False, show: bool | None = None
    ) -> dict[str, Any]:
        config = configuration(values)
        self.asked.append((config.balancer.name, config.seed, probe))
        if config.balancer.name == self.wrong:
            raise InputError("no weights at weights/x.safetensors")
        accuracy = 0.5 + 0.1 * config.seed + (0.2 if config.balancer.name == "mlb" else 0) + 0.01 * (config.seed == 2)
        found: dict[str, Any] = {
            "test": {"accuracy": accuracy, "ece": 0.1},
            "unimodal": {},
            "seconds": 1.0,
            "trainable": 5,
        }
        return found | ({"probe": {"a": 0.4, "b": 0.3}} if probe else {})


def lines_of(text: str) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["row"], row["metric"]): row for row in csv.DictReader(io.StringIO(text))}


def test_cells_with_the_same_settings_share_a_run(tmp_path: Path) -> None:
    train = Trainer()
    found = run_table(experiment(tmp_path), data=own_table(tmp_path), out=tmp_path / "out", measure=train)
    assert sorted(train.asked) == [("joint", s, True) for s in range(3)] + [("mlb", s, False) for s in range(3)]
    rows = lines_of(found.csv())
    assert float(rows["joint", "top1"]["measured"]) == pytest.approx(100 * (0.5 + 0.6 + 0.71) / 3)
    assert float(rows["joint, probed", "top1"]["measured"]) == pytest.approx(40)
    assert rows["mlb", "top1"]["published"] == ""
    assert float(rows["mlb", "top1"]["difference"]) == pytest.approx(20)
    assert rows["mlb", "ece"]["against"] == ""  # no other row has it
    assert "drawn only" in found.text()
    assert "70.5" in found.text()
    for ending in ("md", "csv", "html"):
        assert (tmp_path / "out" / f"ours_table1.{ending}").is_file()


def test_what_is_finished_is_not_run_again(tmp_path: Path) -> None:
    file, data, out = experiment(tmp_path), own_table(tmp_path), tmp_path / "out"
    first, second, third = Trainer(), Trainer(), Trainer()
    run_table(file, data=data, rows="mlb", seeds=[0], out=out, measure=first)
    assert first.asked == [("mlb", 0, False)]
    run_table(file, data=data, out=out, measure=second)
    assert ("mlb", 0, False) not in second.asked
    assert len(second.asked) == 5
    own_table(tmp_path, rows=16)
    run_table(file, data=data, rows="mlb", out=out, measure=third)
    assert len(third.asked) == 3, "another table is another run"


def test_a_probe_that_is_wanted_later(tmp_path: Path) -> None:
    file, data, out, later = experiment(tmp_path), own_table(tmp_path), tmp_path / "out", Trainer()
    run_table(file, data=data, rows="joint", out=out, measure=Trainer())
    found = run_table(file, data=data, rows="joint, probed*", out=out, measure=later)
    assert later.asked == [("joint", s, True) for s in range(3)]
    assert lines_of(found.csv())["joint, probed", "top1"]["seeds"] == "3"


def test_a_row_that_fails_leaves_the_others(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(
        InputError,
        match=r"3 of 6 runs failed. mlb on Own, seed 0 and 2 more: no weights at weights.x\.safetensors; the other cells are in",
    ):
        run_table(experiment(tmp_path), data=own_table(tmp_path), out=out, measure=Trainer(wrong="mlb"))
    text = (out / "ours_table1.md").read_text()
    assert "failed" in text
    assert "60.33" in text
    good = Trainer()
    run_table(experiment(tmp_path), data=own_table(tmp_path), out=out, measure=good)
    assert good.asked == [("mlb", s, False) for s in range(3)], "only what is unfinished"


def test_rows_that_need_a_missing_extra_leave_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained for real: one row without it, and one whose encoder lies in a package that is not installed."""
    monkeypatch.setitem(PRETRAINED, "minilm_l6", PRETRAINED["minilm_l6"]._replace(package="no_such_package"))
    small = {"encoders": {"a": "minilm_l6"}, "data": {"modalities": ["a=x:text", "b=z:numeric"]}}
    rows = [
        {"row": "plain", "published": {"Own": {"top1": 50}}},
        {"row": "pre-trained", "settings": small, "published": {"Own": {"top1": 60}}},
    ]
    file, out = (
        experiment(tmp_path, rows=rows, seeds=[0], defaults={"train": {"epochs": 1, "device": "cpu"}}),
        tmp_path / "out",
    )
    with pytest.raises(InputError, match=r"pre-trained on Own, seed 0: .*pip install 'polymodal\[pretrained-small\]'"):
        run_table(file, data=own_table(tmp_path), out=out)
    measured = lines_of((out / "ours_table1.csv").read_text())
    assert measured["plain", "top1"]["measured"]
    assert not measured["pre-trained", "top1"]["measured"]


def test_two_runners_on_one_folder_share_its_runs(tmp_path: Path) -> None:
    file, data, both = experiment(tmp_path), own_table(tmp_path), Barrier(2)
    train, first = Trainer(), [True, True]

    def runner(number: int) -> str:
        def measure(*given: Any, **options: Any) -> dict[str, Any]:
            if first[number]:
                first[number] = False
                both.wait(60)  # neither ends its first run before the other has one
            return train(*given, **options)

        return run_table(file, data=data, out=tmp_path / "out", measure=measure).text()

    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(runner, range(2)))
    assert len(train.asked) == len(set(train.asked)) == 6, "each run once"
    assert texts[0] == texts[1]
    assert (tmp_path / "out" / "ours_table1.md").read_text() == texts[0]


def test_a_disk_that_fills_up_loses_no_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, data, out, again = experiment(tmp_path), own_table(tmp_path), tmp_path / "out", Trainer()

    class Filling(Trainer):
        def __call__(self, *given: Any, **options: Any) -> dict[str, Any]:
            found = super().__call__(*given, **options)
            if len(self.asked) > 2:
                monkeypatch.setattr(os, "fsync", full)
            return found

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        run_table(file, data=data, out=out, measure=Filling())
    monkeypatch.undo()
    found = run_table(file, data=data, out=out, measure=again)
    assert len(again.asked) == 4, "two of six were finished before"
    assert all(math.isfinite(line.measured.mean) for line in found.lines)


def test_a_run_that_diverges_is_told_and_not_tried_again(tmp_path: Path) -> None:
    class Wild(Trainer):
        def __call__(self, values: dict[str, Any], out: Path, **others: Any) -> dict[str, Any]:
            found = super().__call__(values, out, **others)
            if self.asked[-1][:2] == ("mlb", 1):
                raise Diverged("the loss became nan in step 3")
            return found

    file, data, out, again = experiment(tmp_path), own_table(tmp_path), tmp_path / "out", Trainer()
    row = lines_of(run_table(file, data=data, out=out, measure=Wild()).csv())["mlb", "top1"]
    assert (row["seeds"], row["note"]) == ("2", "the loss became nan in step 3")
    run_table(file, data=data, out=out, measure=again)
    assert again.asked == []


def test_averages_over_data_sets_and_gains(tmp_path: Path) -> None:
    gain = {
        "row": "MLB",
        "measure": "gain",
        "settings": {"balancer": "mlb"},
        "published": {"Own": {"gain_points_min": 1.9}},
    }
    rows = [
        {"row": "joint", "published": {"Own": {"top1": 70}, "Other": {"top1": 71}, "Own+Other": {"top1_avg": 70.5}}},
        gain,
    ]
    file = experiment(
        tmp_path, rows=rows, data={"Own": TABLE, "Other": TABLE | {"settings": {**TABLE["settings"], "seed": 0}}}
    )
    found = lines_of(run_table(file, data=own_table(tmp_path), out=tmp_path / "out", measure=Trainer()).csv())
    assert float(found["joint", "top1_avg"]["measured"]) == pytest.approx(100 * (0.5 + 0.6 + 0.71) / 3)
    assert float(found["MLB", "gain_points_min"]["measured"]) == pytest.approx(20)


def test_a_row_begins_with_another(tmp_path: Path) -> None:
    class Seen(Trainer):
        def __call__(self, values: dict[str, Any], out: Path, **others: Any) -> dict[str, Any]:
            self.asked.append((json.dumps(values["recipe"]), values["seed"], False))
            return {"test": {"accuracy": 0.5}, "unimodal": {}}

    rows = [
        begins_with("source", "wander") | {"row": "adapted"},
        {"row": "source", "settings": {"recipe": {"name": "joint"}}, "published": {"Own": {}}},
    ]  # fmt: skip
    train, out = Seen(), tmp_path / "out"
    run_table(experiment(tmp_path, rows=rows, seeds=[0]), data=own_table(tmp_path), out=out, measure=train)
    assert [json.loads(recipe)["name"] for recipe, *_ in train.asked] == ["joint", "wander"]
    begins = Path(json.loads(train.asked[1][0])["start_from"])
    assert begins.parent == out / "runs"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rows": [{"row": "a", "published": {"AVEE": {"top1": 1}}}]}, "'AVEE' is not under `data`"),
        ({"rows": [{"row": "a", "publishd": {}, "published": {}}]}, "publishd"),
        ({"rows": [{"row": "a", "published": {}}] * 2}, "two rows are called 'a'"),
        ({"against": "nobody"}, "'nobody' is no row"),
        ({"defaults": {"train": {"epoch": 1}}}, "row 'joint' on Own: unknown key 'train.epoch'"),
        ({"rows": [begins_with("a")]}, "begins with itself"),
        ({"rows": [begins_with("b")]}, "write row:LABEL@DATA SET"),
    ],
)  # fmt: skip
def test_a_wrong_file_runs_nothing(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    train = Trainer()
    with pytest.raises(InputError, match=told.replace(".", r"\.")):
        run_table(experiment(tmp_path, **changed), data=own_table(tmp_path), out=tmp_path / "out", measure=train)
    assert train.asked == []


def test_wrong_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = experiment(tmp_path, data={"Own": AVE})
    assert "--rows 'UME*' matches no row of ours table1; there are: joint; joint, probed / a; mlb" in fails(
        capsys, "table", file, "--mini", "--rows", "UME*"
    )
    assert "--sets AV" in fails(capsys, "table", file, "--mini", "--sets", "AV")
    assert "has no folder ave; `polymodal data fetch-help ave`" in fails(capsys, "table", file, "--data", tmp_path)
    assert "--data ROOT, or take made-up ones with --mini" in fails(capsys, "table", file)
    assert "no such file" in fails(capsys, "table", tmp_path / "nothing.yaml", "--mini")
    assert "at least one process" in fails(capsys, "table", file, "--mini", "--jobs", 0)


def test_fingerprints_follow_what_changes_figures(tmp_path: Path) -> None:
    source = str(own_table(tmp_path) / "own" / "table.csv")
    values = {"label": "y", "table": source, "data": {"modalities": ["a=x:numeric"]}}
    one = fingerprint(values)
    assert one == fingerprint({**values, "train": {"device": "cpu"}})
    assert one == fingerprint({**values, "balancer": {"name": "joint"}})
    assert one != fingerprint({**values, "seed": 1})
    assert one != fingerprint({**values, "data": {"modalities": ["a=z:numeric"]}})
    moved = own_table(tmp_path / "moved")
    assert one == fingerprint({**values, "table": str(moved / "own" / "table.csv")})


def test_figures_in_the_papers_units() -> None:
    found = {
        "test": {"accuracy": 0.5, "f1_nonzero": 0.25, "r_at_5_q2g": 30.0}, "trainable": 1_500_000, "seconds": 2.0,
        "unimodal": {"test": {"a": {"accuracy": 0.4}}}, "probe": {"a": 0.3},
    }  # fmt: skip
    told = [("top1", "fused"), ("top1", "alone:a"), ("top1", "probe:a"), ("f1", "fused"), ("r_at_5_t2v", "fused")]
    assert [figure_of(found, *one) for one in told] == pytest.approx([50, 40, 30, 25, 30])
    assert figure_of(found, "tunable_params_m", "fused") == 1.5
    for metric, measure, message in (
        ("top5", "fused", "metric 'top5' is unknown"),
        ("mae", "fused", "the run's task has accuracy"),
        ("top1", "alone:b", "figures of a alone"),
        ("top1", "probe:b", "encoders are those of a"),
        ("top1", "other", "expected fused"),
    ):
        with pytest.raises(InputError, match=message):
            figure_of(found, metric, measure)


def test_differences_are_paired_over_seeds() -> None:
    one, other = Measured({0: 3.0, 1: 5.0, 2: 4.5, 7: 100.0}), Measured({0: 1.0, 1: 2.0, 2: 2.0, 8: -50.0})
    assert paired(one, other) == pytest.approx((2.5, 0.5 / math.sqrt(3)))
    from scipy.stats import ttest_rel

    assert significance(one, other) == pytest.approx(ttest_rel([3, 5, 4.5], [1, 2, 2]).pvalue)
    assert math.isnan(significance(one, one))
    assert summarise([one, other]).values == {0: 2.0, 1: 3.5, 2: 3.25}


def test_small_encoders_for_large_ones(tmp_path: Path) -> None:
    file = experiment(tmp_path, data={"Own": {"source": "food101/mmlora"}})
    made = Miniatures(tmp_path / "small")
    source = Sources(read_experiment(file), None, made).table("Own")
    small = made.shrunk({"table": source, "preset": "large", "train": {"batch_size": 160, "epochs": 20}})
    config = configuration(small)
    assert {m: part.name for m, part in config.encoders.items()} == {"image": "vit", "text": "deberta"}
    assert config.encoders["image"].arguments["width"] == 64
    assert (config.train.epochs, config.train.batch_size, config.preset) == (1, 8, None)
    assert made.table("Own", read_experiment(file).data["Own"]) == source, "made once"


def test_folds_go_with_the_seed(tmp_path: Path) -> None:
    data = {"Own": {"source": "cremad/mlb", "by_seed": {"fold": [2, 3]}}}
    file = experiment(tmp_path, data=data, rows=[{"row": "A", "published": {"Own": {"top1": 1.0}}}])
    read = read_experiment(file)
    sources = Sources(read, None, Miniatures(tmp_path / "small"))
    planned = plan(read, read.cells(), (0, 1, 2), sources)
    of = {seed: planned.runs[planned.of["A", "Own", seed]]["table"].partition(":")[0] for seed in (0, 1, 2)}
    assert of == {0: "cremad/mlb,fold=2", 1: "cremad/mlb,fold=3", 2: "cremad/mlb,fold=2"}
    tables = [open_table(sources.table("Own", seed)) for seed in (0, 1)]
    first, second = (set(table.cells("id")[table.cells("split") == "test"]) for table in tables)
    assert first
    assert second
    assert first != second
    for wrong in ({"table": "a.csv", "by_seed": {"fold": [1]}}, {"source": "cremad/mlb", "by_seed": {"fold": []}}):
        with pytest.raises(InputError, match="by_seed gives options of a source"):
            read_experiment(experiment(tmp_path, data={"Own": wrong}))


def test_a_row_in_miniature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = {"AVE": {"top1": 96.2, "tunable_params_m": 0.1}}
    rows = [{"row": "MMLoRA", "settings": {"recipe": {"name": "mmlora", "rank": 2}}, "published": published}]
    encoders = {"video": "vit_b16_laion2b", "audio": "spectrogram_cnn"}
    file = experiment(tmp_path, rows=rows, data={"AVE": AVE}, defaults={"encoders": encoders}, seeds=[3])
    polymodal("table", file, "--mini", "--out", tmp_path / "out")
    shown = capsys.readouterr().out
    assert "**Miniatures.**" in shown
    assert "96.2" in shown
    (run,) = (tmp_path / "out" / "runs").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    row = lines_of((tmp_path / "out" / "ours_table1_mini.csv").read_text())["MMLoRA", "top1"]
    assert float(row["measured"]) == pytest.approx(100 * metrics["test"]["accuracy"])
    assert (run / "config.yaml").read_text().count("seed: 3") == 1
