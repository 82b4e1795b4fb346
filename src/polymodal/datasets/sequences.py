"""Feature sequences of speech, face and words in three forms: those of MulT, LMF and MMIN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.datasets.base import need
from polymodal.datasets.safe_files import load_pickle, open_hdf5, read_set
from polymodal.errors import InputError

__all__ = ["MODALITIES", "read_lmf", "read_mmin", "read_mult"]

MODALITIES = ("text", "audio", "vision")
MULT = {"train": "train", "valid": "valid", "test": "test"}
MMIN = {"train": "trn", "valid": "val", "test": "tst"}
LMF = {"text": b"glove", "audio": b"covarep", "vision": b"facet"}
Row = dict[str, Any]


def read_mult(root: Path, name: str, dataset: str) -> list[tuple[Row, NDArray[Any]]]:
    """Row and label array of each sample of a pickle {part: {text, audio, vision, labels, id}}.

    Each modality is (L, D); -inf in audio, the logarithm of silence, becomes 0.

    Raises:
        InputError: the pickle is missing, refused, or of another form.

    Source: Tsai et al. 2019 (MulT).
    """
    path = need(root, name, "MulT's pickle", dataset)
    found = _mapping(load_pickle(path), path, MULT)
    rows = []
    for part, key in MULT.items():
        arrays = _mapping(found[key], path, (*MODALITIES, "labels"), key)
        count = _count(arrays, (*MODALITIES, "labels"), path, key)
        ids = arrays.get("id")
        for i in range(count):
            row: Row = {"id": _id(ids, i, f"{key}-{i}")}
            for m in MODALITIES:
                values = np.asarray(arrays[m][i], dtype=np.float32)
                row[m] = np.where(np.isneginf(values), 0, values) if m == "audio" else values
            rows.append((row | {"split": part}, np.asarray(arrays["labels"][i])))
    return rows


def read_lmf(root: Path, name: str, dataset: str, within: str | None = None) -> list[tuple[Row, NDArray[Any]]]:
    """Row and label array of each sample of a pickle of Python 2 whose keys are bytes: {b"train": {b"covarep", ...}}.

    Audio and vision are single vectors (D,), text is (L, D); NaN becomes 0.

    Args:
        root, name, dataset: where the file is.
        within: key of the whole file under which the parts are, such as an emotion of IEMOCAP.

    Raises:
        InputError: the pickle is missing, refused, or of another form.

    Source: Liu et al. 2018 (LMF).
    """
    path = need(root, name, "LMF's pickle", dataset)
    found = load_pickle(path, encoding="bytes")
    if within is not None:
        found = _by_name(found, within, path)
    parts = {part: _by_name(found, key, path) for part, key in MULT.items()}
    rows = []
    for part, arrays in parts.items():
        held = {m: _by_name(arrays, key.decode(), path) for m, key in LMF.items()}
        held["labels"] = _by_name(arrays, "label", path)
        for i in range(_count(held, held, path, part)):
            row = {m: np.nan_to_num(np.asarray(held[m][i], np.float32), posinf=0, neginf=0) for m in LMF}
            rows.append(({"id": f"{part}-{i}", **row, "split": part}, np.asarray(held["labels"][i])))
    return rows


def read_mmin(root: Path, fold: int, dataset: str, longest: int = 350) -> list[tuple[Row, NDArray[Any]]]:
    """Row and label array of each utterance: `A/comparE.h5`, `V/denseface.h5`, `L/bert_large.h5`, `target/<fold>/`.

    Audio is scaled by the fold's mean and deviation and cut to `longest` steps.

    Raises:
        InputError: a file is missing or damaged, or lacks an utterance.

    Source: Zhao et al. 2021 (MMIN), as Wander's author uses it.
    """
    files = {
        "audio": "A/comparE.h5",
        "vision": "V/denseface.h5",
        "text": "L/bert_large.h5",
        "scale": "A/comparE_mean_std.h5",
    }
    paths = {m: need(root, name, "MMIN's features", dataset) for m, name in files.items()}
    rows = []
    with ExitStack() as opened:
        held = {m: opened.enter_context(open_hdf5(path)) for m, path in paths.items()}
        if str(fold) not in held["scale"]:
            raise InputError(f"{paths['scale']}: no fold {fold}; there are {', '.join(held['scale'])}")
        mean, std = (read_set(held["scale"][str(fold)], name) for name in ("mean", "std"))
        std = np.where(std == 0, 1, std)
        for part, short in MMIN.items():
            labels, names = (
                _load_npy(need(root, f"target/{fold}/{short}_{what}.npy", "MMIN's lists", dataset))
                for what in ("label", "int2name")
            )
            if len(labels) != len(names):
                raise InputError(
                    f"{root}/target/{fold}: {len(labels)} labels and {len(names)} names in the {part} part"
                )
            for i, label in enumerate(labels):
                name = _id(names, i, "")
                row: Row = {"id": name}
                for m in MODALITIES:
                    if name not in held[m]:
                        raise InputError(
                            f"{paths[m]}: no utterance {name!r}, which target/{fold}/{short}_int2name.npy names"
                        )
                    row[m] = read_set(held[m], name).astype(np.float32)
                row["audio"] = ((row["audio"] - mean) / std).astype(np.float32)[:longest]
                rows.append((row | {"split": part}, np.asarray(label)))
    return rows


def _load_npy(path: Path) -> NDArray[Any]:
    try:
        # Mapped first: a header that promises more than the file holds is refused before any memory is taken.
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # the header is a Python literal, and a damaged one fails in any way
        raise InputError(f"{path}: not a readable array ({str(error)[:100]}); write it without objects") from None


def _id(ids: Any, i: int, otherwise: str) -> str:
    """Name of a sample from bytes, text, or the columns of a row (MOSI has video and seconds in three)."""
    if ids is None:
        return otherwise
    cells = np.asarray(ids[i]).reshape(-1)
    return "_".join(one.decode() if isinstance(one, bytes) else str(one) for one in cells.tolist())


def _mapping(value: Any, path: Path, names: Sequence[str] | Mapping[str, str], inside: str = "") -> dict[str, Any]:
    missing = [name for name in names if not isinstance(value, dict) or name not in value]
    if missing:
        where = f" in {inside!r}" if inside else ""
        raise InputError(
            f"{path}: no {', '.join(map(repr, missing))}{where}; it is not of the form that is expected here"
        )
    return dict(value)


def _by_name(value: Any, name: str, path: Path) -> Any:
    for key in (name.encode(), name):
        if isinstance(value, dict) and key in value:
            return value[key]
    raise InputError(f"{path}: no key {name.encode()!r}; it is not of the form that is expected here")


def _count(arrays: Mapping[str, Any], names: Any, path: Path, part: str) -> int:
    counts = {name: len(arrays[name]) for name in names}
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError(f"{path}: sets of unequal length in {part!r}: {shown}")
    return next(iter(counts.values()))
