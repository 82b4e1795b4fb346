"""`polymodal fit` on numbers and on real media files."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import polymodal as pm
from tests.cli import tables
from tests.cli.run import FILES, QUICK, answer, csv, metrics, polymodal, process, same
from tests.cli.tables import NUMBERS

BLOCK = {"accuracy", "f1_macro", "f1_weighted", "ece", "loss"}


def test_run_folder(media_run: Path) -> None:
    found = {str(file.relative_to(media_run)) for file in media_run.rglob("*") if file.is_file()}
    assert found == {
        "config.yaml", "data.json", "history.jsonl", "log.txt", "metrics.json", "model.json", "model.safetensors",
        "predictions/test.csv", "predictions/valid.csv", "timing.json", "stages/joint/done.json",
        "stages/joint/history.jsonl", "stages/joint/model.safetensors", "report.html",
    }  # fmt: skip
    timing = json.loads((media_run / "timing.json").read_text())
    assert timing["seconds"]["joint"] > 0
    assert timing["peak_memory_mib"] > 0
    assert "epoch 2 of 2" in (media_run / "log.txt").read_text()


def test_metrics_have_the_documented_layout(media_run: Path) -> None:
    found = metrics(media_run)
    assert set(found) == {"valid", "test", "unimodal", "best_epoch"}
    assert set(found["valid"]) == set(found["test"]) == BLOCK
    assert found["unimodal"]["from"] == "heads"
    assert {m: set(one) for m, one in found["unimodal"]["test"].items()} == {"photo": BLOCK, "sound": BLOCK}
    assert found["best_epoch"] in (1, 2)


def test_history_tells_scores_and_coefficients_of_each_modality(media_run: Path) -> None:
    rows = [json.loads(line) for line in (media_run / "history.jsonl").read_text().splitlines()]
    assert [(row["stage"], row["epoch"]) for row in rows] == [("joint", 1), ("joint", 2)]
    for row in rows:
        assert set(row["scores"]) == set(row["coefficients"]) == {"photo", "sound"}
        assert row["train_loss"] > 0


def test_predictions_of_a_run(media_run: Path) -> None:
    frame = csv(media_run / "predictions" / "test.csv")
    assert list(frame.columns) == [
        "id", "target", "prediction", "prob_ant", "prob_bee", "prob_cat", "prediction_photo", "prediction_sound",
    ]  # fmt: skip
    assert list(frame["id"]) == ["0009", "0019", "0029", "0039"]


def test_inferred_modalities_give_the_same_model(media: Path, media_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    polymodal("fit", media, "--label", "label", *QUICK, "--balancer", "MLB", "--out", run)
    assert (run / "model.safetensors").read_bytes() == (media_run / "model.safetensors").read_bytes()


def test_the_predictor_gives_the_figures_of_the_command_line(media: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    polymodal("fit", media, "--label", "label", "--epochs", "2", "--seed", "3", "--out", run)
    predictor = pm.Predictor(label="label", epochs=2, seed=3).fit(media)
    found, told = predictor.evaluate(), metrics(run)
    assert {name: found[name] for name in BLOCK} == told["test"]
    assert found["unimodal"] == told["unimodal"]["test"]
    predictor.save(tmp_path / "saved")
    weights = "model.safetensors"
    assert (tmp_path / "saved" / weights).read_bytes() == (run / weights).read_bytes()


def test_video_and_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tables.media(tmp_path, count=30, clips=True)
    args = ("--modality", "clip=clip:video", "--modality", "sound=sound:audio", "--fusion", "sum")
    found = answer(capsys, "fit", table, "--label", "label", *args, *QUICK, "--out", tmp_path / "run")
    assert found["unimodal"]["from"] == "parts"
    assert found["test"]["accuracy"] >= 0.5


@pytest.mark.parametrize("recipe", ["frozen_features", "mmlora", "full_ume", "linear_eval"])
def test_recipes_on_uni_modal_models_load_and_evaluate(
    recipe: str, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    found = answer(
        capsys, "fit", media, "--label", "label", *QUICK, "--recipe", recipe, "stages.linear_*.train.epochs=3",
        "--out", run,
    )  # fmt: skip
    again = answer(capsys, "evaluate", run)
    assert again["accuracy"] == found["test"]["accuracy"]
    assert (run / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("recipe", ["ume", "unimodal"])
def test_recipes_of_separate_models(
    recipe: str, numbers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    polymodal("fit", numbers, "--label", "label", *NUMBERS, *QUICK, "--recipe", recipe, "--out", run)
    found = metrics(run)
    assert found["unimodal"]["from"] == "models"
    assert set(found["unimodal"]["test"]) == {"a", "b"}
    assert answer(capsys, "evaluate", run)["loss"] == pytest.approx(found["test"]["loss"])


def test_regression_and_several_labels(tmp_path: Path) -> None:
    number = tables.numbers(tmp_path, label={i: i * 0.31 for i in range(60)})
    polymodal("fit", number, "--label", "label", *NUMBERS, *QUICK, "--out", tmp_path / "number")
    assert {"mae", "loss"} <= set(metrics(tmp_path / "number")["test"])
    several = tables.numbers(tmp_path, label={i: ("x", "x|y", "y|z", "")[i % 4] or "z" for i in range(60)})
    polymodal(
        "fit", several, "--label", "label", *NUMBERS, *QUICK, "--task", "multilabel", "--out", tmp_path / "several"
    )
    assert {"f1_micro", "f1_macro"} <= set(metrics(tmp_path / "several")["test"])
    frame = csv(tmp_path / "several" / "predictions" / "test.csv")
    assert set(frame["target"]) <= {"x", "x|y", "y|z", "z"}


def test_dry_run_trains_nothing_and_writes_nothing(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(media.parent.iterdir())
    plan = answer(capsys, "fit", media, "--label", "label", "--balancer", "mlb", "--dry-run", "--out", tmp_path / "run")
    assert plan["splits"] == {"train": 32, "valid": 4, "test": 4}
    assert {m: one["kind"] for m, one in plan["modalities"].items()} == {"photo": "image", "sound": "audio"}
    assert plan["classes"]["train"] == {"ant": 12, "bee": 10, "cat": 10}
    assert plan["parameters"] > sum(one["parameters"] for one in plan["modalities"].values())
    assert list(tmp_path.iterdir()) == []
    assert sorted(media.parent.iterdir()) == before


def test_settings_file_with_options_and_overrides_above_it(numbers: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "label": "label",
        "table": str(numbers),
        "data": {"modalities": ["a=a1,a2:numeric", "b=b1,b2:numeric"]},
        "train": {"epochs": 7, "batch_size": 16, "device": "cpu"},
        "balancer": {"name": "mlb", "alpha": 2.0},
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    run = tmp_path / "run"
    polymodal(
        "fit", "--config", tmp_path / "settings.yaml", "--epochs", 1, "--out", run,
        "balancer.beta_max=4", "encoders.a=mlp", "encoders.a.dropout=0.1", "optimizer.lr=1e-3",
    )  # fmt: skip
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["train"] | {"epochs": 1, "batch_size": 16} == written["train"]
    assert written["balancer"] == {"name": "mlb", "alpha": 2.0, "beta_max": 4}
    assert written["encoders"] == {"a": {"name": "mlp", "dropout": 0.1}}
    assert written["optimizer"]["lr"] == 1e-3
    assert written["versions"]["torch"]
    again = tmp_path / "again"
    del written["versions"]
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(written))
    polymodal("fit", "--config", tmp_path / "again.yaml", "--out", again)
    assert (again / "metrics.json").read_bytes() == (run / "metrics.json").read_bytes()


def test_validation_from_a_second_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.data.files import write_csv

    rows = [{k: v for k, v in row.items() if k != "split"} for row in tables.number_rows()]
    train, valid = write_csv(tmp_path / "train.csv", rows[:44]), write_csv(tmp_path / "valid.csv", rows[44:])
    run = tmp_path / "run"
    polymodal("fit", train, "--label", "label", *NUMBERS, *QUICK, "--valid", valid, "--out", run)
    found = metrics(run)
    assert "test" not in found
    assert list(csv(run / "predictions" / "valid.csv")["id"]) == [row["id"] for row in rows[44:]]
    # The part comes from the second table again.
    again = answer(capsys, "evaluate", run, "--split", "valid")
    assert again["samples"] == 16
    assert again["loss"] == pytest.approx(found["valid"]["loss"])


def test_one_seed_gives_the_same_bytes_and_another_does_not(numbers: Path, tmp_path: Path) -> None:
    arguments = ("--label", "label", *NUMBERS, *QUICK, "--balancer", "ogm_ge", "balancer.param_filter=weights")
    dropout = ("encoders.a.name=mlp", "encoders.a.dropout=0.5")
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        polymodal("fit", numbers, *arguments, *dropout, "--seed", seed, "--out", tmp_path / name)
    assert same(tmp_path / "one", tmp_path / "two")
    for file in FILES:
        assert (tmp_path / "one" / file).read_bytes() != (tmp_path / "three" / file).read_bytes()


def test_a_process_of_its_own_is_quiet_and_repeats_the_bytes(numbers: Path, tmp_path: Path) -> None:
    arguments = ("fit", numbers, "--label", "label", *NUMBERS, *QUICK)
    done = process(*arguments, cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["run"] == "run-numbers-1"
    assert "\x1b" not in done.stdout + done.stderr
    assert all(line.startswith("note: ") for line in done.stderr.splitlines()), done.stderr
    polymodal(*arguments, "--out", tmp_path / "here")
    assert same(tmp_path / "run-numbers-1", tmp_path / "here")


def test_a_process_that_fails_says_so_in_one_line(tmp_path: Path) -> None:
    refused = process("fit", "table.csv", "epochs", check=False, cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "polymodal: error: name the label column with --label COLUMN\n"
    assert list(tmp_path.iterdir()) == []
