"""The sound track of a video column as a modality of its own, from the table to the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from polymodal.data.media.video import read_frames
from polymodal.data.miniature.media import tone, write_clip
from tests.cli.run import answer, fails, metrics, polymodal
from tests.cli.tables import part_of
from tests.data.files import write_csv

TRACKS = ("--modality", "video=clip:video", "--modality", "audio=clip:audio", "--label", "label", "--device", "cpu")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of noise, of which only the sound tells the class."""
    folder = tmp_path_factory.mktemp("tracks")
    random = np.random.default_rng(0)
    rows = []
    for i in range(40):
        c = (i // 2) % 2
        frames = random.integers(0, 255, (8, 16, 16, 3), dtype=np.uint8)
        write_clip(folder / f"{i}.mp4", frames, 8, tone(c, random, 1.0, 16000), 16000)
        rows.append({"id": i, "clip": f"{i}.mp4", "label": "ab"[c], "split": part_of(i)})
    return write_csv(folder / "t.csv", rows)


def test_one_column_gives_two_modalities(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    small = ("--epochs", "8", "--batch-size", "8", "encoders.video.name=frame_cnn", "encoders.video.width=4")
    polymodal("fit", table, *TRACKS, *small, "--balancer", "multi_loss", "--out", run)
    data = json.loads((run / "data.json").read_text())
    assert {m: one["columns"] for m, one in data["schema"]["modalities"].items()} == {
        "video": ["clip"],
        "audio": ["clip"],
    }
    assert data["inputs"]["audio"]["sample_rate"] == 16000
    found = metrics(run)["unimodal"]
    assert found["from"] == "heads"
    assert found["test"]["audio"]["accuracy"] == 1.0
    assert answer(capsys, "evaluate", run, "--drop", "video")["accuracy"] == 1.0


def test_a_video_without_sound_is_named(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = read_frames(table.parent / "0.mp4", 8)
    write_clip(table.parent / "mute.mp4", frames, 8)
    changed = table.parent / "mute.csv"
    changed.write_text(table.read_text().replace("\n5,5.mp4", "\n5,mute.mp4"))
    message = fails(capsys, "fit", changed, *TRACKS, "--out", tmp_path / "run")
    assert "1 of 40 samples cannot be read" in message
    assert "row 6 (line 7), modality 'audio'" in message
    assert "mute.mp4: the file has no audio stream, so the video has no sound track" in message
    assert "--on-error skip" in message
    assert not (tmp_path / "run" / "metrics.json").exists()
    polymodal("data", "check", table, *TRACKS[:4])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        polymodal("data", "check", changed, *TRACKS[:4])
    assert stop.value.code == 2
    assert "no sound track" in capsys.readouterr().out
