"""The demo: the same files from the same seed, a reduced run, and a sentence that follows the figures."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import soundfile
from PIL import Image

from polymodal.demo import RUNS, demo, figures, sentence, write_set
from polymodal.errors import InputError


def bytes_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_set_is_ordinary_files_and_a_function_of_the_seed(tmp_path):
    table = write_set(tmp_path / "one", 0, 100)
    write_set(tmp_path / "same", 0, 100)
    write_set(tmp_path / "other", 1, 100)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "same") != bytes_of(tmp_path / "other")
    frame = pd.read_csv(table)
    assert frame["split"].value_counts().to_dict() == {"train": 56, "test": 33, "valid": 11}
    with Image.open(table.parent / frame["image"][0]) as image:
        assert (image.size, image.mode) == ((16, 16), "L")
    sound = soundfile.info(table.parent / frame["sound"][0])
    assert (sound.samplerate, sound.duration) == (8000, 0.25)


def test_reduced_run(tmp_path):
    lines: list[str] = []
    found = demo(tmp_path / "out", 1, samples=150, epochs=1, show=False, say=lines.append)
    text = "\n".join(lines)
    assert set(found["rows"]) == {"image alone", "sound alone", *RUNS}
    assert found["sentence"] in text
    for name, row in found["rows"].items():
        assert f"{row['accuracy']:.3f} ± {row['se']:.3f}" in text
        assert name in text
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["sentence"] == found["sentence"]
    for name in RUNS:
        metrics = json.loads((tmp_path / "out" / "runs" / name / "metrics.json").read_text())
        assert metrics["test"]["accuracy"] == found["rows"][name]["accuracy"]
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000


def test_refuses_a_folder_in_use_and_senseless_settings(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        demo(tmp_path)
    for samples, epochs, seed in ((5, 1, 0), (2000, 1, 0), (200, 0, 0), (200, 1, -1)):
        with pytest.raises(InputError, match="1797"):
            demo(tmp_path / "new", seed, samples=samples, epochs=epochs)
    assert not (tmp_path / "new").exists()


def rows(joint: float, multi_loss: float, mlb: float, fused: tuple[float, float] = (0.9, 0.95)):
    def row(accuracy, sound):
        return {"accuracy": accuracy, "se": 0.01, "probes": {"image": 0.9, "sound": sound}}

    return {
        "ume": row(0.93, 0.8),
        "joint": row(fused[0], joint),
        "multi_loss": row(fused[1], multi_loss),
        "mlb": row(fused[1], mlb),
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (rows(0.5, 0.79, 0.7), ["the sound encoder starves", "0.500", "0.800", "Multi-Loss gives back 97%", "lifts"]),
        (rows(0.5, 0.6, 0.7), ["MLB gives back 67%"]),
        (rows(0.5, 0.6, 0.55), ["Multi-Loss gives back only 33%"]),
        (rows(0.5, 0.4, 0.4), ["gives back only 0%"]),
        (rows(0.78, 0.8, 0.8), ["left no encoder behind", "sound", "0.780"]),
        (rows(0.5, 0.8, 0.8, fused=(0.95, 0.952)), ["leaves the fused accuracy where it was"]),
        (rows(0.5, 0.8, 0.8, fused=(0.95, 0.9)), ["costs fused accuracy"]),
    ],
)
def test_sentence_follows_the_figures(given, expected):
    said = sentence(figures(given))
    assert [text for text in expected if text not in said] == []
    assert said.endswith(".")
