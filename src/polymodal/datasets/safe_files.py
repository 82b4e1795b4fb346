"""Pickles and archives from strangers: what is in them is data, and nothing in them is run or written elsewhere."""

from __future__ import annotations

import io
import math
import pickle
import re
import shutil
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from polymodal.errors import InputError

__all__ = ["load_pickle", "open_hdf5", "read_set", "unpack"]

KIND = re.compile(r"[?biufcSUO]\d{0,6}")


def load_pickle(path: Path, encoding: str = "latin1") -> Any:
    """What a pickle of NumPy arrays, numbers, texts, lists, tuples, sets and dictionaries holds.

    Classes and functions are not looked up by name: a few names stand for the few functions that NumPy and Python write for
    arrays and bytes, and any other is refused, so that nothing of a stranger's choice is ever called.

    Args:
        path: the pickle.
        encoding: of the texts of Python 2; "bytes" leaves them bytes.

    Raises:
        InputError: the file is missing, damaged, or asks for anything else.
    """
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), encoding=encoding).load()
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except Exception as error:  # a damaged pickle raises anything
        reason = f"{type(error).__name__}: {error}"[:120]
        raise InputError(f"{path}: not a readable pickle of arrays ({reason}); fetch it again") from None


_Base: Any = pickle._Unpickler


class _Unpickler(_Base):  # type: ignore[misc]
    """Python's own loader rather than the one in C, which takes memory for whatever number a damaged pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module).replace("numpy.core", "numpy._core")
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        raise InputError(
            f"the pickle asks for {module}.{name}, which is no array, number or text; do not trust this file"
        )

    def persistent_load(self, pid: Any) -> Any:
        raise InputError("the pickle refers to objects outside of itself; do not trust this file")

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], (_Array, _Kind)):
            raise InputError("the pickle fills something that is no array; do not trust this file")
        self.stack[-1].__setstate__(state)

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(min(size, sys.maxsize))))

    dispatch = _Base.dispatch | {
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


class _Kind:
    """What stands for a NumPy dtype while loading: NumPy believes whatever a pickle tells of one, and may crash of it."""

    def __init__(self, code: Any, *rest: Any) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else str(code)
        if not KIND.fullmatch(text):
            raise InputError(f"the pickle holds an array of kind {text[:20]!r}, not of numbers or text")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if any(part is not None for part in state[2:5]) or order not in ("<", ">", "|", "="):
            raise InputError("the pickle holds an array of records, not of numbers or text")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray[Any, Any]):
    """An array that looks at its contents before it takes them from a pickle."""

    def __setstate__(self, state: Any) -> None:
        shape, kind, fortran, raw = state[-4:]
        dtype = kind.dtype
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        count = math.prod(shape)
        if min(shape, default=1) < 0 or not isinstance(raw, list if dtype.hasobject else (bytes, bytearray)):
            raise InputError("the pickle holds a damaged array")
        if len(raw) != count * (1 if dtype.hasobject else dtype.itemsize):
            raise InputError("the pickle holds an array without its contents")
        checked: Any = (1, shape, dtype, bool(fortran), raw)
        super().__setstate__(checked)


def _empty_array(kind: Any, shape: Any, code: Any) -> _Array:
    # NumPy always writes the shape (0,) and fills in the rest; another could ask for any amount of memory.
    if shape != (0,):
        raise InputError("the pickle asks for an array without contents; do not trust this file")
    return np.ndarray.__new__(_Array, (0,), dtype="b")


def _scalar(kind: Any, data: Any = None) -> Any:
    if not isinstance(kind, _Kind) or kind.dtype.hasobject:
        raise InputError("the pickle holds a number of an unknown kind; do not trust this file")
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype=kind.dtype, count=1)[0]


def _from_buffer(data: Any, kind: _Kind, shape: Any, order: str, *rest: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(data, dtype=kind.dtype).reshape(shape, order="F" if order == "F" else "C")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8"):
        raise InputError(f"the pickle asks for the encoding {encoding!r}; do not trust this file")
    return text.encode(encoding)


def _made(kind: Callable[..., Any]) -> Callable[..., Any]:
    def make(*values: Any) -> Any:
        if any(isinstance(value, int) for value in values):  # bytes(10**12) would take that much memory
            raise InputError(f"the pickle asks for {kind.__name__} of a size; do not trust this file")
        return kind(*values)

    return make


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("numpy", "dtype"): _Kind,
    ("numpy", "ndarray"): "ndarray",  # an argument of _reconstruct, never called
    ("_codecs", "encode"): _encode,
    ("builtins", "complex"): complex,
}
ALLOWED |= {("builtins", kind.__name__): _made(kind) for kind in (set, frozenset, bytes, bytearray)}


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file; what fails of it inside of the block is told as the file's damage.

    Raises:
        InputError: the file is missing or damaged.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except Exception as error:  # the library raises OSError, KeyError, RuntimeError and others on a damaged file
        raise InputError(f"{path}: not a readable HDF5 file ({str(error)[:100]}); fetch it again") from None


def read_set(file: Any, name: str) -> NDArray[Any]:
    """The numbers of a data set in an open HDF5 file.

    Raises:
        InputError: it is not there, or would take more memory than a file of this size can mean.
    """
    found = file.get(name)
    path = file.file.filename
    if found is None or not hasattr(found, "nbytes"):
        raise InputError(f"{path}: no data set {name!r}; fetch the owner's file again")
    # Numbers that are not stored count as zeros, so that a damaged shape may ask for any amount.
    if found.nbytes > max(2**26, 1000 * Path(path).stat().st_size):
        raise InputError(f"{path}: {name!r} would take {found.nbytes} bytes, far more than is stored; fetch it again")
    return np.asarray(found[()])


class _Member(NamedTuple):
    name: str
    folder: bool
    plain: bool
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, folder: Path, limit: int = 2**40) -> int:
    """Unpack a .zip or .tar (also compressed) into a folder; the number of files.

    All names are looked at before anything is written.

    Args:
        archive: the file.
        folder: where to; made where needed.
        limit: bytes in all, as the archive itself says.

    Raises:
        InputError: the archive is damaged or too large, or has a member that would lie outside of the folder, is a link or a
            device, or would replace a file that is there.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                return _write(archive, list(_zip_members(zipped)), folder, limit)
        with tarfile.open(archive) as tar:
            return _write(archive, list(_tar_members(tar)), folder, limit)
    except FileNotFoundError:
        raise InputError(f"{archive}: no such file") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(f"{archive}: not a readable archive, or truncated ({str(error)[:100]})") from None


def _zip_members(archive: zipfile.ZipFile) -> Iterator[_Member]:
    for one in archive.infolist():
        link = (one.external_attr >> 16) & 0o170000 == 0o120000
        yield _Member(one.filename, one.is_dir(), not link, one.file_size, partial(archive.open, one))


def _tar_members(archive: tarfile.TarFile) -> Iterator[_Member]:
    for one in archive.getmembers():
        yield _Member(
            one.name,
            one.isdir(),
            one.isfile() or one.isdir(),
            one.size,
            partial(_contents, archive, one),
        )


def _contents(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    return archive.extractfile(member) or io.BytesIO()


def _write(archive: Path, members: list[_Member], folder: Path, limit: int) -> int:
    size = sum(one.size for one in members)
    if size > limit:
        raise InputError(f"{archive}: {size} bytes when unpacked, above the limit of {limit}; nothing was written")
    for one in members:
        name = PurePosixPath(one.name.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or ":" in one.name.partition("/")[0] or not one.plain:
            what = "would lie outside of the folder" if one.plain else "is a link or a device"
            raise InputError(
                f"{archive}: its member {one.name!r} {what}; nothing was written, do not trust this archive"
            )
        if not one.folder and (folder / name).exists():
            raise InputError(
                f"{archive}: {folder / name} is there already; nothing was written, choose an empty folder"
            )
    count = 0
    for one in members:
        target = folder / one.name.replace("\\", "/")
        (target if one.folder else target.parent).mkdir(parents=True, exist_ok=True)
        if not one.folder:
            with one.open() as source, target.open("xb") as out:
                shutil.copyfileobj(source, out)
            count += 1
    return count
