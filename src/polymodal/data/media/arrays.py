"""Arrays in .npy files: features and spectrograms that were computed beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polymodal.data.media.files import check_file
from polymodal.errors import InputError

__all__ = ["read_array"]


def read_array(path: Path) -> NDArray[np.float32]:
    """The numbers of a .npy file as float32, in the shape that it was saved in.

    Raises:
        InputError: the file is missing, empty or truncated, or holds anything but real numbers.
    """
    check_file(path)
    try:
        # Mapped first: a header that promises more than the file holds is refused before any memory is taken.
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header is a Python literal, and a damaged one fails in any way
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:120]
        raise InputError(f"{path}: not a readable .npy file of numbers, or truncated ({reason})") from None
    if not isinstance(stored, np.ndarray) or stored.dtype.kind not in "biuf":
        what = f"kind {stored.dtype}" if isinstance(stored, np.ndarray) else "an archive"
        raise InputError(f"{path}: expected one array of real numbers, and it is {what}")
    return np.array(stored, dtype=np.float32)
