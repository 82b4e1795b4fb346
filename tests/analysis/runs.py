"""Folders of finished runs, written by hand: small, fast, and with names that would break a careless page."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

HOSTILE = '<script>alert("x")</script>&\'"'
"""A name that would run if it were not escaped."""


def write_media_table(folder: Path, rows: int = 30, classes: tuple[str, ...] = ("a", "b", HOSTILE)) -> Path:
    """A table of pictures, sounds and texts whose files exist, except for those of the last row."""
    draw = np.random.default_rng(0)
    (folder / "files").mkdir(parents=True)
    cells = []
    for i in range(rows):
        image, sound = f"files/{i}.png", f"files/{i}.wav"
        if i < rows - 1:
            Image.fromarray(draw.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / image)
            tone = np.sin(np.arange(4000) * (0.1 + 0.05 * (i % 3)))
            with wave.open(str(folder / sound), "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(8000)
                file.writeframes((tone * 20000).astype("<i2").tobytes())
        text = f"{HOSTILE} sample {i} " + "and a long text that goes on " * 20
        cells.append(
            {"id": f"{HOSTILE}{i}", "picture": image, "sound": sound, "text": text, "age": i, "label": classes[i % 3]}
        )
    pd.DataFrame(cells).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def write_run(
    path: Path,
    task: str = "classification",
    *,
    classes: tuple[str, ...] = ("a", "b", HOSTILE),
    kinds: dict[str, str] | None = None,
    table: Path | None = None,
    rows: int = 30,
    epochs: int = 6,
    seed: int = 0,
    unimodal: bool = True,
    recipe: str = "joint",
    skill: float = 0.8,
) -> Path:
    """A run's folder with all its files; its figures follow from its predictions.

    Args:
        path: folder to make.
        task: classification, multilabel or regression.
        classes: names of classes or labels.
        kinds: kind of each modality.
        table: the table it was trained on.
        rows: samples of each split.
        epochs: entries of its history.
        seed: of its predictions.
        unimodal: whether it has uni-modal figures, scores and coefficients.
        recipe: its recipe; "auto" adds a leaderboard.
        skill: share of samples that are decided rightly.
    """
    kinds = kinds or {"picture": "image", "sound": "audio", "text": "text", "age": "numeric"}
    draw = np.random.default_rng(seed)
    path.mkdir(parents=True)
    (path / "predictions").mkdir()
    metric = {"classification": "accuracy", "multilabel": "f1_macro", "regression": "mae"}[task]
    found: dict[str, Any] = {"unimodal": {"from": "heads" if unimodal else None}, "best_epoch": epochs - 1}
    for part in ("valid", "test"):
        frame = _predictions(task, list(classes), list(kinds) if unimodal else [], rows, draw, skill, table is not None)
        frame.to_csv(path / "predictions" / f"{part}.csv", index=False)
        found[part] = _figures(frame, "prediction", task, metric)
        found["unimodal"][part] = {m: _figures(frame, f"prediction_{m}", task, metric) for m in kinds if unimodal}
    history = []
    for epoch in range(1, epochs + 1):
        good = 1 - 0.7**epoch
        row: dict[str, Any] = {
            "stage": "joint", "epoch": epoch, "train_loss": 3 * 0.7**epoch, "lr": 0.001,
            "valid": {metric: good, "loss": 2 * 0.8**epoch},
            "unimodal": {m: {metric: good * 0.8, "loss": 1.0} for m in kinds} if unimodal else {},
        }  # fmt: skip
        if unimodal:
            row["scores"] = {m: 0.5 + 0.01 * epoch * i for i, m in enumerate(kinds)}
            row["coefficients"] = {m: 1.3 - 0.2 * i for i, m in enumerate(kinds)}
        history.append(row)
    if recipe == "auto":
        found["chosen"] = "joint"
        lines = [f"candidate,lr,{metric},seconds,chosen", "unimodal,0.001,0.7,1.5,False", "joint,0.001,0.8,2.5,True"]
        (path / "leaderboard.csv").write_text("\n".join(lines) + "\n")
    schema = {
        "modalities": {m: {"columns": [m], "kind": kind} for m, kind in kinds.items()}, "label": "label", "task": task,
        "classes": list(classes) if task != "regression" else [], "separator": None, "id": "id", "split": None,
        "group": None, "notes": [f"label 'label': {HOSTILE}"],
    }  # fmt: skip
    config = {
        "label": "label", "table": None if table is None else str(table), "valid": None, "seed": seed,
        "recipe": {"name": recipe}, "balancer": {"name": "mlb"}, "fusion": {"name": "concat"},
        "train": {"metric": None, "select": "best"}, "versions": {"polymodal": "0", "python": "3"},
    }  # fmt: skip
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    for name, value in {
        "metrics.json": found,
        "data.json": {"schema": schema, "inputs": {}},
        "model.json": {"modalities": list(kinds)},
        "timing.json": {"seconds": {"joint": 3.25, "all": 4.5}, "peak_memory_mib": 300.0},
    }.items():
        (path / name).write_text(json.dumps(value))
    return path


def _predictions(
    task: str,
    classes: list[str],
    modalities: list[str],
    rows: int,
    draw: np.random.Generator,
    skill: float,
    named: bool,
) -> pd.DataFrame:
    frame = pd.DataFrame({"id": [f"{HOSTILE if named else 's'}{i}" for i in range(rows)]})
    if task == "regression":
        frame["target"] = draw.normal(size=rows)
        frame["prediction"] = frame["target"] + draw.normal(0, 1 - skill, rows)
        for m in modalities:
            frame[f"prediction_{m}"] = frame["target"] + draw.normal(0, 1.2 - skill, rows)
        return frame
    if task == "multilabel":
        target = draw.random((rows, len(classes))) < 0.4

        def cells(on: Any) -> list[str]:
            return ["|".join(name for name, one in zip(classes, row, strict=True) if one) for row in on]

        guess = np.where(draw.random(target.shape) < skill, target, ~target)
        frame["target"], frame["prediction"] = cells(target), cells(guess)
        for i, name in enumerate(classes):
            frame[f"prob_{name}"] = np.where(guess[:, i], 0.9, 0.2)
        for m in modalities:
            frame[f"prediction_{m}"] = cells(np.where(draw.random(target.shape) < skill - 0.1, target, ~target))
        return frame
    index = np.arange(rows) % len(classes)

    def decide(share: float) -> Any:
        return np.where(draw.random(rows) < share, index, draw.integers(len(classes), size=rows))

    given, names = decide(skill), np.array(classes, dtype=object)
    frame["target"], frame["prediction"] = names[index], names[given]
    chance = np.full((rows, len(classes)), 0.1 / len(classes))
    chance[np.arange(rows), given] += 0.4 + 0.5 * draw.random(rows)
    chance /= chance.sum(1, keepdims=True)
    frame = pd.concat([frame, pd.DataFrame(chance, columns=[f"prob_{name}" for name in classes])], axis=1)
    for m in modalities:
        frame[f"prediction_{m}"] = names[decide(skill - 0.2)]
    return frame


def _figures(frame: pd.DataFrame, column: str, task: str, metric: str) -> dict[str, float]:
    if task == "regression":
        return {metric: float((frame[column] - frame["target"]).abs().mean()), "loss": 0.5}
    right = float((frame[column] == frame["target"]).mean())
    return {metric: right, "loss": 0.4, **({"ece": 0.05} if task == "classification" else {})}
