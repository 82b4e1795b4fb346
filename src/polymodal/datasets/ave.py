"""AVE (Tian et al. 2018): ten-second videos, each with one audible and visible event of 28 kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    make_table,
    need,
    one_of,
    read_lines,
)
from polymodal.datasets.extract import COMPUTED, frames, sounds
from polymodal.datasets.plan import Job, Plan, Wanted
from polymodal.errors import InputError

__all__ = ["DATASET", "read"]

AUDIO, FRAMES_FOLDER = "Audio", "Image-01-FPS"
LISTS = {"train": "trainSet.txt", "valid": "valSet.txt", "test": "testSet.txt"}


def read(root: str | Path, *, segment: str = "event", repeats: str = "first") -> Table:
    """Videos with the category of their event, by the owner's three lists.

    Columns: id, audio and video (`AVE/<id>.mp4`, with `#t=START,END` the seconds of the event), category, quality, start,
    end, split. Classes are in the order of their first appearance in the test list, which is the order of MLB's and PMR's
    codes; those that only other lists have come behind. Where files were prepared, the sound of a piece is
    `Audio/<id>_<start>_<end>.wav` or `Spectrograms/<id>_<start>_<end>.npy` and its frames are `Image-01-FPS/<id>_<start>_<end>/`,
    without the seconds for whole videos.

    Args:
        root: folder of the owner's copy.
        segment: "event" cuts sound and video to the seconds of the event, "whole" does not.
        repeats: "first" keeps the first line of an id that a list has twice, as the loaders of this field do; "all" keeps all.

    Raises:
        InputError: a list is missing or damaged, or an argument is unknown.

    Source: Tian et al. 2018 (lists); Fan et al. 2023 and Kontras et al. 2024 (use of segments and repeated ids).
    """
    root = Path(root)
    one_of(segment, ("event", "whole"), "segment of ave")
    one_of(repeats, ("first", "all"), "repeats of ave")
    found = {part: _read_list(need(root, name, "the owner's list", "ave")) for part, name in LISTS.items()}
    order = [row["category"] for part in ("test", "train", "valid") for row in found[part]]
    ready = {one: (root / one).is_dir() for one in (COMPUTED, AUDIO, FRAMES_FOLDER)}
    rows, notes = [], []
    for part, lines in found.items():
        seen: set[str] = set()
        for line in lines:
            if repeats == "first" and line["id"] in seen:
                continue
            seen.add(line["id"])
            clip = f"AVE/{line['id']}.mp4"
            if segment == "event":
                clip += f"#t={line['start']:g},{line['end']:g}"
            piece = _piece(clip)
            sound = f"{COMPUTED}/{piece}.npy" if ready[COMPUTED] else f"{AUDIO}/{piece}.wav" if ready[AUDIO] else clip
            video = f"{FRAMES_FOLDER}/{piece}" if ready[FRAMES_FOLDER] else clip
            rows.append({"id": line["id"], "audio": sound, "video": video, **line, "split": part})
        repeated = len(lines) - sum(row["split"] == part for row in rows)
        if repeated:
            notes.append(f"{LISTS[part]}: {len(lines)} lines, of which {repeated} repeat an id and are left out")
    return make_table(rows, root, "ave", {"category": tuple(dict.fromkeys(order))}, notes)


def _piece(clip: str) -> str:
    """Name of what is made of a cell: <id>_2_7 of AVE/<id>.mp4#t=2,7."""
    name, _, seconds = clip.partition("/")[2].partition("#t=")
    return "_".join([name.removesuffix(".mp4"), *filter(None, seconds.split(","))])


def _read_list(path: Path) -> list[dict[str, Any]]:
    """Lines `Category&VideoID&Quality&StartTime&EndTime`; categories hold commas, and the lists have no header."""
    rows = []
    for number, line in read_lines(path):
        cells = line.split("&")
        if len(cells) != 5:
            raise InputError(f"{path}, line {number}: {line!r}: expected Category&VideoID&Quality&StartTime&EndTime")
        try:
            start, end = float(cells[3]), float(cells[4])
        except ValueError:
            raise InputError(f"{path}, line {number}: {line!r}: the last two cells must be seconds") from None
        if not 0 <= start < end:
            raise InputError(f"{path}, line {number}: the event ends at {end:g} s and starts at {start:g} s")
        rows.append({"category": cells[0], "id": cells[1], "quality": cells[2], "start": start, "end": end})
    return rows


def plan(root: Path, table: Table, wanted: Wanted) -> Plan:
    """One frame a second and the sound of each video, or of its event: both bounds belong to it."""
    make, place, texts = sounds(wanted.audio, wanted.sound, AUDIO)
    jobs = []
    for row, (audio, video) in enumerate(zip(table.cells("audio"), table.cells("video"), strict=True)):
        jobs.append(Job(make, audio, place.format(_piece(video)), "audio", row))
        jobs.append(Job(frames, video, f"{FRAMES_FOLDER}/{_piece(video)}", "video", row))
    return Plan(("*.txt",), jobs, texts=texts)


PMR_SPECTROGRAM = {
    "representation": "log_power", "sample_rate": 16000, "max_seconds": 10.0, "tile": True, "n_fft": 512, "hop": 159,
    "standardize": False,
}  # fmt: skip
MODALITIES = ["audio=audio:audio", "video=video:video"]
COUNTS = {"train": 3312, "valid": 401, "test": 402, "classes": 28}

DATASET = Dataset(
    read,
    {
        "mlb": Preset(
            "the owner's lists (3339, 402 and 402 lines, of which 27, 1 and 0 repeat an id); event segments, PMR's "
            "spectrogram of 10 s, the first 4 of one frame a second",
            {
                "label": "category",
                "data": {
                    "modalities": MODALITIES,
                    "inputs": {
                        "audio": PMR_SPECTROGRAM,
                        "video": FRAMES | IMAGENET | AUGMENTED | ONE_A_SECOND | {"frames": 4},
                    },
                },
            },
            published=COUNTS,
        ),
        "mmlora": Preset(
            "the owner's lists, whole videos; ImageBind's sound, 3 frames (random in training) with OpenCLIP's normalisation",
            {
                "label": "category",
                "data": {
                    "modalities": MODALITIES,
                    "inputs": {
                        "audio": IMAGEBIND_AUDIO,
                        "video": FRAMES | OPENCLIP | AUGMENTED | RANDOM_FRAMES | {"frames": 3},
                    },
                },
            },
            {"segment": "whole", "repeats": "all"},
            {"train": 3339, "valid": 402, "test": 402, "classes": 28},
        ),
    },
    help="""\
AVE: 4143 videos of 10 s, 28 categories (Tian et al. 2018).

Owner: https://github.com/YapengTian/AVE-ECCV18 (AVE_Dataset.zip).
Put into one folder ROOT:
  AVE/<id>.mp4                                  the videos
  trainSet.txt, valSet.txt, testSet.txt         the lists of the same archive, without a header
  Annotations.txt                               beside them; not needed
Terms (from general knowledge; read the owner's own): for research; the videos are of AudioSet and belong to those who put
them on YouTube; cite the paper.
""",
    plan=plan,
)
