"""What a file's name tells about its kind, the checks that every decoder starts with, and pieces of files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from polymodal.errors import InputError

__all__ = ["EXTENSIONS", "Piece", "check_file", "contents", "kind_of", "piece_of", "places"]

EXTENSIONS = {
    "image": frozenset(["png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm"]),
    "audio": frozenset(["wav", "mp3", "flac", "ogg", "oga", "m4a", "opus", "aac", "wma", "aif", "aiff"]),
    "video": frozenset(["mkv", "mp4", "avi", "flv", "mov", "webm", "m4v", "mpg", "mpeg", "wmv", "3gp", "ogv", "ts"]),
}

FRAGMENT = re.compile(r"(.+)#t=(\d+(?:\.\d+)?)?(?:,(\d+(?:\.\d+)?))?")
PAIR = "{u,v}"


class Piece(NamedTuple):
    """A file, or the part of it from `start` to `end` seconds; `end` None is the file's own end."""

    path: Path
    start: float = 0.0
    end: float | None = None


def kind_of(name: str) -> str | None:
    """Kind "image", "audio" or "video" by the extension of a path, None for any other text."""
    found = FRAGMENT.fullmatch(name.strip())
    name = found[1] if found else name
    extension = name.rsplit(".", 1)[-1].strip().lower() if "." in name else ""
    return next((kind for kind, known in EXTENSIONS.items() if extension in known), None)


def piece_of(path: Path) -> Piece:
    """The piece that a path ending in "#t=START,END" (seconds, as in a web address) names; else the whole file.

    Raises:
        InputError: the piece ends before it starts.

    Example:
        >>> piece_of(Path("clip.mp4#t=2,7.5"))[1:]
        (2.0, 7.5)
    """
    found = FRAGMENT.fullmatch(str(path))
    if found is None or (found[2] is None and found[3] is None) or path.exists():
        return Piece(path)
    start, end = float(found[2] or 0), None if found[3] is None else float(found[3])
    if end is not None and end <= start:
        raise InputError(f"{path}: the piece ends at {end:g} s, which is not after its start; write #t=START,END")
    return Piece(Path(found[1]), start, end)


def places(path: Path) -> list[Path]:
    """The files and folders that a path stands for: a piece's file, or both folders of "FLOW/{u,v}/CLIP"."""
    text = str(piece_of(path).path)
    return [Path(text.replace(PAIR, one)) for one in ("u", "v")] if PAIR in text else [Path(text)]


def contents(path: Path) -> bytes:
    """Bytes that are equal for equal contents: of a file, a piece of one, a folder of frames or a pair of folders."""
    piece = piece_of(path)
    found = [b"" if piece == Piece(path) else f"{piece.start} {piece.end}".encode()]
    for place in places(path):
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        found += [one.read_bytes() for one in files if one.is_file()]
    return b"".join(found)


def check_file(path: Path) -> Path:
    """The same path, if it is a file that holds at least one byte.

    Raises:
        InputError: there is no such file, it is a folder, or it is empty.
    """
    try:
        if path.stat().st_size and path.is_file():
            return path
    except (OSError, ValueError):  # ValueError: a null byte in the name
        raise InputError(f"{path}: no such file") from None
    raise InputError(f"{path}: is a folder" if path.is_dir() else f"{path}: the file is empty")
