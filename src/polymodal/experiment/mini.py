"""Miniatures of an experiment: made-up data in the owners' layouts, and encoders small enough for a processor."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from polymodal.config import Part
from polymodal.data import miniature
from polymodal.data.miniature.cremad import EMOTIONS
from polymodal.data.miniature.media import picture, sentence, tone, write_clip, write_jpeg, write_wav
from polymodal.datasets import with_preset
from polymodal.datasets.cremad import FEATURES
from polymodal.encoders.presets import PRETRAINED, choose
from polymodal.errors import InputError
from polymodal.experiment.file import DataSet

__all__ = ["Miniatures"]

WIDTH, DEPTH, HEADS = 64, 3, 2
BUCKETS = 512
TEXT = {
    "vocab_size": BUCKETS, "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
    "intermediate_size": 2 * WIDTH, "max_position_embeddings": 128,
}  # fmt: skip
SPEECH = {
    "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "intermediate_size": 2 * WIDTH,
    "conv_dim": [16, 16], "conv_kernel": [10, 8], "conv_stride": [20, 16], "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
STACK = {"dim": WIDTH, "depth": DEPTH, "heads": HEADS}
ENCODERS: dict[str, dict[str, Any]] = {
    "vit": {"model": "vit_base_patch16_clip_224", "patch": 8, "width": WIDTH, "depth": DEPTH, "heads": HEADS},
    "imagebind_audio": {"width": WIDTH, "dim": WIDTH, "depth": DEPTH, "heads": HEADS, "stride": 16},
    "efficientnet": {"model": "tf_efficientnet_lite0"},
    "bert": {"config": TEXT},
    "deberta": {
        "config": {**TEXT, "model_type": "deberta", "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    },
    "wav2vec2": {"config": SPEECH, "depth": DEPTH},
    "speech_conformer": {"config": SPEECH, "speech_depth": DEPTH, "dim": WIDTH, "depth": 1, "heads": HEADS},
    "conformer_encoder": {**STACK, "depth": 1},
    "sequence_transformer": STACK,
    "expert": {"dim": WIDTH},
}
"""The small one of each class; its weights are drawn at random."""
CONVOLUTIONS = {
    "image": {"name": "image_cnn", "width": 8},
    "video": {"name": "frame_cnn", "width": 8},
    "audio": {"name": "spectrogram_cnn", "width": 8},
}
"""What stands for a ResNet, whose smallest has eleven million parameters, by the kind of its input."""
KEPT = ("stack", "pool", "freeze", "pre_norm", "timed")
"""Settings of an encoder that its small one takes over: those that say how it is used, not how large it is."""
SMALL: dict[str, dict[str, int]] = {
    "fusion": {"width": WIDTH, "depth": 1, "hidden": 2 * WIDTH},
    "recipe": {"depth": DEPTH, "last": 2, "width": WIDTH},
    "method": {"depth": DEPTH, "last": 2, "width": WIDTH},
}
"""The most that sizes in the settings of these parts may be."""
EDGE, SECONDS, TOKENS, ROWS, BATCH = 32, 2.0, 24, 48, 8


class Miniatures:
    """Miniatures of data sets, each made once in a folder that several processes may share.

    Args:
        folder: of all miniatures.
        seed: of their samples.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed

    def table(self, name: str, one: DataSet, seed: int = 0) -> str:
        """What `polymodal fit` would be given for the miniature of a file's data set in a run of that seed.

        Raises:
            InputError: the data set names neither a source nor a table.
        """
        if one.source is not None:
            reader = one.source.partition("/")[0].partition(",")[0]
            return f"{one.source_of(seed)}:{self._made(reader, lambda folder: _miniature(reader, folder, self.seed))}"
        if one.table is None:
            raise InputError(f"data set {name!r} of the file has neither a source nor a table")
        label, data = one.settings.get("label", "label"), one.settings.get("data", {})
        return str(self._made(name, lambda folder: _made_up(folder, label, data, self.seed)) / "table.csv")

    def _made(self, name: str, make: Any) -> Path:
        path = self.folder / name
        if path.is_dir():
            return path
        half = self.folder / f".{name}.{os.getpid()}.tmp"
        shutil.rmtree(half, ignore_errors=True)
        make(half)
        try:
            os.rename(half, path)
        except OSError:  # another process was first
            shutil.rmtree(half, ignore_errors=True)
            if not path.is_dir():
                raise
        return path

    def shrunk(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a run with small encoders and inputs and one epoch a stage; everything else is as it was."""
        small = _copied(with_preset(values))
        data = small.setdefault("data", {})
        given, inputs = small.get("encoders", {}), data.setdefault("inputs", {})
        small["encoders"] = {}
        for spec in data.get("modalities", []):
            name, _, column = spec.partition("=")
            kind = column.rpartition(":")[2]
            part = Part.model_validate(given[name]) if name in given else choose(kind, small.get("preset"))
            small["encoders"][name] = _small_encoder(part, kind)
            inputs[name] = _small_input(kind, inputs.get(name, {}))
        small.pop("preset", None)
        train = small.setdefault("train", {})
        train |= {"epochs": 1, "batch_size": min(BATCH, train.get("batch_size", BATCH)), "device": "cpu"}
        for stage in small.get("stages", {}).values():
            if "epochs" in stage.get("train", {}):
                stage["train"]["epochs"] = 1
            if "batch_size" in stage.get("train", {}):
                stage["train"]["batch_size"] = BATCH
        for role in ("fusion", "recipe"):
            if isinstance(small.get(role), dict):
                _capped(small[role], SMALL[role])
                if isinstance(small[role].get("method"), dict):
                    _capped(small[role]["method"], SMALL["method"])
        return small


def _miniature(reader: str, folder: Path, seed: int) -> None:
    """A data set's miniature, with the features of faces that `data prepare` would make of CREMA-D."""
    miniature.make(reader, folder, seed)
    if reader != "cremad":
        return
    random = np.random.default_rng(seed)
    (folder / FEATURES).mkdir()
    for clip in sorted((folder / "AudioWAV").glob("*.wav")):
        emotion = EMOTIONS.index(clip.stem.split("_")[2])
        steps = emotion + random.standard_normal((8, 1408))
        np.save(folder / FEATURES / f"{clip.stem}.npy", steps.astype(np.float32))


def _small_encoder(part: Part, kind: str) -> dict[str, Any]:
    name = PRETRAINED[part.name].encoder if part.name in PRETRAINED else part.name
    if name.startswith("resnet"):
        return dict(CONVOLUTIONS[kind])
    if name not in ENCODERS:  # made for processors as it is
        return part.model_dump()
    fixed = dict(PRETRAINED[part.name].settings) if part.name in PRETRAINED else {}
    return {"name": name, **ENCODERS[name], **{k: v for k, v in (fixed | part.arguments).items() if k in KEPT}}


def _small_input(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    small = {key: value for key, value in given.items() if key not in ("tokenizer", "max_length")}
    if kind in ("image", "video"):
        small = {key: value for key, value in small.items() if key not in ("resize", "image_size", "shorter_side")}
        small |= {"height": EDGE, "width": EDGE}
    if kind == "audio":
        small["max_seconds"] = min(SECONDS, small.get("max_seconds", SECONDS))
    if kind == "text":
        small |= {"max_tokens": TOKENS, "buckets": BUCKETS}  # words by their hash, as there is no tokenizer
    return small


def _capped(settings: dict[str, Any], most: Mapping[str, int]) -> None:
    for key, limit in most.items():
        if isinstance(settings.get(key), int):
            settings[key] = min(settings[key], limit)


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copied(one) if isinstance(one, Mapping) else one for key, one in values.items()}


def _made_up(folder: Path, label: str, data: Mapping[str, Any], seed: int, classes: int = 3) -> None:
    """table.csv of learnable samples with a column for each of the modalities that the settings name."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    folder.mkdir(parents=True)
    for i in range(ROWS):
        c = i % classes
        row: dict[str, Any] = {
            "id": f"s{i}",
            label: f"class{c}",
            "split": ("train", "train", "valid", "test")[i // 3 % 4],
        }
        for spec in data.get("modalities", []):
            name, _, column = spec.partition("=")
            column, _, kind = column.rpartition(":")
            for one in column.split(","):
                row[one] = _cell(kind, c, folder / f"{name}-{i}", random)
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "table.csv", index=False)


def _cell(kind: str, c: int, path: Path, random: np.random.Generator) -> Any:
    """What tells class `c` to a modality of that kind: a file's name, a text or a number."""
    if kind == "image":
        return write_jpeg(path.with_suffix(".jpg"), picture(c, random)).name
    if kind == "audio":
        return write_wav(path.with_suffix(".wav"), tone(c, random, 0.5, 16000), 16000).name
    if kind == "video":
        frames = np.stack([picture(c, random) for _ in range(12)])
        return write_clip(path.with_suffix(".mp4"), frames, 12).name
    if kind == "vector":
        np.save(path.with_suffix(".npy"), (c + random.standard_normal((4, 8))).astype(np.float32))
        return path.with_suffix(".npy").name
    if kind == "text":
        return sentence(c, random)
    return f"c{c}" if kind == "categorical" else round(float(c + random.standard_normal()), 4)
