"""Faces cut out of a clip, and features of them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polymodal.data.media.frames import find_frames, read_pictures
from polymodal.data.media.video import each_frame
from polymodal.datasets.extract import write_jpeg
from polymodal.datasets.flow import opencv
from polymodal.datasets.plan import Embed
from polymodal.errors import InputError

__all__ = ["Box", "crops", "features", "largest_face", "read_boxes"]

EDGE = 260
"""Pixels of a cut-out face: what EfficientNet-B2 was made for."""
CHUNK = 32
Box = tuple[int, int, int, int]


def crops(source: Path, target: Path, *, boxes: Mapping[int | None, Box]) -> None:
    """A folder with the face in every frame, `<index:05d>.jpg`, a square of 260 pixels.

    Without boxes the largest face that OpenCV's bundled detector (Viola-Jones, frontal faces) finds is taken. A frame without
    a box has that of the frame before; the frames before the first have the first.

    Args:
        source: clip.
        target: folder.
        boxes: (left, top, width, height) in pixels by frame, from 0, or by None for all frames; found where there are none.

    Raises:
        InputError: no face was found, or a box lies outside of the picture.

    Source: Viola and Jones 2001 (detector).
    """
    target.mkdir()
    cv2 = opencv()
    if not boxes:
        find = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
        boxes = {i: box for i, pixels in each_frame(source) if (box := largest_face(cv2, find, pixels)) is not None}
        if not boxes:
            raise InputError(f"{source}: no face was found in any of its frames; give boxes, --face-boxes FILE")
    box = boxes.get(None) or boxes[min(frame for frame in boxes if frame is not None)]
    for index, pixels in each_frame(source):
        box = boxes.get(index, box)
        write_jpeg(target / f"{index:05d}.jpg", _cut(cv2, pixels, box, source))


def largest_face(cv2: Any, find: Any, pixels: NDArray[np.uint8]) -> Box | None:
    """(left, top, width, height) in pixels of the largest face, None where there is none."""
    found = find.detectMultiScale(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), scaleFactor=1.1, minNeighbors=5)
    # By place where sizes are equal, so that the order of what is found does not matter.
    best = max(((int(w * h), -int(x), -int(y), int(w), int(h)) for x, y, w, h in found), default=None)
    return None if best is None else (-best[1], -best[2], best[3], best[4])


def features(source: Path, target: Path, *, embed: Embed) -> None:
    """A .npy (T, D) float32 of what `embed` makes of the (T, H, W, 3) faces of a folder."""
    found = find_frames(source)
    if found is None:
        raise InputError(f"{source}: no such folder of faces")
    size = range(0, len(found.files), CHUNK)
    parts = [embed(read_pictures(found, list(range(len(found.files)))[i : i + CHUNK], None, 3)) for i in size]
    with target.open("wb") as file:
        np.save(file, np.concatenate(parts).astype(np.float32))


def read_boxes(path: Path) -> dict[tuple[str, int | None], Box]:
    """Boxes by clip and frame from a CSV with the columns clip, left, top, width, height and, where they move, frame (from 0).

    Raises:
        InputError: the file is missing, or a line is no such box.
    """
    found: dict[tuple[str, int | None], Box] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := {"clip", "left", "top", "width", "height"} - set(reader.fieldnames or ()):
                raise InputError(f"{path}: no column {', '.join(sorted(missing))} in its header")
            for line in reader:
                try:
                    frame = int(line["frame"]) if line.get("frame") else None
                    box = int(line["left"]), int(line["top"]), int(line["width"]), int(line["height"])
                except (TypeError, ValueError):
                    raise InputError(f"{path}, line {reader.line_num}: boxes are whole numbers of pixels") from None
                if min(box[:2]) < 0 or min(box[2:]) < 1:
                    raise InputError(f"{path}, line {reader.line_num}: {box} lies outside of any picture")
                found[line["clip"], frame] = box
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of boxes") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV of boxes ({error})") from None
    if not found:
        raise InputError(f"{path}: no box in it")
    return found


def _cut(cv2: Any, pixels: NDArray[np.uint8], box: Box, source: Path) -> NDArray[np.uint8]:
    """The square around a box, moved into the picture where it would stick out, and no larger than that."""
    left, top, width, height = box
    rows, columns = pixels.shape[:2]
    if left + width > columns or top + height > rows:
        raise InputError(f"{source}: the box {box} lies outside of its pictures of {columns} x {rows} pixels")
    side = min(max(width, height), rows, columns)
    x = min(max(left + width // 2 - side // 2, 0), columns - side)
    y = min(max(top + height // 2 - side // 2, 0), rows - side)
    face = np.ascontiguousarray(pixels[y : y + side, x : x + side])
    cut: NDArray[np.uint8] = cv2.resize(face, (EDGE, EDGE), interpolation=cv2.INTER_AREA)
    return cut
