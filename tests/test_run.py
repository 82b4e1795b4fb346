"""Run folders: whole files or none."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path

import pytest
import torch

from polymodal.errors import InputError
from polymodal.run import RunFolder, load_weights, logger, save_weights, write_atomically


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with write_atomically(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(TypeError), write_atomically(path) as temporary:
        temporary.write_text(3)  # type: ignore[arg-type]
    assert path.read_text() == "one"
    assert [file.name for file in path.parent.iterdir()] == ["file.txt"]


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*x: "):
        RunFolder(tmp_path / "file" / "run").write_text("x", "text")
    path = tmp_path / "kept"
    path.write_text("before")
    with (
        pytest.raises(InputError, match="No space left on device; what was there before is kept"),
        write_atomically(path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "before"


def test_weights_repeat_their_bytes_and_share_no_memory(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    tensors = {"b": base, "a": base.t(), "n": torch.tensor(3)}
    for name in ("one", "two"):
        save_weights(tmp_path / name, tensors)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    loaded = load_weights(tmp_path / "one")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_weights_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_weights(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="truncated or no safetensors"):
        load_weights(tmp_path / "text")


def test_folder_must_be_new_or_empty(tmp_path: Path) -> None:
    RunFolder(tmp_path / "new")
    RunFolder(tmp_path)
    (tmp_path / "file").write_text("")
    RunFolder(tmp_path, resume=True)
    with pytest.raises(InputError, match="exists and is not empty"):
        RunFolder(tmp_path)
    for resume in (True, False):
        with pytest.raises(InputError, match="is a file"):
            RunFolder(tmp_path / "file", resume=resume)


def test_checkpoints(tmp_path: Path) -> None:
    run = RunFolder(tmp_path).stage("joint")
    assert run.load_checkpoint() is None
    run.save_checkpoint({"epoch": 2, "model": {"w": torch.ones(2)}})
    state = run.load_checkpoint()
    assert state is not None
    assert state["epoch"] == 2
    point = tmp_path / "stages" / "joint" / "checkpoint" / "last.pt"
    torch.save([1], point)
    with pytest.raises(InputError, match="holds a list"):
        run.load_checkpoint()
    run.drop_checkpoint()
    assert run.load_checkpoint() is None


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 / 0",)


def test_checkpoints_never_run_code(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    torch.save({"epoch": Evil()}, tmp_path / "checkpoint" / "last.pt")
    with pytest.raises(InputError, match=r"cannot be read \(UnpicklingError\)"):
        run.load_checkpoint()


def test_json(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_json("a.json", {"x": 1.5})
    assert run.read_json("a.json") == {"x": 1.5}
    assert run.has("a.json")
    run.write_text("a.json", "{")
    with pytest.raises(InputError, match="is not whole JSON"):
        run.read_json("a.json")
    with pytest.raises(InputError, match="the folder of a finished run"):
        run.read_json("b.json")
    run.write_history([{"epoch": 1}, {"epoch": 2}])
    assert [json.loads(line)["epoch"] for line in (tmp_path / "history.jsonl").read_text().splitlines()] == [1, 2]


def test_log_is_copied_while_the_block_runs(tmp_path: Path) -> None:
    run, level = RunFolder(tmp_path / "run"), logger.level
    with run.logging():
        logger.info("inside")
    logger.info("outside")
    assert logger.level == level
    assert not any(isinstance(one, logging.FileHandler) for one in logger.handlers)
    text = (run.path / "log.txt").read_text()
    assert "inside" in text
    assert "outside" not in text


def test_sweep_removes_half_written_files_alone(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    for name in (".last.pt.123.tmp", "stages/.model.safetensors.9.tmp", "notes.tmp", ".hidden"):
        (tmp_path / name).write_text("")
    RunFolder(tmp_path, resume=True).sweep()
    assert sorted(file.name for file in tmp_path.rglob("*")) == [".hidden", "notes.tmp", "stages"]


@pytest.mark.parametrize(("file", "left"), [("log.txt", False), ("mine.txt", True), ("stages/joint/x", True)])
def test_withdraw_keeps_what_is_worth_keeping(file: str, left: bool, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for name in ("config.yaml", file):
        run.write_text(name, "")
    run.withdraw()
    assert (run.path / file).exists() == run.path.exists() == left
