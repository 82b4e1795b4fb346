"""MSRVTT in miniature: videos of a subject, a deed and a place, in captions and in the features of seven experts."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SUBJECTS = ("dog", "woman", "child", "robot", "cat", "horse")
DEEDS = ("runs", "sings", "sleeps", "paints", "cooks", "dances")
PLACES = ("park", "kitchen", "desert", "harbour", "street", "forest")
EXPERTS = {"face": 512, "ocr": 300, "rgb": 2048, "s3d": 1024, "scene": 2208, "speech": 300, "vggish": 128}
TELLS = {"rgb": (0,), "face": (0,), "s3d": (1,), "vggish": (1,), "scene": (2,), "ocr": (2,), "speech": (0, 1, 2)}
"""Which of subject, deed and place an expert sees."""
SIZES = {"train": 26, "valid": 6, "test": 12}
CAPTIONS = 3
Code = tuple[int, int, int]


def write(root: Path, random: np.random.Generator, sizes: Mapping[str, int] = SIZES, words: int = 4) -> None:
    """Files of features, and the lists of three splits, with the lines of a spreadsheet in one of them.

    A missing expert is no set at all (speech), an empty one (ocr), or one whose first number is none (face). rgb and scene have
    no times, of s3d there are fewer times than vectors. One video has a caption less, one caption is a question. Of the
    spoken words some vectors have no time.

    Args:
        root, random: as of every miniature.
        sizes: videos of each part, `words` to the third at most in all.
        words: subjects, deeds and places each, six at most.
    """
    combinations = list(product(range(words), repeat=3))
    chosen = random.permutation(len(combinations))[: sum(sizes.values())]
    names = [f"video{i}" for i in random.permutation(900)[: len(chosen)]]
    looks = {m: random.standard_normal((3, words, width)) for m, width in EXPERTS.items()}
    for number, (name, one) in enumerate(zip(names, chosen, strict=True)):
        first, second, third = combinations[one]
        _write_video(root, name, (first, second, third), number, looks, random)
    train, valid, test = np.split(np.array(names), np.cumsum(list(sizes.values()))[:-1])
    lists = root / "symlinked-feats"
    lists.mkdir()
    both = np.concatenate([train, valid])
    for file, found in (
        ("train_list_jsfusion.txt", both), ("val_list_jsfusion.txt", test), ("train_list_miech.txt", train),
        ("test_list_miech.txt", test), ("train_list.txt", train), ("val_list.txt", valid), ("test_list.txt", test),
    ):  # fmt: skip
        end = "\r\n" if file == "val_list_jsfusion.txt" else "\n"
        (lists / file).write_bytes("".join(f"{one}{end}" for one in found).encode())
    indices = {str(name): int(random.integers(1, CAPTIONS)) for name in test}
    (lists / "jsfusion_val_caption_idx.pkl").write_bytes(pickle.dumps(indices, protocol=2))


def caption(code: Code, number: int) -> str:
    """One of three ways to tell a subject, a deed and a place."""
    subject, deed, place = SUBJECTS[code[0]], DEEDS[code[1]], PLACES[code[2]]
    ways = (
        f"a {subject} {deed} in the {place}",
        f"in a {place} some {subject} {deed}",
        f"the {subject} {deed} {place}",
    )
    return ways[number % len(ways)]


def _write_video(
    root: Path,
    name: str,
    code: Code,
    number: int,
    looks: dict[str, NDArray[np.float64]],
    random: np.random.Generator,
) -> None:
    import h5py

    path = root.joinpath("vid_feat_files", "mult_h5", *name[:3], f"{name}.h5")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for i in range(CAPTIONS - (number == 1)):
            words = caption(code, i).split()
            if number == 2 and i == 0:
                words[-1] += "?"
            file[f"raw_captions.{i}"] = np.array([one.encode() for one in words])
            file[f"raw_captions_t.{i}"] = np.zeros((len(words), 2))
        for m, width in EXPERTS.items():
            if m == "speech" and number % 3:
                continue
            count = 0 if m == "ocr" and number % 4 == 1 else int(random.integers(2, 6))
            values = 0.5 * random.standard_normal((count, width)) + sum(looks[m][k, code[k]] for k in TELLS[m])
            if m == "face" and number % 5 == 2:
                values = np.full((1, width), np.nan)
            file[f"features.{m}"] = values.astype(np.float32)
            if m not in ("rgb", "scene"):
                times = np.arange(len(values))[:, None] + np.array([[0.0, 1.0]])
                times = times[:-1] if m == "s3d" else times
                file[f"features_t.{m}"] = np.where(m == "speech", np.nan, times)
