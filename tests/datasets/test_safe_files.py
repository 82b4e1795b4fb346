"""Pickles and archives from strangers run nothing and write nothing elsewhere."""

import contextlib
import io
import os
import pickle
import tarfile
import zipfile
from typing import Any

import numpy as np
import pytest

from polymodal.datasets.safe_files import load_pickle, unpack
from polymodal.errors import InputError
from tests.cli.run import fails, polymodal


class Runs:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def dump(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_builtins_are_read(tmp_path, protocol):
    value: dict[Any, Any] = {
        "train": {"vision": np.arange(12, dtype=np.float32).reshape(3, 4), "id": np.array([[b"a", b"0"]])},
        b"label": [np.float64(1.5), np.int32(3), 1, 2.0, "x", b"y", None, True, (1, 2), 1j],
        "order": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "objects": np.array([["a", 1], [None, 2.5]], dtype=object),
        "set": {1, 2},
    }
    found = load_pickle(dump(tmp_path / "x.pkl", value, protocol))
    assert np.array_equal(found["train"]["vision"], value["train"]["vision"])
    assert found["train"]["vision"].dtype == np.float32
    assert np.array_equal(found["train"]["id"], value["train"]["id"])
    assert found[b"label"] == value[b"label"]
    assert type(found[b"label"][0]) is np.float64
    assert np.array_equal(found["order"], value["order"])
    assert found["objects"].tolist() == value["objects"].tolist()
    assert found["set"] == {1, 2}


def test_texts_of_python_2_can_stay_bytes(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"(dp0\nS'train'\np1\nI1\ns.")
    assert load_pickle(tmp_path / "x.pkl") == {"train": 1}
    assert load_pickle(tmp_path / "x.pkl", encoding="bytes") == {b"train": 1}


@pytest.mark.parametrize(
    "make",
    [
        lambda mark: Runs(os.system, f"touch {mark}"),
        lambda mark: Runs(eval, f"open({str(mark)!r}, 'w')"),
        lambda mark: Runs(exec, f"open({str(mark)!r}, 'w')"),
        lambda mark: Runs(getattr, "x", "upper"),
        lambda mark: Runs(open, str(mark), "w"),
        lambda mark: Runs(__import__, "os"),
        lambda mark: Runs(np.load, str(mark)),
        lambda mark: np.array([Runs(os.system, f"touch {mark}")], dtype=object),
        lambda mark: {"train": [Runs(os.system, f"touch {mark}")]},
        lambda mark: Runs(pickle.loads, pickle.dumps(Runs(os.system, f"touch {mark}"))),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickles_run_nothing(tmp_path, make, protocol):
    mark = tmp_path / "ran"
    path = dump(tmp_path / "x.pkl", make(mark), protocol)
    with pytest.raises(InputError, match="do not trust this file"):
        load_pickle(path)
    assert not mark.exists()


def test_the_hostile_pickle_would_run(tmp_path):
    """What the test above refuses does run elsewhere."""
    mark = tmp_path / "ran"
    pickle.loads(pickle.dumps(Runs(os.system, f"touch {mark}")))
    assert mark.exists()


@pytest.mark.parametrize("call", [(bytes, 2**40), (bytearray, 2**40), (np.ndarray, (2**37,))])
def test_pickles_that_ask_for_memory(tmp_path, call):
    with pytest.raises(InputError):
        load_pickle(dump(tmp_path / "x.pkl", Runs(*call)))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_pickles(tmp_path, share):
    whole = dump(tmp_path / "x.pkl", {"a": np.arange(100)}).read_bytes()
    (tmp_path / "x.pkl").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"x.pkl: not a readable pickle"):
        load_pickle(tmp_path / "x.pkl")
    with pytest.raises(InputError, match="no such file"):
        load_pickle(tmp_path / "y.pkl")


def test_flipped_bytes_in_pickles(tmp_path):
    """Whatever comes of it, it is an answer or one kind of error."""
    whole = dump(tmp_path / "x.pkl", {"a": np.arange(20), "b": [np.float32(1), "text", b"bytes"]}, 2).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole)
        for place in random.integers(0, len(data), 3):
            data[place] = random.integers(0, 256)
        (tmp_path / "x.pkl").write_bytes(data)
        with contextlib.suppress(InputError):
            load_pickle(tmp_path / "x.pkl")


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_tar(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


WRITERS = [(write_zip, "a.zip"), (write_tar, "a.tar.gz")]


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_archives_are_unpacked(tmp_path, write, name):
    archive = write(tmp_path / name, {"mmimdb/split.json": b"{}", "mmimdb/dataset/1.json": b"[]"})
    polymodal("data", "unpack", archive, tmp_path / "out")
    assert (tmp_path / "out/mmimdb/dataset/1.json").read_bytes() == b"[]"
    assert (tmp_path / "out/mmimdb/split.json").read_bytes() == b"{}"


@pytest.mark.parametrize(("write", "name"), WRITERS)
@pytest.mark.parametrize("member", ["../evil", "a/../../evil", "/tmp/polymodal-evil", "..\\evil", "C:/evil"])
def test_members_that_climb_out(tmp_path, capsys, write, name, member):
    archive = write(tmp_path / name, {"good": b"1", member: b"2"})
    message = fails(capsys, "data", "unpack", archive, tmp_path / "out")
    assert "would lie outside of the folder" in message
    assert sorted(one.name for one in tmp_path.iterdir()) == [name]  # not even the good one


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(InputError, match="is a link or a device"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="is a link or a device"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_archives_that_are_too_large_broken_or_in_the_way(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"x": b"0" * 1000})
    with pytest.raises(InputError, match="1000 bytes when unpacked"):
        unpack(archive, tmp_path / "out", limit=999)
    assert unpack(archive, tmp_path / "out") == 1
    with pytest.raises(InputError, match="is there already"):
        unpack(archive, tmp_path / "out")
    (tmp_path / "b.tar").write_bytes(b"no archive")
    with pytest.raises(InputError, match="not a readable archive"):
        unpack(tmp_path / "b.tar", tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        unpack(tmp_path / "c.tar", tmp_path / "out")
