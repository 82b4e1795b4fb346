"""A run's folder: everything is written to a temporary file first and renamed, so that no reader sees half of it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import InputError

__all__ = ["RunFolder", "load_weights", "logger", "notes_in_files_only", "save_weights", "write_atomically"]

logger = logging.getLogger("polymodal")


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its place when the block ends well and vanishes otherwise.

    Raises:
        InputError: the place cannot be written, or the disk is full; what was there before is as it was.
    """
    # A process number alone is not one process where machines share a folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except Exception as error:
        # torch and safetensors have errors of their own for a full disk.
        full = "No space left" in str(error) or (path.parent.is_dir() and shutil.disk_usage(path.parent).free < 2**16)
        if isinstance(error, OSError) or full:
            reason = getattr(error, "strerror", None) or ("the disk is full" if full else str(error))
            before = "; what was there before is kept" if path.exists() else ""
            raise InputError(f"cannot write {path}: {reason}{before}; make room or name another place") from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def notes_in_files_only() -> Iterator[None]:
    """What each run infers from the table is the same every time: it goes to the runs' logs, not to the screen."""
    handlers = list(logger.handlers)

    def plain(record: logging.LogRecord) -> bool:
        return not getattr(record, "note", False)

    for handler in handlers:
        handler.addFilter(plain)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(plain)


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors; the same tensors always give the same bytes."""
    from safetensors.torch import save_file

    with write_atomically(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, temporary)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors that `save_weights` wrote; never unpickles.

    Raises:
        InputError: no such file, or not a whole safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise InputError(f"{path}: no such file; was the run finished?")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is truncated or no safetensors file ({error}); train the run again") from error


class RunFolder:
    """The files of one run or of one stage of it.

    Args:
        path: the folder.
        resume: go on with what is there; otherwise the folder must be new or empty.

    Raises:
        InputError: the folder holds something already.
    """

    def __init__(self, path: str | Path, *, resume: bool = False) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"run folder {self.path} is a file; name another with --out")
        if not resume and self.path.exists() and any(self.path.iterdir()):
            raise InputError(
                f"run folder {self.path} exists and is not empty; name another with --out, or go on with --resume {self.path}"
            )
        self.resume = resume

    def sweep(self) -> None:
        """Remove what a killed attempt had half written."""
        for half in list(self.path.rglob(".*.tmp")):
            if half.is_dir():
                shutil.rmtree(half, ignore_errors=True)
            else:
                half.unlink(missing_ok=True)

    def withdraw(self) -> None:
        """Remove the folder of a run that failed before its first stage had anything to keep."""
        if not (self.path / "stages").exists():
            for name in ("config.yaml", "data.json", "log.txt"):
                (self.path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # somebody's own files lie there
                self.path.rmdir()

    def stage(self, name: str) -> RunFolder:
        """The folder of one stage of a recipe."""
        return RunFolder(self.path / "stages" / name, resume=True)

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file."""
        path = self.path / name
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return path

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file."""
        return self.write_text(name, json.dumps(value, indent=2, allow_nan=True) + "\n")

    def read_json(self, name: str) -> Any:
        """Read a JSON file that must be there."""
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; is {self.path} the folder of a finished run?") from None
        except json.JSONDecodeError as error:
            raise InputError(f"{path} is not whole JSON ({error}); train the run again") from error

    def has(self, name: str) -> bool:
        """Whether the run has that file."""
        return (self.path / name).is_file()

    def write_history(self, rows: list[dict[str, Any]]) -> Path:
        """One line an epoch."""
        return self.write_text("history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace the exact resume point; the previous one stays good until this one is whole."""
        with write_atomically(self.path / "checkpoint" / "last.pt") as temporary:
            torch.save(state, temporary)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The resume point, or None where there is none.

        Raises:
            InputError: the file is truncated or holds anything but tensors and plain values.
        """
        path = self.path / "checkpoint" / "last.pt"
        if not path.is_file():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises half a dozen kinds for a file that is cut or foreign
            raise InputError(
                f"checkpoint {path} cannot be read ({type(error).__name__}); delete it to train this stage from its start"
            ) from error
        if not isinstance(state, dict):
            raise InputError(f"checkpoint {path} holds a {type(state).__name__}, not a resume point; delete it")
        return state

    def drop_checkpoint(self) -> None:
        """Remove the resume point of a finished stage."""
        shutil.rmtree(self.path / "checkpoint", ignore_errors=True)

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Copy the library's log to log.txt while the block runs."""
        self.path.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(self.path / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            with contextlib.suppress(OSError):
                handler.close()


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A disk that is full must not fill the terminal too."""
