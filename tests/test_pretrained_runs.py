"""Pre-trained encoders through the command line: preprocessing comes with them, and a run needs none of their files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli import tables
from tests.cli.run import QUICK, fails, metrics, polymodal
from tests.data.files import write_csv, write_image
from tests.encoders.test_text import SIZES
from tests.encoders.test_vit import open_clip_model
from tests.encoders.tokenizer import write_tokenizer

MODALITIES = ("--modality", "photo=photo:image", "--modality", "words=words:text")


def pretrained(folder: Path) -> tuple[Path, Path]:
    """A folder of BERT with its tokenizer, and a CLIP file."""
    import transformers

    text = folder / "bert"
    text.mkdir()
    write_tokenizer(text, " ".join([*tables.CLASSES, "an"]))
    net = transformers.BertModel(transformers.BertConfig(**SIZES))
    torch.save(net.state_dict(), text / "pytorch_model.bin")
    (text / "config.json").write_text(json.dumps(net.config.to_dict()))
    torch.save(open_clip_model().state_dict(), folder / "clip.pt")
    return text, folder / "clip.pt"


def table(folder: Path) -> Path:
    import numpy as np

    rng = np.random.default_rng(0)
    rows = []
    for i in range(40):
        c = (i // 2) % 3
        photo = write_image(folder / f"{i}.png", rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).name
        words = f"an {tables.CLASSES[c]}" + " an" * (i % 3)
        rows.append({"photo": photo, "words": words, "label": tables.CLASSES[c], "split": tables.part_of(i)})
    return write_csv(folder / "table.csv", rows)


SMALL_VIT = ("encoders.photo.width=16", "encoders.photo.depth=3", "encoders.photo.heads=2")


def test_a_run_of_pretrained_encoders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from polymodal import Predictor

    text, clip = pretrained(tmp_path)
    source, out = table(tmp_path), tmp_path / "run"
    polymodal(
        "fit", source, *MODALITIES, "--label", "label", *QUICK, "--out", out,
        "encoders.photo.name=vit", f"encoders.photo.weights={clip}", *SMALL_VIT,
        "encoders.words.name=bert", f"encoders.words.folder={text}", "encoders.words.pool=mean",
        "data.inputs.photo.height=32", "data.inputs.photo.width=32", "data.inputs.words.max_length=8",
    )  # fmt: skip
    inputs = json.loads((out / "data.json").read_text())["inputs"]
    assert inputs["photo"]["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert (inputs["photo"]["height"], inputs["photo"]["channels"]) == (32, 3)
    assert (inputs["words"]["tokenizer"], inputs["words"]["max_length"]) == (str(text), 8)
    expected = Predictor.load(out).predict_proba(source)

    shutil.move(out, tmp_path / "moved")
    shutil.rmtree(text)
    clip.unlink()
    loaded = Predictor.load(tmp_path / "moved")
    assert loaded.predict_proba(source).equals(expected)
    assert loaded.evaluate(source, split="test")["accuracy"] == metrics(tmp_path / "moved")["test"]["accuracy"]
    loaded.save(tmp_path / "saved")
    shutil.rmtree(tmp_path / "moved")
    assert Predictor.load(tmp_path / "saved").predict_proba(source).equals(expected)

    # Anew it needs them, and says so.
    again = (
        "fit",
        source,
        *MODALITIES,
        "--label",
        "label",
        *QUICK,
        "--out",
        tmp_path / "again",
        "encoders.words.name=bert",
    )
    assert "no such folder; put config.json" in fails(capsys, *again, f"encoders.words.folder={text}")
    assert not (tmp_path / "again").exists()


def test_training_starts_from_the_files_weights(tmp_path: Path) -> None:
    from polymodal import Predictor

    text, _ = pretrained(tmp_path)
    predictor = Predictor(
        "label", modalities=["words=words:text"], epochs=1, device="cpu", show=False, lr=1e-12,
        encoders={"words": {"name": "bert", "folder": str(text)}},
    )  # fmt: skip
    predictor.fit(table(tmp_path))
    assert predictor.model_ is not None
    encoder: Any = predictor.model_.encoders["words"]
    found = encoder.net.state_dict()
    before = torch.load(text / "pytorch_model.bin", weights_only=True)
    for name, one in found.items():
        torch.testing.assert_close(one, before[name], atol=1e-8, rtol=0)


def test_a_preset_whose_weights_are_absent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYMODAL_WEIGHTS", str(tmp_path / "weights"))
    command = ("fit", table(tmp_path), *MODALITIES, "--label", "label", "--preset", "base", "--out", tmp_path / "run")
    message = fails(capsys, *command)
    assert f"at {tmp_path}/weights/ViT-B-16.laion2b_s34b_b88k.safetensors" in message
    assert "encoders.photo.weights=PATH" in message
    assert not (tmp_path / "run").exists()
    assert "bert-base-uncased" in fails(capsys, *command, "--encoder", "photo=image_cnn")


def test_texts_of_another_tokenizer_than_the_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = pretrained(tmp_path)
    other = write_tokenizer(tmp_path / "other", " ".join(f"w{i}" for i in range(50)))
    message = fails(
        capsys, "fit", table(tmp_path), "--modality", "words=words:text", "--label", "label", "--out", tmp_path / "run",
        "encoders.words.name=bert", f"encoders.words.folder={text}", f"data.inputs.words.tokenizer={other}",
    )  # fmt: skip
    assert "54 different tokens for a model that knows 30" in message
