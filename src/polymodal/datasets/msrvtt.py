"""MSRVTT (Xu et al. 2016) as features of seven experts: captions that find their video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.data.table import Table
from polymodal.datasets.base import Dataset, Preset, make_table, need, one_of, read_lines
from polymodal.datasets.safe_files import load_pickle, open_hdf5, read_set
from polymodal.errors import InputError

__all__ = ["DATASET", "EXPERTS", "read", "sentence", "timed"]

EXPERTS = {"face": 512, "ocr": 300, "rgb": 2048, "s3d": 1024, "scene": 2208, "speech": 300, "vggish": 128}
"""Numbers a vector of each expert."""
SECONDS = {"rgb": 0.2, "s3d": 1.0, "scene": 1.0, "vggish": 1.0}
"""What one vector stands for where the file has no times; those of faces, written and spoken words are not known then."""
LISTS = {
    "jsfusion": {"train": "train_list_jsfusion.txt", "test": "val_list_jsfusion.txt"},
    "miech": {"train": "train_list_miech.txt", "test": "test_list_miech.txt"},
    "full": {"train": "train_list.txt", "valid": "val_list.txt", "test": "test_list.txt"},
}
CHOSEN = "jsfusion_val_caption_idx.pkl"
Array = NDArray[Any]


def read(root: str | Path, *, split: str = "jsfusion", captions: str = "all", vectors: int | None = None) -> Table:
    """A row a caption, with the features of its video.

    Columns: id, caption, the seven of `EXPERTS` (arrays (n, 1 + width), whose first number is the time in seconds, -1 where it
    is not known; empty where the video lacks the expert), video, split. A caption begins with a capital letter and ends with
    a period.

    Args:
        root: folder with `vid_feat_files` and the lists, which may lie in `symlinked-feats`.
        split: "jsfusion" (one caption a test video, by its list of indices), "miech" (the first caption of each test video)
            or "full" (all captions).
        captions: "all" captions of the training videos, or the "first" of each.
        vectors: keep at most so many vectors of each expert, spread evenly, to save memory; all by default.

    Raises:
        InputError: a list or a video's file is missing or damaged, a video has no caption, features of another width.

    Source: Gabeur et al. 2020. Differs from the authors' code: times come from the file for every expert that has them there
    (theirs: s3d and vggish alone).
    """
    root = Path(root)
    one_of(split, LISTS, "split of msrvtt")
    one_of(captions, ("all", "first"), "captions")
    if vectors is not None and vectors < 1:
        raise InputError(f"msrvtt: vectors={vectors}; it is 1 or more")
    lists = {part: [name for _, name in read_lines(_place(root, file))] for part, file in LISTS[split].items()}
    chosen = _chosen(_place(root, CHOSEN)) if split == "jsfusion" else {}
    lacking = [name for names in lists.values() for name in names if not _file(root, name).is_file()]
    if lacking:
        raise InputError(
            f"{_file(root, lacking[0])}: not there, and so are {len(lacking) - 1} other videos of the lists"
        )
    rows: list[dict[str, Any]] = []
    empty = 0
    for part, names in lists.items():
        for name in dict.fromkeys(names):
            told, experts = _video(_file(root, name), vectors)
            kept = range(len(told))
            if part == "test" and split == "jsfusion":
                kept = _one(name, chosen, len(told), root)
            elif (part == "test" and split == "miech") or (part == "train" and captions == "first"):
                kept = range(1)
            for i in kept:
                if told[i]:
                    rows.append({"id": f"{name}_{i}", "caption": told[i], **experts, "video": name, "split": part})
                empty += not told[i]
    notes = [f"{empty} captions without a word were left out"] if empty else []
    return make_table(rows, root, "msrvtt", {}, notes)


def sentence(words: str) -> str:
    """Words as BERT reads them: a capital letter in front, a period behind unless there is another mark.

    Example:
        >>> [sentence(one) for one in ("a Man sings ", "who is it?", "")]
        ['A man sings.', 'Who is it?', '']
    """
    text = words.strip()
    return f"{text}{'' if text[-1] in '.?!' else '.'}".capitalize() if text else ""


def timed(values: Array, times: Array) -> NDArray[np.float32]:
    """Vectors (n, D) behind their times in seconds (n,) or fewer; -1 stands for a time that is not known or not a number."""
    seconds = np.full(len(values), -1.0, np.float32)
    seconds[: len(times)] = np.nan_to_num(times[: len(values)], nan=-1.0)
    return np.column_stack([seconds, values]).astype(np.float32)


def _place(root: Path, name: str) -> Path:
    """A list, in `symlinked-feats` or beside it."""
    inner = root / "symlinked-feats" / name
    return inner if inner.exists() else need(root, name, "the list", "msrvtt")


def _file(root: Path, name: str) -> Path:
    return root.joinpath("vid_feat_files", "mult_h5", *name[:3], f"{name}.h5")


def _chosen(path: Path) -> Mapping[str, Any]:
    found = load_pickle(path)
    if not isinstance(found, dict):
        raise InputError(f"{path}: a {type(found).__name__}; expected the number of a caption by video")
    return {key.decode() if isinstance(key, bytes) else str(key): one for key, one in found.items()}


def _one(name: str, chosen: Mapping[str, Any], count: int, root: Path) -> range:
    """The caption that stands for a test video."""
    if name not in chosen or not 0 <= int(chosen[name]) < count:
        what = f"caption {chosen[name]} of {count}" if name in chosen else "no caption"
        raise InputError(
            f"{_place(root, CHOSEN)}: {what} for the test video {name!r}; fetch lists that belong together"
        )
    return range(int(chosen[name]), int(chosen[name]) + 1)


def _video(path: Path, vectors: int | None) -> tuple[list[str], dict[str, NDArray[np.float32] | None]]:
    """Captions and experts of one file."""
    with open_hdf5(path) as file:
        captions = [sentence(_words(read_set(file, f"raw_captions.{i}"))) for i in _numbers(file.__contains__)]
        experts = {m: _expert(file, m, width, path, vectors) for m, width in EXPERTS.items()}
    if not captions:
        raise InputError(f"{path}: no captions (raw_captions.0, ...); fetch the file with the captions in it")
    return captions, experts


def _numbers(there: Callable[[str], bool]) -> Iterator[int]:
    number = 0
    while there(f"raw_captions.{number}"):
        yield number
        number += 1


def _words(value: Any) -> str:
    return " ".join(
        one.decode() if isinstance(one, bytes) else str(one) for one in np.asarray(value).reshape(-1).tolist()
    )


def _expert(file: Any, name: str, width: int, path: Path, vectors: int | None) -> NDArray[np.float32] | None:
    """Vectors with their times; None where there are none, or the first number is none."""
    if f"features.{name}" not in file:
        return None
    values = read_set(file, f"features.{name}")
    if not values.size or np.isnan(values.reshape(-1)[0]):
        return None
    if values.ndim != 2 or values.shape[1] != width:
        raise InputError(f"{path}: features.{name} have the shape {values.shape}; expected (n, {width})")
    if f"features_t.{name}" in file:
        times: NDArray[Any] = read_set(file, f"features_t.{name}").astype(np.float64)
        times = times.mean(1) if times.ndim == 2 else times.reshape(-1)
    else:
        times = (np.arange(len(values)) + 0.5) * SECONDS[name] if name in SECONDS else np.full(len(values), -1.0)
    found = timed(values, times)
    if vectors is not None and len(found) > vectors:
        found = found[((np.arange(vectors) + 0.5) * len(found) / vectors).astype(int)]
    return found


SETTINGS = {
    "label": "video",
    "data": {
        "modalities": ["caption=caption:text", *(f"{m}={m}:vector" for m in EXPERTS)],
        "task": "retrieval",
        "inputs": {},
    },
    "encoders": {m: {"name": "expert", "timed": True} for m in EXPERTS},
    "fusion": {"name": "mmt", "query": "caption"},
    "optimizer": {"name": "adam", "lr": 5e-5, "weight_decay": 0.0},
}

DATASET = Dataset(
    read,
    {
        "jsfusion": Preset(
            "9000 videos to train, 1000 with one caption each to test (1k-A); counts from general knowledge",
            SETTINGS,
            published={"video": 10000, "test": 1000},
        ),
        "miech": Preset(
            "6656 videos to train, 1000 with their first caption to test (1k-B); counts from general knowledge",
            SETTINGS,
            {"split": "miech"},
            {"video": 7656, "test": 1000},
        ),
        "full": Preset(
            "6513 videos to train, 497 to validate, 2990 to test, all captions; counts from general knowledge",
            SETTINGS,
            {"split": "full"},
            {"video": 10000},
        ),
    },
    help="""\
MSRVTT: 10,000 short videos with 20 captions each (Xu et al. 2016), as features of seven experts (Gabeur et al. 2020).

Owner: the videos are Microsoft Research's; the features are those that MMT's authors (github.com/gabeur/mmt) link to.
Put into one folder ROOT:
  vid_feat_files/mult_h5/v/i/d/video0.h5, ...    features.<expert>, features_t.<expert>, raw_captions.<number>
  train_list_jsfusion.txt, val_list_jsfusion.txt, jsfusion_val_caption_idx.pkl    for msrvtt/jsfusion
  train_list_miech.txt, test_list_miech.txt                                       for msrvtt/miech
  train_list.txt, val_list.txt, test_list.txt                                     for msrvtt/full
The lists may lie in ROOT/symlinked-feats as well. The pickle is read without running anything.
The published model reads captions with BERT: --encoder caption=bert_base data.inputs.caption.max_length=30. Features lie in
memory, about half a megabyte a video; vectors=60 behind the preset keeps fewer.
Terms (from general knowledge; read the owner's own): for research; the videos belong to those who put them on YouTube.
""",
    group="video",
)
