"""Units of work that any number of processes, on machines that share a folder, do once each."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from polymodal.errors import InputError
from polymodal.run import write_atomically

__all__ = ["Claim", "Claims"]

KEY = re.compile(r"\w[\w.-]{0,199}")
Result = dict[str, Any]


class Claims:
    """The units of one folder: `done/<key>.json` of each that is finished, `claims/<key>.<n>` of each that is being done.

    The n-th worker to take a unit creates `<key>.<n>`, and only where `<key>.<n-1>` belongs to a worker that is dead or gave
    up. Such a name is created once, by one worker (O_EXCL, which NFS keeps from version 3 on), and never used again before the
    unit is finished: so a takeover has one winner, and who comes too late never removes what a living worker holds.

    Args:
        folder: shared by all workers; made where it is missing.
        stale: seconds without a sign of life after which a worker counts as dead; it gives one four times as often.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, *, stale: float = 60.0) -> None:
        self.folder, self.stale = Path(folder), stale
        self._claims, self._done = self.folder / "claims", self.folder / "done"
        self._clock = self._claims / f".clock.{secrets.token_hex(8)}"
        with _writing(self.folder):
            self._claims.mkdir(parents=True, exist_ok=True)
            self._done.mkdir(parents=True, exist_ok=True)

    def result(self, key: str) -> Result | None:
        """What a finished unit yielded; None of any other.

        Raises:
            InputError: its file was damaged.
        """
        place = self._done / f"{_checked(key)}.json"
        try:
            found: Result = json.loads(place.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(f"{place} is not whole JSON ({error}); delete it to do that unit again") from error
        return found

    def take(self, key: str) -> Claim | None:
        """The right to do a unit; None where it is finished, or held by a worker that is alive.

        Raises:
            InputError: the folder cannot be written, or is full.
        """
        if self.result(key) is not None:
            return None
        number = 0
        while (claim := self._create(key, number)) is None:
            if not self._place(key, number + 1).exists() and not self._dead(self._place(key, number)):
                return None
            number += 1
        if f"{key}.json" in os.listdir(
            self._done
        ):  # finished since; a list is fresh where NFS remembers an absent name
            claim.drop()
            return None
        return claim

    def work(
        self,
        keys: Sequence[str],
        do: Callable[[str], Result],
        *,
        found: Callable[[str, Result], None] | None = None,
    ) -> dict[str, Result]:
        """The results of all these units: does those that are free, and waits for what others do, or takes it over.

        Args:
            keys: names of the units, which may be part of a file's name: fingerprints.
            do: does a unit; its result becomes JSON.
            found: called once with each unit's result, whoever did it.

        Raises:
            InputError: after all other units, the messages of those whose `do` raised one here and that nobody finished.
        """
        results: dict[str, Result] = {}
        failed: dict[str, str] = {}
        waiting = list(dict.fromkeys(keys))
        while waiting:
            left = [key for key in waiting if not self._advance(key, do, results, failed, found)]
            if len(left) == len(waiting):
                time.sleep(min(1.0, self.stale / 20))
            waiting = left
        for key in failed:
            if (late := self.result(key)) is not None:
                _note(key, late, results, found)
        problems = {key: message for key, message in failed.items() if key not in results}
        if problems:
            alike = {one: [key for key, message in problems.items() if message == one] for one in problems.values()}
            told = "; ".join(f"{', '.join(several)}: {message}" for message, several in alike.items())
            raise InputError(f"{len(problems)} of {len(set(keys))} units failed: {told}")
        return {key: results[key] for key in keys}

    def _advance(
        self,
        key: str,
        do: Callable[[str], Result],
        results: dict[str, Result],
        failed: dict[str, str],
        found: Callable[[str, Result], None] | None,
    ) -> bool:
        """Whether nothing is left to do for a unit, after doing it where it is free."""
        result = self.result(key)
        if result is None:
            claim = self.take(key)
            if claim is None:
                return False
            with claim:
                try:
                    result = do(key)
                except InputError as error:
                    if not claim.held():  # perhaps because another worker writes to the same place by now
                        return False
                    failed[key] = str(error)
                    return True
                if not claim.finish(result):
                    return False
        _note(key, result, results, found)
        return True

    def _place(self, key: str, number: int) -> Path:
        return self._claims / f"{key}.{number}"

    def _create(self, key: str, number: int) -> Claim | None:
        """The claim of that name; None where the name is taken."""
        place, token = self._place(key, number), secrets.token_hex(16)
        with _writing(place):
            try:
                file = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except FileExistsError:
                return None
            try:
                pid = os.getpid()
                who = {"token": token, "host": _host(), "pid": pid, "process": _birth(pid), "started": time.time()}
                text = json.dumps(who).encode()
                if os.write(file, text) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                _leave(place)
                raise
            finally:
                os.close(file)
        return Claim(self, key, number, token)

    def _dead(self, place: Path) -> bool:
        """Whether nobody holds that claim any more."""
        try:
            # Opened anew, so that NFS asks its server for the age as well.
            with place.open(encoding="utf-8") as file:
                text, touched = file.read(), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return True
        if self._now() - touched > self.stale:
            return True
        try:
            who = json.loads(text)
        except ValueError:  # created this moment
            return False
        return bool(who["host"] == _host() and _gone(who["pid"], who["process"]))

    def _now(self) -> float:
        """The time of the file system, as machines' clocks differ."""
        with _writing(self._claims):
            try:
                self._clock.touch()
                return self._clock.stat().st_mtime
            finally:
                self._clock.unlink(missing_ok=True)


class Claim:
    """The right to do one unit; as a context manager it is given up when the block ends without `finish`."""

    def __init__(self, claims: Claims, key: str, number: int, token: str) -> None:
        self.key, self.token = key, token
        self._claims, self._number = claims, number
        self._place = claims._place(key, number)
        self._over = threading.Event()
        self._pulse = threading.Thread(target=self._live, name=f"claim of {key}", daemon=True)
        self._pulse.start()

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._over.is_set():
            self._stop()
            with contextlib.suppress(OSError):
                if self.held():
                    _leave(self._place)

    def held(self) -> bool:
        """Whether this worker still has the right: nobody took it over while it slept."""
        try:
            mine = json.loads(self._place.read_text(encoding="utf-8"))["token"] == self.token
        except (FileNotFoundError, ValueError):
            return False
        return mine and not self._claims._place(self.key, self._number + 1).exists()

    def finish(self, result: Result) -> bool:
        """Write the unit's result and drop the claim.

        Returns:
            False where another worker took the unit over; what that one wrote, or will write, stands.

        Raises:
            InputError: the result cannot be written; the claim is given up.
        """
        done = self._claims._done / f"{self.key}.json"
        try:
            with write_atomically(done) as temporary:
                temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
                if not self.held() or done.exists():
                    raise _TakenOver
        except _TakenOver:
            self._stop()
            return False
        self.drop()
        return True

    def drop(self) -> None:
        """Remove the claims of a finished unit."""
        self._stop()
        for number in range(self._number, -1, -1):
            self._claims._place(self.key, number).unlink(missing_ok=True)

    def _stop(self) -> None:
        self._over.set()
        self._pulse.join()

    def _live(self) -> None:
        while not self._over.wait(self._claims.stale / 4):
            with contextlib.suppress(OSError):  # a server that is away for a while is no reason to stop the work
                if not self.held():
                    return
                os.utime(self._place)


class _TakenOver(Exception):
    """Ends the writing of a result that is no longer wanted."""


def _note(key: str, result: Result, results: dict[str, Result], found: Callable[[str, Result], None] | None) -> None:
    results[key] = result
    if found is not None:
        found(key, result)


def _leave(place: Path) -> None:
    """Mark a claim as given up: it looks old, and its name stays used."""
    with contextlib.suppress(OSError):
        os.utime(place, (0, 0))


def _checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise InputError(
            f"unit {key!r}: a name of up to 200 letters, digits, dots and hyphens is needed, such as a hash"
        )
    return key


@contextlib.contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot write {place}: {error.strerror or error}; make room there or name another folder"
        ) from error


@cache
def _host() -> str:
    """The machine since it was started, and the container: where a process number means one process."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # what follows is Linux's own
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _birth(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where the system does not tell, or it is a zombie."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in "ZX" else rest[18]


def _gone(pid: int, birth: str) -> bool:
    """Whether a process of this host has ended, whoever has its number now."""
    if birth:
        return _birth(pid) != birth
    if os.name != "posix":  # elsewhere signal 0 is one that ends processes
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
