import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from polymodal.errors import InputError
from polymodal.experiment import claims as module
from polymodal.experiment.claims import Claim, Claims
from tests.experiment import processes

ELSEWHERE = "another machine"


def held(folder: Path, key: str, *, age: float = 0.0, **who: Any) -> Path:
    """A claim that somebody else left."""
    Claims(folder)
    place = folder / "claims" / f"{key}.0"
    known = {"token": "theirs", "host": ELSEWHERE, "pid": 1, "process": "1", "started": 0.0}
    place.write_text(json.dumps(known | who))
    os.utime(place, (time.time() - age, time.time() - age))
    return place


def taken(claims: Claims, key: str = "a") -> Claim:
    claim = claims.take(key)
    assert claim is not None
    return claim


def version(file: Path) -> tuple[int, int, str]:
    """Which writing of a file this is; reading it changes its time of access alone."""
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, file.read_text()


def nothing(key: str) -> dict[str, Any]:
    raise AssertionError(f"{key} was done already")


def test_a_unit_is_done_once(tmp_path: Path) -> None:
    claims, others = Claims(tmp_path), Claims(tmp_path)
    with taken(claims) as claim:
        assert others.take("a") is None
        assert others.result("a") is None
        assert others.take("b") is not None
        assert claim.finish({"x": 0.1})
    assert others.take("a") is None
    assert others.result("a") == {"x": 0.1} == json.loads((tmp_path / "done" / "a.json").read_text())
    assert others.work(["a"], nothing) == {"a": {"x": 0.1}}
    assert [file.name for file in (tmp_path / "claims").iterdir()] == ["b.0"]


def test_given_up_when_the_block_ends_without_a_result(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with pytest.raises(KeyboardInterrupt), taken(claims):
        raise KeyboardInterrupt
    with taken(claims) as claim:
        assert claim.finish({})
    assert list((tmp_path / "claims").iterdir()) == []


def test_work_tells_each_result_once_and_repeats_keys(tmp_path: Path) -> None:
    told: list[str] = []
    claims = Claims(tmp_path)
    assert claims.work(["b", "a", "b"], lambda key: {"key": key}, found=lambda key, _: told.append(key)) == {
        "b": {"key": "b"},
        "a": {"key": "a"},
    }
    assert told == ["b", "a"]


def test_a_unit_that_fails_stops_no_other(tmp_path: Path) -> None:
    done: list[str] = []

    def do(key: str) -> dict[str, Any]:
        if key in "bde":
            raise InputError("no file" if key == "d" else "no table")
        done.append(key)
        return {}

    claims = Claims(tmp_path)
    with pytest.raises(InputError, match="3 of 5 units failed: b, e: no table; d: no file"):
        claims.work(list("abcde"), do)
    assert done == ["a", "c"]
    assert set(claims.work(list("abcde"), lambda key: {})) == set("abcde")


def test_the_age_of_a_claim_is_the_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held(tmp_path, "fresh")
    held(tmp_path, "old", age=61)
    monkeypatch.setattr(time, "time", lambda: 4e9)  # this machine's clock is wrong
    assert Claims(tmp_path).take("fresh") is None
    assert Claims(tmp_path, stale=120).take("old") is None
    assert Claims(tmp_path).take("old") is not None


def test_a_process_of_this_host_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    zombie = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    born, own = module._birth(zombie.pid), module._birth(os.getpid())
    held(tmp_path, "alive", host=module._host(), pid=zombie.pid, process=born)
    assert Claims(tmp_path).take("alive") is None
    zombie.kill()
    while module._birth(zombie.pid):
        time.sleep(0.005)
    assert Claims(tmp_path).take("alive") is not None, "dead, though nobody has waited for it"
    zombie.wait()
    assert zombie.stdin is not None
    zombie.stdin.close()
    held(tmp_path, "gone", host=module._host(), pid=zombie.pid, process="")
    assert Claims(tmp_path).take("gone") is not None
    held(tmp_path, "reused", host=module._host(), pid=os.getpid(), process=own + "0")
    assert Claims(tmp_path).take("reused") is not None
    held(tmp_path, "elsewhere", pid=zombie.pid, process=born)
    assert Claims(tmp_path).take("elsewhere") is None


def test_a_held_claim_stays_young(tmp_path: Path) -> None:
    with taken(Claims(tmp_path, stale=0.1)):
        place = tmp_path / "claims" / "a.0"
        os.utime(place, (0, 0))
        end = time.monotonic() + 60
        while place.stat().st_mtime == 0:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_takeover_has_one_winner(tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(20)]
    for key in keys:
        held(tmp_path, key, age=1000)
    context = processes.context()
    together, won = context.Barrier(6), context.Queue()
    workers = [processes.start(processes.take_all, tmp_path, keys, together, won) for _ in range(6)]
    got = [key for _ in workers for key in won.get(timeout=120)]
    for worker in workers:
        worker.join(60)
    assert sorted(got) == sorted(keys)


def test_three_workers_of_which_one_is_killed_do_every_unit_once(tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(12)]
    together = processes.context().Barrier(3)
    workers = [processes.start(processes.work, tmp_path, keys, together, one == 1) for one in range(3)]
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, -signal.SIGKILL, 0]
    assert sorted((tmp_path / "ended").read_text().split()) == sorted(keys)
    assert len((tmp_path / "began").read_text().split()) == 13
    assert (tmp_path / "workers").read_text().split() == ["done"] * 2


def test_a_suspended_worker_notices_that_its_unit_was_taken_over(tmp_path: Path) -> None:
    sleeper = processes.start(processes.sleepy, tmp_path, "a")
    processes.wait_for(tmp_path / "begun")
    os.kill(sleeper.pid, signal.SIGSTOP)
    try:
        assert Claims(tmp_path, stale=0.5).work(["a"], lambda _: {"by": "the other"}) == {"a": {"by": "the other"}}
        written = version(tmp_path / "done" / "a.json")
    finally:
        (tmp_path / "go").touch()
        os.kill(sleeper.pid, signal.SIGCONT)
    sleeper.join(60)
    assert sleeper.exitcode == 0
    assert (tmp_path / "sleeper").read_text() == "the other\n"
    assert version(tmp_path / "done" / "a.json") == written
    assert list((tmp_path / "claims").iterdir()) == []


def test_finish_after_a_takeover_that_still_runs(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    with taken(claims) as late:
        os.utime(tmp_path / "claims" / "a.0", (0, 0))
        with taken(claims) as claim:
            assert not late.held()
            assert not late.finish({"by": "late"})
            assert claims.result("a") is None
            assert claim.held()
            assert claim.finish({"by": "other"})
    assert claims.result("a") == {"by": "other"}


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = Claims(tmp_path)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(InputError, match=r"cannot write .*a\.0: No space left on device; make room"):
            claims.take("a")
    with taken(claims) as claim, monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(InputError, match=r"cannot write .*a\.json: No space left on device"):
            claim.finish({})
    assert claims.take("a") is not None


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*file.*name another folder"):
        Claims(tmp_path / "file")
    claims = Claims(tmp_path)

    def refused(*_: Any) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(InputError, match=r"cannot write .*a\.0: Read-only file system"):
        claims.take("a")


def test_bad_names_and_damaged_results(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    for key in ("", "../a", "a/b", ".a", "a b"):
        with pytest.raises(InputError, match="a name of up to 200 letters"):
            claims.take(key)
    (tmp_path / "done" / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.json is not whole JSON .*; delete it"):
        claims.work(["a"], nothing)
