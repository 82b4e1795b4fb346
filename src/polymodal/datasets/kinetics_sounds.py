"""Kinetics-Sounds (Arandjelovic and Zisserman 2017): ten-second clips of Kinetics-400 whose class can be heard and seen."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

from polymodal.data.table import Table
from polymodal.datasets.base import (
    AUGMENTED,
    FRAMES,
    IMAGEBIND_AUDIO,
    IMAGENET,
    OPENCLIP,
    RANDOM_FRAMES,
    Dataset,
    Preset,
    make_table,
    need,
    one_of,
    read_lines,
)
from polymodal.datasets.extract import COMPUTED, frames, sounds
from polymodal.datasets.plan import Job, Plan, Wanted
from polymodal.errors import InputError

__all__ = ["CLASSES_32", "DATASET", "read"]

CLASSES_32 = (
    "blowing nose", "blowing out candles", "bowling", "chopping wood", "dribbling basketball", "laughing", "mowing lawn",
    "playing accordion", "playing bagpipes", "playing bass guitar", "playing clarinet", "playing drums", "playing guitar",
    "playing harmonica", "playing keyboard", "playing organ", "playing piano", "playing saxophone", "playing trombone",
    "playing trumpet", "playing violin", "playing xylophone", "ripping paper", "shoveling snow", "shuffling cards", "singing",
    "stomping grapes", "strumming guitar", "tap dancing", "tapping guitar", "tapping pen", "tickling",
)  # fmt: skip
"""From general knowledge: those of the 34 classes that Kinetics-400 has. `classes.txt` in the root overrules them."""

NAME = re.compile(r"(?P<video>.{11})_(?P<start>\d+)(?:_(?P<end>\d+))?")


def read(root: str | Path, *, lists: str = "ogm") -> Table:
    """Clips with their class.

    Columns: id, audio, video, label, split. A clip is looked for by its YouTube id and first second, whether its name has
    the last second as well, and zeros in front, or not: `clips/**/<name>.mp4` (or .mkv, .webm, .avi) for both modalities;
    `audio/<name>.wav` and the folder of pictures `frames/<name>/` come before it, `Spectrograms/<name>.npy` before all.

    Args:
        root: folder of the lists and clips.
        lists: "ogm" (`my_train.txt` and `my_test.txt` of OGM-GE's code: classes 0 to 30, whose names are the lines of
            `classes.txt`, or their numbers without it) or "kinetics" (`train.csv` and `validate.csv` of Kinetics-400, of
            which the classes of `classes.txt`, or of `CLASSES_32`, are taken; the second is the test part).

    Raises:
        InputError: a list is missing or damaged, or has an unknown class.
    """
    root = Path(root)
    one_of(lists, ("ogm", "kinetics"), "lists of kinetics_sounds")
    if not root.is_dir():
        need(root, "clips", "", "kinetics_sounds")
    names = [line for _, line in read_lines(root / "classes.txt")] if (root / "classes.txt").is_file() else []
    if lists == "ogm":
        rows, classes = _ogm(root, names)
    else:
        classes = tuple(names) or CLASSES_32
        rows = _kinetics(root, classes)
    files = _find(root)
    for row in rows:
        key = _key(row["id"])
        clip = files.get(("clips", key), f"clips/{row['id']}.mp4")
        wave = files.get(("audio", key), clip)
        row["audio"], row["video"] = files.get((COMPUTED, key), wave), files.get(("frames", key), clip)
    columns = ("id", "audio", "video", "label", "split")
    return make_table([{c: row[c] for c in columns} for row in rows], root, "kinetics_sounds", {"label": classes})


def _ogm(root: Path, names: list[str]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    classes = tuple(names) or tuple(str(number) for number in range(31))
    rows = []
    for part in ("train", "test"):
        path = need(root, f"my_{part}.txt", "OGM-GE's list of clips", "kinetics_sounds")
        for number, line in read_lines(path):
            cells = line.rsplit(",", 2)
            if len(cells) != 3 or not cells[2].isdigit():
                raise InputError(f"{path}, line {number}: {line!r}: expected NAME,SECONDS,CLASS NUMBER")
            if int(cells[2]) >= len(classes):
                raise InputError(f"{path}, line {number}: unknown class {cells[2]}; there are {len(classes)}, from 0")
            _key(cells[0], f"{path}, line {number}: ")
            rows.append({"id": cells[0], "label": classes[int(cells[2])], "split": part})
    return rows, classes


def _kinetics(root: Path, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = []
    for part, name in (("train", "train.csv"), ("test", "validate.csv")):
        path = need(root, name, "Kinetics-400's list", "kinetics_sounds")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            wanted = {"label", "youtube_id", "time_start", "time_end"}
            if not wanted <= set(reader.fieldnames or ()):
                raise InputError(
                    f"{path}: its header must name {', '.join(sorted(wanted))}; fetch Kinetics-400's own list"
                )
            for line in reader:
                if line["label"] in classes:
                    try:
                        times = f"{int(line['time_start']):06d}_{int(line['time_end']):06d}"
                    except (TypeError, ValueError):
                        raise InputError(f"{path}, line {reader.line_num}: the times must be whole seconds") from None
                    rows.append({"id": f"{line['youtube_id']}_{times}", "label": line["label"], "split": part})
    return rows


def _key(name: str, place: str = "") -> tuple[str, int]:
    """YouTube id, which may itself hold "_", and first second."""
    found = NAME.fullmatch(name)
    if found is None:
        raise InputError(
            f"{place}{name!r}: expected YOUTUBE_START or YOUTUBE_START_END, an id of 11 letters and seconds"
        )
    return found["video"], int(found["start"])


def _find(root: Path) -> dict[tuple[str, tuple[str, int]], str]:
    found = {}
    places = {"clips": (".mp4", ".mkv", ".webm", ".avi"), "audio": (".wav",), COMPUTED: (".npy",), "frames": ("",)}
    for folder, suffixes in places.items():
        for path in sorted((root / folder).rglob("*")):
            match = NAME.fullmatch(path.stem)
            if match and path.suffix in suffixes and (folder != "frames" or path.is_dir()):
                found[folder, (match["video"], int(match["start"]))] = str(path.relative_to(root))
    return found


def plan(root: Path, table: Table, wanted: Wanted) -> Plan:
    """One frame a second and the sound of each clip, in `frames/` and `audio/`."""
    make, place, texts = sounds(wanted.audio, wanted.sound, "audio")
    jobs = []
    for row, name in enumerate(table.cells("id")):
        jobs.append(Job(make, table.cells("audio")[row], place.format(name), "audio", row))
        jobs.append(Job(frames, table.cells("video")[row], f"frames/{name}", "video", row))
    return Plan(("*.txt", "*.csv"), jobs, texts=texts)


MODALITIES = ["audio=audio:audio", "video=video:video"]
ONE_CLIP = IMAGEBIND_AUDIO | {
    "clips": 1,
    "clip_seconds": 10.255,
    "clip_frames": 1024,
    "mean": [-4.503877],
    "std": [10.282552],
}

DATASET = Dataset(
    read,
    {
        "ogm": Preset(
            "the lists of OGM-GE's code with 31 classes and no validation part (a share of the training clips is taken); one "
            "filter bank of 1024 frames (at 16 kHz; the code keeps each file's own rate), a frame of each of 3 segments",
            {
                "label": "label",
                "data": {
                    "modalities": MODALITIES,
                    "task": "classification",
                    "inputs": {
                        "audio": ONE_CLIP,
                        "video": FRAMES | IMAGENET | AUGMENTED | {"frames": 3, "sampling": "segments"},
                    },
                },
            },
            published={"train + valid": 14799, "test": 2597, "classes": 31},
        ),
        "mmlora": Preset(
            "32 classes of Kinetics-400's own lists, its validation part as the test part (MMLoRA states no other); "
            "ImageBind's sound, 3 frames (random in training) with OpenCLIP's "
            "normalisation",
            {
                "label": "label",
                "data": {
                    "modalities": MODALITIES,
                    "task": "classification",
                    "inputs": {
                        "audio": IMAGEBIND_AUDIO,
                        "video": FRAMES | OPENCLIP | AUGMENTED | RANDOM_FRAMES | {"frames": 3},
                    },
                },
            },
            {"lists": "kinetics"},
            {"train + valid": 22728, "test": 1593, "classes": 32},
        ),
    },
    help="""\
Kinetics-Sounds: ten-second clips of 31 or 32 classes of Kinetics-400 (Arandjelovic and Zisserman 2017).

Owner: nobody distributes the clips as such. Kinetics-400: https://github.com/cvdfoundation/kinetics-dataset (from general
knowledge); the lists of 31 classes: https://github.com/GeWu-Lab/OGM-GE_CVPR2022, data/kinetics-sound.
Put into one folder ROOT:
  clips/<name>.mp4                  in subfolders as you like; <name> is YOUTUBE_START or YOUTUBE_START_END
  my_train.txt, my_test.txt         for kinetics_sounds/ogm: NAME,10,CLASS NUMBER
  train.csv, validate.csv           for kinetics_sounds/mmlora: Kinetics-400's lists
  classes.txt                       names of classes, one a line, in the order of their numbers. The repository of the 31 classes
                                    has no names; the 32 names used without this file are from general knowledge
  audio/<name>.wav, frames/<name>/  optional: sound and pictures of clips that you have extracted already
Terms (from general knowledge; read the owner's own): the lists CC BY 4.0; the videos belong to those who put them on YouTube.
""",
    plan=plan,
)
