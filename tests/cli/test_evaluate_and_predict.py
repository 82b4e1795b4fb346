"""`polymodal evaluate`, `predict` and `list` on a finished run."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cli import tables
from tests.cli.run import QUICK, answer, csv, fails, metrics, polymodal
from tests.cli.tables import NUMBERS
from tests.data.files import write_csv


def test_evaluates_its_own_test_split(media_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, trained = answer(capsys, "evaluate", media_run), metrics(media_run)
    assert found["samples"] == 4
    for name, value in trained["test"].items():
        assert found[name] == pytest.approx(value, abs=1e-9)
    for m, one in trained["unimodal"]["test"].items():
        assert found["unimodal"][m] == pytest.approx(one, abs=1e-9)


def test_evaluates_another_part_and_another_table(
    media: Path, media_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(capsys, "evaluate", media_run, "--split", "train")["samples"] == 32
    assert answer(capsys, "evaluate", media_run, media)["samples"] == 40
    other = media.parent / "other.csv"
    shutil.copy(media, other)
    assert answer(capsys, "evaluate", media_run, other, "--split", "dev")["samples"] == 4
    assert "split 'tset' is unknown" in fails(capsys, "evaluate", media_run, "--split", "tset")


def test_predicts_a_table_without_labels(media: Path, media_run: Path, tmp_path: Path) -> None:
    rows = [
        dict(zip(("id", "photo", "sound"), line.split(","), strict=False)) for line in media.read_text().split()[1:]
    ]
    table = write_csv(media.parent / "unlabelled.csv", [{k: row[k] for k in ("sound", "photo", "id")} for row in rows])
    out = tmp_path / "deep" / "p.csv"
    polymodal("predict", media_run, table, "--out", out)
    frame = csv(out)
    assert list(frame.columns) == ["id", "prediction", "prob_ant", "prob_bee", "prob_cat"]
    assert list(frame["id"]) == [f"{i:04d}" for i in range(40)]
    probabilities = frame.filter(like="prob_").to_numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-9)
    assert list(frame["prediction"]) == [tables.CLASSES[i] for i in probabilities.argmax(1)]
    trained = csv(media_run / "predictions" / "test.csv")
    merged = frame[frame["id"].isin(trained["id"])]
    np.testing.assert_allclose(merged["prob_ant"], trained["prob_ant"], atol=1e-5)


def test_prediction_of_bad_tables_writes_nothing(
    media: Path, media_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.csv"
    rows = [{"id": "1", "photo": "0.png"}]
    no_column = write_csv(media.parent / "no_column.csv", rows)
    assert "'sound'" in fails(capsys, "predict", media_run, no_column, "--out", out)
    broken = write_csv(media.parent / "broken.csv", [{"id": "1", "photo": "0.png", "sound": "none.wav"}])
    message = fails(capsys, "predict", media_run, broken, "--out", out)
    assert "row 1 (line 2), modality 'sound'" in message
    assert "none.wav: no such file" in message
    assert "no such file" in fails(capsys, "predict", media_run, tmp_path / "none.csv", "--out", out)
    assert not out.exists()


def test_runs_that_are_not_whole(media_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in fails(capsys, "evaluate", tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is " + str(empty) + " the folder of a finished run?" in fails(capsys, "evaluate", empty)
    cut = tmp_path / "cut"
    shutil.copytree(media_run, cut)
    weights = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "truncated or no safetensors file" in fails(capsys, "evaluate", cut)
    (cut / "model.json").write_text("{")
    assert "is not whole JSON" in fails(capsys, "evaluate", cut)


def test_unknown_label_in_an_evaluated_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    polymodal("fit", tables.numbers(tmp_path), "--label", "label", *NUMBERS, *QUICK, "--out", run)
    changed = tables.numbers(tmp_path, label={2: "dog"})
    message = fails(capsys, "evaluate", run, changed)
    assert "row 3 (line 4)" in message
    assert "'dog'" in message


@pytest.mark.parametrize(
    ("what", "name"), [("balancers", "mlb"), ("fusions", "concat"), ("recipes", "ume"), ("encoders", "spectrogram_cnn")]
)
def test_list(what: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    polymodal("list", what)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[0] == name for line in lines)
    assert all(len(line.split()) > 2 for line in lines)  # each says what it is
    polymodal("list")
    whole = capsys.readouterr().out
    assert f"{what}:" in whole
    assert name in whole


def test_without_a_modality_and_every_subset(
    media: Path, media_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, "evaluate", media_run, "--drop", "sound")
    assert (found["dropped"], found["samples"], set(found["unimodal"])) == (["sound"], 4, {"photo"})
    rows = answer(capsys, "evaluate", media_run, "--subsets", "--split", "train")
    assert [(row["modalities"], row["samples"]) for row in rows] == [("photo", 32), ("sound", 32), ("photo+sound", 32)]
    assert rows[2]["loss"] == pytest.approx(answer(capsys, "evaluate", media_run, "--split", "train")["loss"])
    assert "no such modality; did you mean 'sound'? (it has photo, sound)" in fails(
        capsys, "evaluate", media_run, "--drop", "sounds"
    )
    assert "leave one in" in fails(capsys, "evaluate", media_run, "--drop", "sound", "--drop", "photo")
    assert "leave one of the two out" in fails(capsys, "evaluate", media_run, "--drop", "sound", "--subsets")


def test_trains_and_predicts_with_empty_cells(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = media.read_text().splitlines()
    for i in range(2, 30, 4):
        cells = lines[i].split(",")
        cells[1 + i % 8 // 4] = ""  # photo or sound in turn
        lines[i] = ",".join(cells)
    table = media.parent / "gaps.csv"
    table.write_text("\n".join(lines) + "\n")
    run, out = tmp_path / "run", tmp_path / "p.csv"
    common = ("--label", "label", *tables.MEDIA, *QUICK)
    polymodal("fit", table, *common, "--modality-dropout", "0.3", "--out", run)
    assert "modality_dropout: 0.3" in (run / "config.yaml").read_text()
    polymodal("predict", run, table, "--out", out)
    assert csv(out)["prob_ant"].notna().all()
    rows = answer(capsys, "evaluate", run, "--subsets", "--split", "train")
    assert [row["samples"] for row in rows][2] == 32
    assert 24 < rows[0]["samples"] < 32
    assert "train.modality_dropout" in fails(
        capsys, "fit", table, *common, "--modality-dropout", "1", "--out", tmp_path / "x"
    )
