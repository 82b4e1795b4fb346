"""`polymodal data prepare`: what is extracted from a data set's files once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from polymodal.cli.printing import say
from polymodal.errors import InputError

__all__ = ["face_features", "prepare"]


def prepare(
    dataset: str,
    root: Path,
    out: Path,
    *,
    sound: Literal["wav", "spectrogram"] = "wav",
    faces: Annotated[bool, Parameter(negative=())] = False,
    face_boxes: Path | None = None,
    face_weights: Path | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    workers: int | None = None,
) -> None:
    """Extract what a preset needs, once: frames, sound or spectrograms, flow, faces; then name OUT in the place of ROOT.

    Run the same command again after a kill: what is finished is kept, and nothing half-written is ever used. Broken files are
    listed by row, and the exit code is 2 unless they are skipped.

    Parameters
    ----------
    dataset:
        DATASET or DATASET/PRESET; see `polymodal list datasets`.
    root:
        Folder that holds the data set as its owner distributes it; it is only read.
    out:
        New or empty folder, or the one of a command that was stopped.
    sound:
        Keep sounds as WAV, or as the spectrograms that the preset computes.
    faces:
        Cut out faces (cremad), found by OpenCV's bundled detector.
    face_boxes:
        CSV of boxes to cut out instead: clip, left, top, width, height in pixels, and frame where they move.
    face_weights:
        File of EfficientNet-B2's weights; its features of the faces are kept as well.
    on_error:
        What broken files do when everything else is done: raise, or skip to report them and no more.
    workers:
        Threads; one a processor by default, 0 for none.
    """
    from polymodal.datasets import find, parse
    from polymodal.datasets.faces import read_boxes
    from polymodal.datasets.plan import Wanted
    from polymodal.datasets.prepare import prepare as run

    find(dataset.partition("/")[0].partition(",")[0])
    named = parse(f"{dataset}:{root}")
    if named is None:
        raise InputError(f"{dataset}: expected DATASET or DATASET/PRESET; see `polymodal list datasets`")
    faces = faces or face_boxes is not None or face_weights is not None
    if faces and named.name != "cremad":
        raise InputError(f"--faces: no preset of {named.name} uses faces; cremad/conformer does")
    wanted = Wanted(sound, faces=faces, boxes={} if face_boxes is None else read_boxes(face_boxes))
    if face_weights is not None:
        wanted = replace(wanted, embed=face_features(face_weights), weights=_digest(face_weights))
    done = run(named, out, wanted, on_error=on_error, workers=workers)
    if done.broken:
        say(f"{len(done.broken)} cells could not be prepared")
    print(json.dumps(done.to_dict(), indent=2))


def _digest(file: Path) -> str:
    import hashlib

    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def face_features(weights: Path) -> Any:
    """(T, H, W, 3) uint8 faces to (T, 1408) features of EfficientNet-B2."""
    import threading

    import torch

    from polymodal.datasets.base import IMAGENET
    from polymodal.encoders import EfficientNet

    net, alone = EfficientNet("efficientnet_b2", weights=weights).eval(), threading.Lock()
    mean, std = (torch.tensor(IMAGENET[name])[:, None, None] * 255 for name in ("mean", "std"))

    def embed(faces: Any) -> Any:
        # One clip at a time: torch's own threads do the rest, and numbers do not depend on who runs beside.
        with alone, torch.inference_mode():
            return net((torch.from_numpy(faces).movedim(-1, 1) - mean) / std).pooled.numpy()

    return embed
