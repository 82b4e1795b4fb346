"""Published facts of a data set beside what its reader and its preset say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from polymodal.datasets import find, open_table, parse
from polymodal.experiment.file import Cell, Experiment
from polymodal.experiment.fingerprints import configuration

__all__ = ["facts"]

PARTS = {"n_train": "train", "n_val": "valid", "n_test": "test"}
SETTINGS: dict[str, tuple[str, float]] = {
    "video_fps": ("fps", 1),
    "video_frames": ("frames", 1),
    "audio_rate_khz": ("sample_rate", 1e-3),
    "stft_window": ("n_fft", 1),
    "stft_hop": ("hop", 1),
}
"""Published facts that are settings of an input of the preset: their names there and what they are multiplied by."""


def facts(experiment: Experiment, cell: Cell, metric: str, table: Callable[[str], str]) -> float | None:
    """A published fact as the reader or the preset has it; None for one that neither tells.

    Args:
        experiment: the file.
        cell: whose fact it is.
        metric: n_samples, n_classes, n_modalities, n_train, n_val, n_test, n_train_and_val, n_actors, label_min, label_max,
            or a key of `SETTINGS`.
        table: where a data set's table is.

    Raises:
        InputError: the data set is not there.
    """
    if not cell.data:
        return None
    source = table(cell.data)
    config = configuration({**experiment.settings(cell, cell.data), "table": source})
    if metric in SETTINGS:
        return _setting(config.data.inputs, metric)
    if metric == "n_modalities":
        return float(len(config.data.modalities))
    rows = open_table(source)
    frame = rows.frame
    counts = {str(k): int(n) for k, n in frame["split"].value_counts().items()} if "split" in frame else {}
    if metric in PARTS:
        return float(counts.get(PARTS[metric], 0)) or None
    if metric == "n_train_and_val":
        return float(counts.get("train", 0) + counts.get("valid", 0))
    if metric in ("n_samples", "n_clips"):
        return float(len(frame))
    label = frame[config.label]
    if metric in ("label_min", "label_max"):
        return float(label.min() if metric == "label_min" else label.max())
    if metric in ("n_classes", "n_classes_used"):
        mark = config.data.separator
        return float(len({part for one in label.astype(str) for part in (one.split(mark) if mark else [one])}))
    named = parse(source)
    group = find(named.name).group if named is not None else None
    if metric in ("n_actors", "n_speakers") and group in frame:
        return float(frame[group].nunique())
    return None


def _setting(inputs: Mapping[str, Mapping[str, Any]], metric: str) -> float | None:
    name, factor = SETTINGS[metric]
    values = [one[name] for one in inputs.values() if one.get(name) is not None]
    return None if not values else float(values[0]) * factor
