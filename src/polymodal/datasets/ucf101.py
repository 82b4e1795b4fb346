"""UCF101 (Soomro et al. 2012): actions; pictures with optical flow, or with sound where clips have it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from polymodal.data.media.container import open_media
from polymodal.data.table import Table
from polymodal.datasets.base import (
    AUGMENTED,
    FRAMES,
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
from polymodal.datasets.extract import COMPUTED, frames, sounds
from polymodal.datasets.flow import flow, pictures
from polymodal.datasets.plan import Job, Plan, Wanted
from polymodal.errors import InputError

__all__ = ["DATASET", "WITH_SOUND", "read"]

WITH_SOUND = (
    "ApplyEyeMakeup", "ApplyLipstick", "Archery", "BabyCrawling", "BalanceBeam", "BandMarching", "BasketballDunk", "BlowDryHair",
    "BlowingCandles", "BodyWeightSquats", "Bowling", "BoxingPunchingBag", "BoxingSpeedBag", "BrushingTeeth", "CliffDiving",
    "CricketBowling", "CricketShot", "CuttingInKitchen", "FieldHockeyPenalty", "FloorGymnastics", "FrisbeeCatch", "FrontCrawl",
    "Haircut", "Hammering", "HammerThrow", "HandstandPushups", "HandstandWalking", "HeadMassage", "IceDancing", "Knitting",
    "LongJump", "MoppingFloor", "ParallelBars", "PlayingCello", "PlayingDaf", "PlayingDhol", "PlayingFlute", "PlayingSitar",
    "Rafting", "ShavingBeard", "Shotput", "SkyDiving", "SoccerPenalty", "StillRings", "SumoWrestling", "Surfing",
    "TableTennisShot", "Typing", "UnevenBars", "WallPushups", "WritingOnBoard",
)  # fmt: skip
"""The 51 classes that UCF101 adds to UCF50; inferred to be those whose clips have sound."""

AUDIO, FRAMES_FOLDER, FLOW_FOLDER = "Audio", "Image-01-FPS", "dis_flow"
LEFT_OUT, SILENT, SHORT = "left_out.txt", "silent", "short"
Listed = list[tuple[str, str, str, str]]

CLIP = re.compile(r"v_\w+_(?P<group>g\d+)_(?P<clip>c\d+)")


def read(root: str | Path, *, modalities: str = "flow", split: int = 1, valid: float = 0.0, seed: int = 0) -> Table:
    """Clips with their class, in the order of `classInd.txt`.

    Columns: id, label, group (class and group, such as Archery_g08), split, and with "flow" rgb and flow (folders of pictures
    `jpegs_256/v_*/` and the pair `tvl1_flow/{u,v}/v_*/`), with "sound" audio and video (`UCF-101/<class>/v_*.avi`). Prepared
    folders stand for those that are not there: `dis_flow/v_*/{u,v}`; `Image-01-FPS/v_*/` and `Audio/v_*.wav` or
    `Spectrograms/v_*.npy`.

    The class of a clip is the folder in the lists: the files of the folder HandstandPushups are called v_HandStandPushups_*,
    and copies of the pictures spell them either way, so that folders are found whatever their case.

    Args:
        root: folder of the owner's files.
        modalities: "flow" (all classes) or "sound" (`WITH_SOUND`, numbered anew from 0; clips without sound, or with fewer than 4
            frames at one a second, are left out and counted).
        split: 1, 2 or 3.
        valid: share of the training list's groups that is set aside for validation, alike in every class.
        seed: of that choice.

    Raises:
        InputError: a list is missing or damaged, or an argument is unknown.

    Source: Feichtenhofer et al. 2016 (pictures and flow); Kontras et al. 2024 (sound).
    """
    root = Path(root)
    one_of(modalities, ("flow", "sound"), "modalities of ucf101")
    if split not in (1, 2, 3):
        raise InputError(f"ucf101: split {split!r} is unknown; there are 1, 2 and 3")
    if not 0 <= valid < 1:
        raise InputError(f"ucf101: valid={valid}: expected a share of the training groups, from 0 up to 1")
    classes = _classes(need(root, "ucfTrainTestlist/classInd.txt", "the owner's list of classes", "ucf101"))
    listed = _listed(root, split)
    notes: list[str] = []
    if modalities == "sound":
        classes = [name for name in classes if name in WITH_SOUND]
        listed = _usable(root, [one for one in listed if one[1] in classes], notes)
    rows = [
        {"id": stem, "label": label, "group": f"{label}_{group}", "split": part} for part, label, stem, group in listed
    ]
    if valid:
        train = [place for place, row in enumerate(rows) if row["split"] == "train"]
        held = hold_out([rows[i]["label"] for i in train], valid, seed, [rows[i]["group"] for i in train])
        for one in held:
            rows[train[one]]["split"] = "valid"
    _add_files(root, rows, modalities)
    return make_table(rows, root, "ucf101", {"label": classes}, notes)


def _listed(root: Path, split: int) -> Listed:
    """(part, class, clip, group) of each line of both lists of a split."""
    classes = _classes(root / "ucfTrainTestlist/classInd.txt")
    return [
        (part, *one)
        for part in ("train", "test")
        for one in _read_list(
            need(root, f"ucfTrainTestlist/{part}list0{split}.txt", "the owner's list of clips", "ucf101"), classes
        )
    ]


def _classes(path: Path) -> list[str]:
    found: list[str] = []
    for number, line in read_lines(path):
        cells = line.split()
        if len(cells) != 2 or cells[0] != str(len(found) + 1):
            raise InputError(f"{path}, line {number}: {line!r}: expected {len(found) + 1} CLASS")
        found.append(cells[1])
    return found


def _read_list(path: Path, classes: list[str]) -> list[tuple[str, str, str]]:
    """(class, name of the clip, group) of each line `Class/v_Class_g01_c01.avi`, with a class number from 1 or without."""
    found: list[tuple[str, str, str]] = []
    for number, line in read_lines(path):
        place = f"{path}, line {number}"
        file, *label = line.split()
        folder, slash, name = file.partition("/")
        clip = CLIP.fullmatch(name.removesuffix(".avi"))
        if not slash or clip is None or len(label) > 1:
            raise InputError(
                f"{place}: {line!r}: expected CLASS/v_CLASS_g01_c01.avi, and a class number in training lists"
            )
        one_of(folder, classes, f"{place}: class")
        if label and label[0] != str(classes.index(folder) + 1):
            raise InputError(
                f"{place}: class {folder} has number {label[0]} and {classes.index(folder) + 1} in classInd.txt"
            )
        found.append((folder, clip.group(), clip["group"]))
    return found


def _usable(root: Path, listed: Listed, notes: list[str]) -> Listed:
    """The clips that have sound and 4 frames at one a second; broken ones stay, so that they are reported with their row."""
    left = _left_out(root, listed)
    told = [left.get(one[2]) for one in listed]
    if silent := told.count(SILENT):
        notes.append(f"left out: {silent} clips without sound")
    if short := told.count(SHORT):
        notes.append(f"left out: {short} clips with fewer than 4 frames at one a second")
    return [one for one in listed if one[2] not in left]


def _left_out(root: Path, listed: Listed) -> dict[str, str]:
    """Clips that are left out, and why; where frames and sound were prepared, what was written down then."""
    if (root / LEFT_OUT).is_file():
        lines = (root / LEFT_OUT).read_text(encoding="utf-8").splitlines()
        return {clip: why for clip, _, why in (line.partition(" ") for line in lines)}
    left = {}
    for _, label, clip, _ in listed:
        try:
            container, stream = open_media(root / "UCF-101" / label / f"{clip}.avi", "video")
        except InputError:
            continue
        with container:
            step = max(1, int(stream.average_rate or 1))
            if not container.streams.audio:
                left[clip] = SILENT
            elif 0 < stream.frames <= 3 * step:
                left[clip] = SHORT
    return left


def _add_files(root: Path, rows: list[dict[str, Any]], modalities: str) -> None:
    if modalities == "sound":
        ready = {one: (root / one).is_dir() for one in (COMPUTED, AUDIO, FRAMES_FOLDER)}
        for row in rows:
            clip = f"UCF-101/{row['label']}/{row['id']}.avi"
            sound = f"{AUDIO}/{row['id']}.wav" if ready[AUDIO] else clip
            row["audio"] = f"{COMPUTED}/{row['id']}.npy" if ready[COMPUTED] else sound
            row["video"] = f"{FRAMES_FOLDER}/{row['id']}" if ready[FRAMES_FOLDER] else clip
        return
    rgb = "jpegs_256/" if (root / "jpegs_256").is_dir() else ""
    pictures, flows = _folders(root / rgb), _folders(root / "tvl1_flow" / "u")
    prepared = not flows and (root / FLOW_FOLDER).is_dir()
    for row in rows:
        row["rgb"] = rgb + pictures.get(row["id"].lower(), row["id"])
        published = "tvl1_flow/{u,v}/" + flows.get(row["id"].lower(), row["id"])
        row["flow"] = f"{FLOW_FOLDER}/{row['id']}/{{u,v}}" if prepared else published


def plan(root: Path, table: Table, wanted: Wanted) -> Plan:
    """Every picture of a clip and the flow between them; or one frame a second and the sound."""
    lists = ("ucfTrainTestlist/*.txt",)
    clips = [f"UCF-101/{label}/{clip}.avi" for label, clip in zip(table.cells("label"), table.cells("id"), strict=True)]
    jobs = []
    if "flow" in table.columns:
        for row, (source, clip) in enumerate(zip(clips, table.cells("id"), strict=True)):
            jobs.append(Job(pictures, source, f"jpegs_256/{clip}", "rgb", row))
            jobs.append(Job(flow, source, f"{FLOW_FOLDER}/{clip}", "flow", row))
        return Plan(lists, jobs)
    make, place, texts = sounds(wanted.audio, wanted.sound, AUDIO)
    for row, (source, clip) in enumerate(zip(clips, table.cells("id"), strict=True)):
        jobs.append(Job(make, source, place.format(clip), "audio", row))
        jobs.append(Job(frames, source, f"{FRAMES_FOLDER}/{clip}", "video", row))
    # Any one of the three splits lists all clips.
    split = next(n for n in (1, 2, 3) if (root / "ucfTrainTestlist" / f"trainlist0{n}.txt").is_file())
    left = _left_out(root, [one for one in _listed(root, split) if one[1] in WITH_SOUND])
    return Plan(lists, jobs, texts={LEFT_OUT: "".join(f"{clip} {why}\n" for clip, why in left.items()), **texts})


def _folders(root: Path) -> dict[str, str]:
    return {one.name.lower(): one.name for one in sorted(root.iterdir())} if root.is_dir() else {}


RGB = FRAMES | OPENCLIP | AUGMENTED | RANDOM_FRAMES | {"frames": 3}
FLOW = {"frames": 3, "height": 224, "width": 224, "channels": 2} | AUGMENTED | RANDOM_FRAMES
SPECTROGRAM = {
    "representation": "log_magnitude", "sample_rate": 16000, "max_seconds": 3.0, "n_fft": 512, "hop": 353,
    "pad_mode": "constant", "standardize": False,
}  # fmt: skip

DATASET = Dataset(
    read,
    {
        "mmlora": Preset(
            "pictures (OpenCLIP's normalisation) and flow of all classes, 3 of each (random in training); split 1 (MMLoRA says "
            "about 7000 and 3000 clips); whole groups of the training list are the validation part",
            {
                "label": "label",
                "data": {
                    "modalities": ["rgb=rgb:video", "flow=flow:video"],
                    "group": "group",
                    "inputs": {"rgb": RGB, "flow": FLOW},
                },
            },
            published={"train + valid": 9537, "test": 3783, "classes": 101},
        ),
        "mlb": Preset(
            "pictures and sound of the 51 classes that have it; a tenth of the training groups is the validation part; the first "
            "4 of one frame a second in RGB from 0 to 1 (the authors' code normalises BGR from 0 to 255)",
            {
                "label": "label",
                "data": {
                    "modalities": ["audio=audio:audio", "video=video:video"],
                    "group": "group",
                    "inputs": {
                        "audio": SPECTROGRAM,
                        "video": FRAMES | IMAGENET | AUGMENTED | ONE_A_SECOND | {"frames": 4},
                    },
                },
            },
            {"modalities": "sound", "valid": 0.1},
            {"classes": 51},
        ),
    },
    help="""\
UCF101: 13,320 clips of 101 actions (Soomro et al. 2012).

Owner: https://www.crcv.ucf.edu/data/UCF101.php (UCF101.rar and UCF101TrainTestSplits-RecognitionTask.zip); pictures and TV-L1
flow of Feichtenhofer et al. 2016: https://github.com/feichtenhofer/twostreamfusion.
Put into one folder ROOT:
  ucfTrainTestlist/classInd.txt, trainlist0<1-3>.txt, testlist0<1-3>.txt
  jpegs_256/v_*/frame000001.jpg            for ucf101/mmlora (or v_*/ in ROOT itself)
  tvl1_flow/{u,v}/v_*/frame000001.jpg      for ucf101/mmlora
  UCF-101/<class>/v_*.avi                  for ucf101/mlb
Terms (from general knowledge; read the owner's own): for research, no licence is named; the videos are from YouTube.
""",
    group="group",
    plan=plan,
)
