"""Decoded samples in a folder, which runs may share."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from polymodal.data.inputs import Input
from polymodal.data.inputs.base import Decoded, resolve
from polymodal.data.media.files import places
from polymodal.errors import InputError

__all__ = ["Stored"]

LEARNT = ("mean", "std")


class Stored:
    """Decoded samples as .npy files, by the options they were decoded with, their cells, and size and time of their files.

    Any number of processes may write at once: a file is renamed when it is whole, and one that is damaged is not used.

    Args:
        folder: made where needed.

    Raises:
        InputError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made a folder ({error.strerror}); name another") from None

    def decode(self, input: Input, cells: tuple[Any, ...], root: Path) -> Decoded | None:
        """What `input.decode` gives, from the folder or written to it; only of files.

        Raises:
            InputError: the file is broken, or the folder cannot be written.
        """
        if not input.reads_files or cells[0] is None:
            return input.decode(cells, root)
        place = self._place(input, cells, root)
        with suppress(OSError, ValueError, EOFError):
            found: Decoded = np.load(place, allow_pickle=False)
            return found
        found = input.decode(cells, root)
        if isinstance(found, np.ndarray):
            self._write(place, found)
        return found

    def _place(self, input: Input, cells: tuple[Any, ...], root: Path) -> Path:
        # What is learnt from decoded samples has no part in how they are decoded.
        options = {name: value for name, value in input.state().items() if name not in LEARNT}
        told: list[Any] = [type(input).__name__, options, [str(cell) for cell in cells]]
        for path in places(resolve(cells[0], root)):
            with suppress(OSError):
                facts = path.stat()
                told.append([str(path.resolve()), facts.st_size, facts.st_mtime_ns])
        key = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:32]
        return self.folder / key[:2] / f"{key[2:]}.npy"

    def _write(self, place: Path, found: Any) -> None:
        temporary = None
        try:
            place.parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".", suffix=".tmp", delete=False) as file:
                temporary = file.name
                np.save(file, found)
            os.replace(temporary, place)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise InputError(f"cannot write {place} ({error.strerror}); make room or name another folder") from None
