"""What a file's name tells about its kind, and the checks that every decoder starts with."""

from __future__ import annotations

from pathlib import Path

from polymodal.errors import InputError

__all__ = ["EXTENSIONS", "check_file", "kind_of"]

EXTENSIONS = {
    "image": frozenset(["png", "jpg", "jpeg", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm"]),
    "audio": frozenset(["wav", "mp3", "flac", "ogg", "oga", "m4a", "opus", "aac", "wma", "aif", "aiff"]),
    "video": frozenset(["mkv", "mp4", "avi", "flv", "mov", "webm", "m4v", "mpg", "mpeg", "wmv", "3gp", "ogv", "ts"]),
}


def kind_of(name: str) -> str | None:
    """Kind "image", "audio" or "video" by the extension of a path, None for any other text."""
    extension = name.rsplit(".", 1)[-1].strip().lower() if "." in name else ""
    return next((kind for kind, known in EXTENSIONS.items() if extension in known), None)


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
