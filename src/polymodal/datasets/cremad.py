"""CREMA-D (Cao et al. 2014): actors say sentences in six acted emotions; sound and video."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.table import Table
from polymodal.datasets.base import (
    AUGMENTED,
    FRAMES,
    IMAGEBIND_AUDIO,
    IMAGENET,
    ONE_A_SECOND,
    OPENCLIP,
    RANDOM_FRAMES,
    Dataset,
    Preset,
    hold_out,
    make_table,
    need,
    one_of,
    read_lines,
)
from polymodal.datasets.extract import COMPUTED, copy, frames, sounds
from polymodal.datasets.faces import crops, features
from polymodal.datasets.plan import Job, Plan, Wanted
from polymodal.errors import InputError

__all__ = ["CLASSES", "DATASET", "read"]

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
CLIP = re.compile(r"(?P<actor>\d{4})_(?P<sentence>[A-Z]{3})_(?P<emotion>[A-Z]{3})_(?P<level>[A-Z]{2})")
SPLITS = ("ogm", "mlb", "disjoint")
FRAMES_FOLDER, FACES, FEATURES = "Image-01-FPS", "Faces", "Face_features"


def read(
    root: str | Path,
    *,
    split: str = "ogm",
    valid: float = 0.0,
    fold: int = 1,
    folds: str = "folds.pkl",
    seed: int = 0,
    faces: bool = False,
) -> Table:
    """Clips with their acted emotion, which is in the file's name.

    Columns: id, audio (`AudioWAV/<clip>.wav`), video (`VideoFlash/<clip>.flv`), emotion, actor, sentence, level, split. The
    classes are NEU 0, HAP 1, SAD 2, FEA 3, DIS 4, ANG 5, as in `stat.csv` of OGM-GE's code and its followers. Prepared
    folders come before the owner's: `Spectrograms/<clip>.npy` and, as the published code names it, `Image-01-FPS/<clip>/`.

    Args:
        root: folder of the owner's copy.
        split: "ogm" (train.csv and test.csv of OGM-GE: actors lie in both), "mlb" (the folds of MLB's authors: no actor does)
            or "disjoint" (ours: of every 91 actors 63 train, 14 valid and 14 test, drawn with `seed`).
        valid: share of OGM-GE's training list that is set aside for validation, alike in every class; with 0 none is.
        fold: 1 to 5, key of the file of folds; fold f of MLB's command line, from 0, is key f + 1.
        folds: name of that file below `root`.
        seed: of whatever is drawn.
        faces: add the column faces (`Face_features/<clip>.npy`, T x 1408).

    Raises:
        InputError: a list is missing or damaged, or names an unknown emotion, split or fold.

    Source: Peng et al. 2022 (lists); Kontras et al. 2024 (folds).
    *Differs from the authors' code:* a listed clip whose files are missing stays and is reported; OGM-GE's loader drops it
    without a word. MLB's folds carry a code of a crowd's consensus behind each clip, which their code reads past, as does this.
    """
    root = Path(root)
    sound = COMPUTED if (root / COMPUTED).is_dir() else "AudioWAV"
    need(root, sound, "the sounds <clip>.wav", "cremad")
    one_of(split, SPLITS, "split of cremad")
    notes: list[str] = []
    if split == "ogm":
        parts = _ogm(root, valid, seed)
    elif split == "mlb":
        parts = _mlb(need(root, folds, "the file of folds of MLB's authors", "cremad"), fold)
    else:
        parts = _disjoint(
            sorted(path.stem for path in (root / sound).glob("*.npy" if sound == COMPUTED else "*.wav")), seed
        )
    sound += "/{}.npy" if sound == COMPUTED else "/{}.wav"
    video = FRAMES_FOLDER + "/{}" if (root / FRAMES_FOLDER).is_dir() else "VideoFlash/{}.flv"
    media = {"audio": sound, "video": video} | ({"faces": FEATURES + "/{}.npy"} if faces else {})
    rows = [_row(clip, part, place, media) for clip, part, place in parts]
    crossing = _crossing(rows)
    if crossing:
        notes.append(
            f"{crossing} of {len({row['actor'] for row in rows})} actors lie in more than one part of this split"
        )
    return make_table(rows, root, "cremad", {"emotion": CLASSES}, notes)


Listed = Iterable[tuple[str, str, str]]
"""(clip, part, where it is listed) each."""


def _ogm(root: Path, valid: float, seed: int) -> Listed:
    if not 0 <= valid < 1:
        raise InputError(f"cremad: valid={valid}: expected a share of the training list, from 0 up to 1")
    if (root / "stat.csv").is_file():
        for number, name in read_lines(root / "stat.csv"):
            one_of(name, CLASSES, f"{root / 'stat.csv'}, line {number}: emotion")
    found = []
    for part in ("train", "test"):
        path = need(root, f"{part}.csv", "OGM-GE's list of clips", "cremad")
        for number, line in read_lines(path):  # no header, and lines end in CR LF
            place = f"{path}, line {number}"
            clip, comma, emotion = line.partition(",")
            if not comma:
                raise InputError(f"{place}: {line!r}: expected CLIP,EMOTION")
            if _name(clip, place)["emotion"] != one_of(emotion, CLASSES, f"{place}: emotion"):
                raise InputError(f"{place}: the clip {clip} is listed as {emotion}, which its name does not say")
            found.append((clip, part, place))
    if valid:
        train = [one for one in found if one[1] == "train"]
        held = hold_out([_name(one[0], one[2])["emotion"] for one in train], valid, seed)
        found = [(c, "valid" if i in held else p, w) for i, (c, p, w) in enumerate(found)]  # training clips come first
    return found


def _mlb(path: Path, fold: int) -> Listed:
    try:
        folds = json.loads(path.read_text(encoding="utf-8"))  # its authors' file ends in .pkl and is JSON
    except (ValueError, UnicodeDecodeError):
        raise InputError(
            f"{path}: not JSON, which the file of folds is whatever its name ends in; fetch it again"
        ) from None
    if not isinstance(folds, dict) or str(fold) not in folds:
        there = ", ".join(folds) if isinstance(folds, dict) else "none"
        raise InputError(f"{path}: no fold {fold}; there are {there}")
    for part, name in (("train", "train"), ("valid", "val"), ("test", "test")):
        for entry in folds[str(fold)].get(name, []):
            # "<clip>.wav-<code>": the code is not the label.
            yield str(entry).rpartition("-")[0].removesuffix(".wav"), part, f"{path}, fold {fold}, {name}: {entry}"


def _disjoint(clips: list[str], seed: int) -> Listed:
    actors = sorted({_name(clip, f"AudioWAV/{clip}.wav")["actor"] for clip in clips})
    if len(actors) < 3:
        raise InputError(
            f"cremad: {len(actors)} actors in AudioWAV; at least three are needed to divide them into parts"
        )
    order = np.random.default_rng(seed).permutation(len(actors))
    held = max(1, round(len(actors) * 14 / 91))
    part = {actors[one]: "valid" if i < held else "test" if i < 2 * held else "train" for i, one in enumerate(order)}
    return [(clip, part[clip[:4]], f"AudioWAV/{clip}.wav") for clip in clips]


def _name(clip: str, place: str) -> re.Match[str]:
    found = CLIP.fullmatch(clip)
    if found is None:
        raise InputError(f"{place}: {clip!r} is no clip of CREMA-D; their names are such as 1001_DFA_ANG_XX")
    return found


def _row(clip: str, part: str, place: str, media: Mapping[str, str]) -> dict[str, Any]:
    name = _name(clip, place)
    one_of(name["emotion"], CLASSES, f"{place}: emotion")
    return {"id": clip, **{m: form.format(clip) for m, form in media.items()}, **name.groupdict(), "split": part}


def _crossing(rows: list[dict[str, Any]]) -> int:
    parts: dict[str, set[str]] = {}
    for row in rows:
        parts.setdefault(row["actor"], set()).add(row["split"])
    return sum(len(found) > 1 for found in parts.values())


def plan(root: Path, table: Table, wanted: Wanted) -> Plan:
    """One frame a second, sounds as they are or as spectrograms; faces and their features."""
    make, place, texts = sounds(wanted.audio, wanted.sound, "AudioWAV")
    jobs: list[Job] = []
    then: list[Job] = []
    for row, clip in enumerate(table.cells("id")):
        video = f"VideoFlash/{clip}.flv"
        jobs.append(
            Job(copy if wanted.sound == "wav" else make, f"AudioWAV/{clip}.wav", place.format(clip), "audio", row)
        )
        jobs.append(Job(frames, video, f"{FRAMES_FOLDER}/{clip}", "video", row))
        if wanted.faces:
            boxes = {frame: box for (name, frame), box in wanted.boxes.items() if name == clip}
            jobs.append(Job(partial(crops, boxes=boxes), video, f"{FACES}/{clip}", "faces", row))
        if wanted.faces and wanted.embed is not None:
            made = partial(features, embed=wanted.embed)
            then.append(Job(made, f"{FACES}/{clip}", f"{FEATURES}/{clip}.npy", "faces", row))
    return Plan(("*.csv", "*.pkl", "*.json"), jobs, then, texts)


SPECTROGRAM = {
    "representation": "log_magnitude", "sample_rate": 22050, "max_seconds": 3.0, "tile": True, "clamp": True, "n_fft": 512,
    "hop": 353, "pad_mode": "reflect", "standardize": False,
}  # fmt: skip
MODALITIES = ["audio=audio:audio", "video=video:video"]
BASE = {
    "modalities": MODALITIES,
    "inputs": {"audio": SPECTROGRAM, "video": FRAMES | IMAGENET | AUGMENTED | ONE_A_SECOND | {"frames": 3}},
}
COUNTS = {"classes": 6, "actor": 91}

DATASET = Dataset(
    read,
    {
        "ogm": Preset(
            "OGM-GE's lists, whose actors overlap and which have no validation part (a share of the training clips is taken); "
            "its spectrograms, the first 3 of one frame a second, cut and mirrored at random in training",
            {"label": "emotion", "data": BASE},
            published={"train + valid": 6698, "test": 744, **COUNTS},
        ),
        "mlb": Preset(
            "the actor-disjoint folds of MLB's authors (their file is needed), OGM-GE's spectrograms and frames",
            {"label": "emotion", "data": BASE | {"group": "actor"}},
            {"split": "mlb"},
            {"all": 5820, **COUNTS},
        ),
        "disjoint": Preset(
            "an actor-disjoint split of ours, drawn with the seed; inputs as cremad/ogm",
            {"label": "emotion", "data": BASE | {"group": "actor"}},
            {"split": "disjoint"},
            {"all": 7442, **COUNTS},
        ),
        "mmlora": Preset(
            "OGM-GE's lists with the training list divided 9:1 as MMLoRA does; ImageBind's sound, 3 frames (random in "
            "training) with OpenCLIP's normalisation",
            {
                "label": "emotion",
                "data": {
                    "modalities": MODALITIES,
                    "inputs": {
                        "audio": IMAGEBIND_AUDIO,
                        "video": FRAMES | OPENCLIP | AUGMENTED | RANDOM_FRAMES | {"frames": 3},
                    },
                },
            },
            {"valid": 0.1},
            {"train + valid": 6698, "test": 744, **COUNTS},
        ),
        "conformer": Preset(
            "MLB's folds as inputs of its Conformers: the waveform at 16 kHz and EfficientNet-B2's features of faces, at most "
            "150 of them, which `data prepare --face-weights FILE` makes",
            {
                "label": "emotion",
                "data": {
                    "modalities": ["audio=audio:audio", "faces=faces:vector"],
                    "group": "actor",
                    "inputs": {
                        "audio": {"representation": "waveform", "sample_rate": 16000},
                        "faces": {"width": 1408, "length": 150},
                    },
                },
            },
            {"split": "mlb", "faces": True},
            {"all": 5820, **COUNTS},
        ),
    },
    help="""\
CREMA-D: 7442 clips of 91 actors, six emotions (Cao et al. 2014).

Owner: https://github.com/CheyneyComputerScience/CREMA-D (Git LFS).
Put into one folder ROOT:
  AudioWAV/<clip>.wav              from the owner, 16 kHz
  VideoFlash/<clip>.flv            from the owner
  train.csv, test.csv, stat.csv    OGM-GE's lists (github.com/GeWu-Lab/OGM-GE_CVPR2022, data/CREMAD), for cremad/ogm and
                                   cremad/mmlora
  folds.pkl                        the file of folds of MLB's authors, for cremad/mlb; another name with ,folds=NAME
cremad/disjoint needs AudioWAV and VideoFlash alone.
Terms (from general knowledge; read the owner's own): Open Database License, individual contents under the Database Contents
License; cite the paper.
""",
    group="actor",
    plan=plan,
)
