"""`data prepare`: what it extracts, what the readers make of it, kills, broken files, folders in use."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from polymodal.data.inputs import make_input
from polymodal.data.inputs.computed import read_computed
from polymodal.data.media.arrays import read_array
from polymodal.data.media.sound import read_wave
from polymodal.data.miniature import make
from polymodal.data.miniature.media import picture, write_clip
from polymodal.data.schema import Modality
from polymodal.datasets import find, open_table, parse
from polymodal.datasets.faces import read_boxes
from polymodal.datasets.flow import flow, to_bytes
from polymodal.datasets.plan import Wanted
from polymodal.datasets.prepare import Prepared, prepare
from polymodal.errors import InputError
from tests.cli.run import answer, fails, metrics, polymodal
from tests.datasets.ways import SMALL, SMALL_FRAMES


def prepared(source: str, root: Path, out: Path, wanted: Wanted | None = None, **options: object) -> Prepared:
    named = parse(f"{source}:{root}")
    assert named is not None
    return prepare(named, out, wanted, workers=0, **options)  # type: ignore[arg-type]


def tree(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def decoded(path: Path) -> list[np.ndarray]:
    """Every frame, by PyAV alone."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def cremad(tmp_path_factory):
    """Six training clips and two test clips."""
    root = make("cremad", tmp_path_factory.mktemp("prepare") / "CREMA-D")
    for name, count in (("train", 8), ("test", 2)):
        lines = (root / f"{name}.csv").read_bytes().splitlines(keepends=True)
        (root / f"{name}.csv").write_bytes(b"".join(lines[:count]))
    return root


@pytest.fixture(scope="module")
def whole(cremad, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "whole"
    assert prepared("cremad", cremad, out).made == 20
    return out


def test_one_frame_a_second_and_sounds_as_they_are(cremad, whole):
    before, after = open_table(f"cremad:{cremad}").frame, open_table(f"cremad:{whole}").frame
    assert list(after["id"]) == list(before["id"])
    assert list(after["split"]) == list(before["split"])
    clip = before["id"][0]
    assert after["video"][0] == f"Image-01-FPS/{clip}"
    frames = decoded(cremad / before["video"][0])
    wanted = [i for i in range(len(frames)) if i % 10 == 0]
    files = sorted((whole / "Image-01-FPS" / clip).iterdir())
    assert [one.name for one in files] == [f"{i:05d}.jpg" for i in wanted]
    for file, i in zip(files, wanted, strict=True):
        error = np.abs(np.asarray(Image.open(file)).astype(int) - frames[i])
        assert error.mean() < 8  # what JPEG loses of noise
    assert (whole / after["audio"][0]).read_bytes() == (cremad / before["audio"][0]).read_bytes()
    assert not (whole / ".unfinished").exists()


def test_again_there_is_nothing_to_do(cremad, whole):
    before = tree(whole)
    again = prepared("cremad", cremad, whole)
    assert (again.made, again.kept, again.broken) == (0, 20, [])
    assert tree(whole) == before


def test_spectrograms_are_what_training_computes(cremad, tmp_path):
    out = tmp_path / "out"
    prepared("cremad", cremad, out, Wanted("spectrogram"))
    options = find("cremad").presets["ogm"].settings["data"]["inputs"]["audio"]
    audio = make_input(Modality("audio", ("audio",), "audio"), **options)
    audio.probe([], out)
    before, after = open_table(f"cremad:{cremad}"), open_table(f"cremad:{out}")
    for sound, computed in zip(before.cells("audio"), after.cells("audio"), strict=True):
        assert computed.startswith("Spectrograms/")
        one, other = audio.decode((sound,), cremad), audio.decode((computed,), out)
        assert np.array_equal(np.asarray(one), np.asarray(other))
    other = make_input(Modality("audio", ("audio",), "audio"), **{**options, "hop": 160})
    other.probe([], out)
    with pytest.raises(InputError, match=r"computed with hop=353, and hop=160 is asked for"):
        other.decode((after.cells("audio")[0],), out)
    assert counts_by_id(open_table(f"cremad/disjoint:{out}")) > 0


def counts_by_id(table) -> int:
    return len(set(table.cells("id")))


def test_options_of_spectrograms_that_only_the_training_part_tells(tmp_path):
    root, out = make("kinetics_sounds", tmp_path / "ks"), tmp_path / "out"
    prepared("kinetics_sounds", root, out, Wanted("spectrogram"))
    options = find("kinetics_sounds").presets["ogm"].settings["data"]["inputs"]["audio"]
    assert "max_seconds" not in options
    table = open_table(f"kinetics_sounds:{out}")
    audio = make_input(Modality("audio", ("audio",), "audio"), **options)
    audio.probe([(cell,) for cell in table.cells("audio")], out)
    assert np.asarray(audio.decode((table.cells("audio")[0],), out)).shape == (1, 1, 128, 1024)


@pytest.mark.parametrize(
    ("values", "expected"),
    [(np.zeros((257, 189)), "shape"), (np.zeros((256, 10)), "shape"), (np.zeros(257), "shape")],
)
def test_computed_arrays_of_another_shape(tmp_path, values, expected):
    (tmp_path / "options.json").write_text('{"hop": 353}')
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(InputError, match=expected):
        read_computed(tmp_path / "x.npy", {"hop": 353}, (1, 257, 188))


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_computed_arrays_without_their_options(tmp_path, text):
    np.save(tmp_path / "x.npy", np.zeros((257, 188)))
    if text is not None:
        (tmp_path / "options.json").write_text(text)
    with pytest.raises(InputError, match=r"options\.json: not there or damaged"):
        read_computed(tmp_path / "x.npy", {}, (1, 257, 188))


def test_events_of_ave(tmp_path):
    root, out = make("ave", tmp_path / "ave"), tmp_path / "out"
    prepared("ave/mlb", root, out)
    before, after = open_table(f"ave/mlb:{root}").frame, open_table(f"ave/mlb:{out}").frame
    for row in range(3):
        start, end = before["start"][row], before["end"][row]
        files = sorted(one.name for one in (out / after["video"][row]).iterdir())
        total = len(decoded(root / before["video"][row].partition("#")[0]))
        wanted = [i for i in range(0, total, 8) if start * 8 <= i <= end * 8]  # both bounds, at 8 frames a second
        assert files == [f"{i:05d}.jpg" for i in wanted]
        piece = read_wave(root / before["audio"][row], 16000)
        assert np.abs(read_wave(out / after["audio"][row], 16000) - piece.clip(-1, 1)).max() <= 1 / 32767
    assert list(after["category"]) == list(before["category"])
    assert list(open_table(f"ave/mlb:{out}").classes["category"]) == list(
        open_table(f"ave/mlb:{root}").classes["category"]
    )


def test_clips_that_ucf101_leaves_out_stay_left_out(tmp_path):
    root, out = make("ucf101", tmp_path / "ucf"), tmp_path / "out"
    assert prepared("ucf101/mlb", root, out).made == 56
    before, after = open_table(f"ucf101/mlb:{root}"), open_table(f"ucf101/mlb:{out}")
    assert after.notes == before.notes
    assert list(after.cells("id")) == list(before.cells("id"))
    assert counts_by_id(open_table(f"ucf101/mlb,split=2:{out}")) == counts_by_id(before)
    shutil.rmtree(
        out / "Image-01-FPS" / after.cells("id")[0]
    )  # a prepared clip that is gone is not left out without a word
    assert list(open_table(f"ucf101/mlb:{out}").cells("id")) == list(before.cells("id"))


def test_flow_of_a_square_that_moves(tmp_path):
    random = np.random.default_rng(0)
    texture: Any = random.integers(60, 200, (256, 320, 3), dtype=np.uint8)
    texture = cv2.GaussianBlur(texture, (0, 0), 3)
    frames = np.stack([np.roll(texture, (2 * i, 4 * i), (0, 1)) for i in range(3)])  # 4 pixels right, 2 down a frame
    write_clip(tmp_path / "clip.mp4", frames, 10)
    flow(tmp_path / "clip.mp4", tmp_path / "flow")
    for axis, moved in (("u", 4), ("v", 2)):
        files = sorted((tmp_path / "flow" / axis).iterdir())
        assert [one.name for one in files] == ["frame000001.jpg", "frame000002.jpg"]
        inner = np.asarray(Image.open(files[0]))[32:-32, 32:-32]
        assert np.median(inner) == pytest.approx(to_bytes(np.array([moved], np.float32))[0], abs=4)


def test_flow_as_bytes():
    assert to_bytes(np.array([-99, -20, -10, 0, 10, 20, 99], np.float32)).tolist() == [0, 0, 64, 128, 191, 255, 255]


@pytest.fixture
def face() -> np.ndarray:
    """A face as the detector of Viola and Jones sees one: two dark eyes, a nose, a mouth."""
    pixels = np.full((120, 160, 3), 90, np.uint8)
    cv2.ellipse(pixels, (80, 60), (34, 46), 0, 0, 360, (205, 180, 165), -1)
    for x in (66, 94):
        cv2.ellipse(pixels, (x, 48), (9, 5), 0, 0, 360, (245, 245, 245), -1)
        cv2.circle(pixels, (x, 48), 4, (30, 30, 30), -1)
        cv2.ellipse(pixels, (x, 38), (11, 3), 0, 0, 360, (60, 45, 40), -1)
    cv2.line(pixels, (80, 50), (77, 68), (150, 120, 110), 3)
    cv2.ellipse(pixels, (80, 84), (14, 5), 0, 0, 360, (130, 60, 60), -1)
    return cv2.GaussianBlur(pixels, (0, 0), 1.2)


def test_faces_that_are_found(face, tmp_path):
    from polymodal.datasets.faces import crops

    blank = np.full_like(face, 90)
    write_clip(tmp_path / "clip.mp4", np.stack([blank, face, blank]), 10)
    crops(tmp_path / "clip.mp4", tmp_path / "found", boxes={})
    files = sorted((tmp_path / "found").iterdir())
    assert [one.name for one in files] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    second = np.asarray(Image.open(files[1]))
    assert second.shape == (260, 260, 3)
    assert second.mean() > np.asarray(Image.open(files[2])).mean() + 20  # the face, and the same place without it
    write_clip(tmp_path / "none.mp4", np.stack([blank] * 3), 10)
    with pytest.raises(InputError, match="no face was found in any of its frames; give boxes"):
        crops(tmp_path / "none.mp4", tmp_path / "none", boxes={})


def test_faces_in_boxes_and_their_features(cremad, tmp_path, capsys):
    import timm
    import torch
    from safetensors.torch import save_file

    clips = list(open_table(f"cremad:{cremad}").cells("id"))
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("clip,frame,left,top,width,height\n" + "".join(f"{clip},,4,2,16,20\n" for clip in clips[1:]))
    with boxes.open("a") as file:
        file.write(f"{clips[0]},0,0,0,10,10\n{clips[0]},3,20,20,10,10\n")
    torch.manual_seed(0)
    net = timm.create_model("efficientnet_b2", num_classes=0).eval()
    save_file(net.state_dict(), tmp_path / "b2.safetensors")
    calls = []

    def embed(faces):
        calls.append(len(faces))
        return faces.mean((1, 2)).astype(np.float32)

    out = tmp_path / "out"
    prepared("cremad", cremad, out, Wanted(faces=True, boxes=read_boxes(boxes), embed=embed, weights="mean"))
    frames = decoded(cremad / f"VideoFlash/{clips[0]}.flv")
    assert sum(calls) == sum(len(decoded(cremad / f"VideoFlash/{clip}.flv")) for clip in clips)
    files = sorted((out / "Faces" / clips[0]).iterdir())
    for i, left in ((0, 0), (2, 0), (3, 20), (9, 20)):  # the box of frame 0 holds up to frame 2
        part = frames[i][left : left + 10, left : left + 10].mean((0, 1))
        assert np.asarray(Image.open(files[i])).mean((0, 1)) == pytest.approx(part, abs=4)
    found = read_array(out / "Face_features" / f"{clips[0]}.npy")
    assert found == pytest.approx(np.stack([np.asarray(Image.open(one)).mean((0, 1)) for one in files]), abs=0.01)
    table = open_table(f"cremad,faces=true:{out}")
    vector = make_input(Modality("faces", ("faces",), "vector"), width=3, length=5, standardize=False)
    assert np.array_equal(np.asarray(vector.decode((table.cells("faces")[0],), out)), found[:5])
    with pytest.raises(InputError, match="was prepared with weights mean, not other"):
        prepared("cremad", cremad, out, Wanted(faces=True, boxes=read_boxes(boxes), embed=embed, weights="other"))
    from polymodal.cli.prepare import face_features

    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        own = net(((torch.from_numpy(pixels) / 255 - mean) / std).movedim(-1, 1))
    assert face_features(tmp_path / "b2.safetensors")(pixels) == pytest.approx(own.numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clip,left,top,width\n", "no column height"),
        ("clip,left,top,width,height\n", "no box in it"),
        ("clip,left,top,width,height\na,1,2,x,4\n", "line 2: boxes are whole numbers"),
        ("clip,left,top,width,height\na,1,2,0,4\n", "line 2: .* outside of any picture"),
    ],
)
def test_wrong_boxes(tmp_path, text, expected):
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(InputError, match=expected):
        read_boxes(tmp_path / "boxes.csv")
    with pytest.raises(InputError, match="no such file of boxes"):
        read_boxes(tmp_path / "none.csv")


def die(moment: str, count: int, root: str, out: str) -> None:
    """Prepare, and be killed at the `count`-th time of a moment."""
    from unittest.mock import patch

    from polymodal.datasets import extract

    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    times = itertools.count(1)  # one `next` is one step, so that of two threads exactly one is the `count`-th
    write, place = extract.write_jpeg, os.replace

    def half_a_picture(path, pixels):
        mine = moment == "half" and next(times) == count
        write(path, pixels)
        if mine:
            data = path.read_bytes()
            path.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)

    def before_its_place(one, other):
        if moment == "place" and next(times) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        place(one, other)

    with patch("polymodal.datasets.extract.write_jpeg", half_a_picture), patch("os.replace", before_its_place):
        named = parse(f"cremad:{root}")
        assert named is not None
        prepare(named, out, workers=2)


def test_killed_and_gone_on_with(cremad, whole, tmp_path):
    out = tmp_path / "out"
    context = multiprocessing.get_context("forkserver")
    from tests.processes import preload

    preload()
    for moment, count in (("place", 2), ("half", 3), ("place", 12), ("half", 2)):
        child = context.Process(target=die, args=(moment, count, str(cremad), str(out)))
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL
        for name, content in tree(out).items():  # all that is in its place is whole
            assert name.startswith(".unfinished/") or content == tree(whole)[name]
    assert any(name.startswith(".unfinished/") for name in tree(out))
    after = prepared("cremad", cremad, out)
    assert 0 < after.kept < 20
    assert tree(out) == tree(whole)


def test_broken_files_by_row(cremad, tmp_path, capsys):
    root = tmp_path / "copy"
    shutil.copytree(cremad, root)
    clips = list(open_table(f"cremad:{root}").cells("id"))
    cut = root / "VideoFlash" / f"{clips[1]}.flv"
    cut.write_bytes(cut.read_bytes()[:300])
    (root / "AudioWAV" / f"{clips[4]}.wav").unlink()
    out = tmp_path / "out"
    message = fails(capsys, "data", "prepare", "cremad", root, out, "--workers", "0")
    assert "2 cells of 10 samples cannot be prepared; everything else is:" in message
    assert "row 2, modality 'video'" in message
    assert "row 5, modality 'audio'" in message
    told = answer(capsys, "data", "prepare", "cremad", root, out, "--workers", "0", "--on-error", "skip")
    assert (told["made"], told["kept"]) == (0, 18)
    assert [(one["row"], one["modality"]) for one in told["broken"]] == [(2, "video"), (5, "audio")]
    assert json.loads((out / "broken.json").read_text()) == told["broken"]
    assert not (out / "Image-01-FPS" / clips[1]).exists()
    with pytest.raises(SystemExit):
        polymodal("data", "check", "cremad", out)
    broken = json.loads(capsys.readouterr().out)["broken"]
    assert [(one["row"], one["modality"]) for one in broken] == [(2, "video"), (5, "audio")]
    for name in ("VideoFlash", "AudioWAV"):  # mended
        shutil.copytree(cremad / name, root / name, dirs_exist_ok=True)
    assert answer(capsys, "data", "prepare", "cremad", root, out)["made"] == 2
    assert not (out / "broken.json").exists()


def test_refused(cremad, whole, tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.txt").touch()
    assert "nothing was prepared in it" in fails(capsys, "data", "prepare", "cremad", cremad, tmp_path)
    assert "the owner's files" in fails(capsys, "data", "prepare", "cremad", cremad, cremad)
    assert "not spectrogram" in fails(capsys, "data", "prepare", "cremad", cremad, whole, "--sound", "spectrogram")
    assert "cremad/mlb" in fails(capsys, "data", "prepare", "cremad/mlb", cremad, whole)
    assert "no such folder" in fails(capsys, "data", "prepare", "cremad", tmp_path / "none", tmp_path / "out")
    for name in ("food101", "mmimdb", "mosi", "mosei", "iemocap"):
        assert "nothing to prepare" in fails(capsys, "data", "prepare", name, cremad, tmp_path / "out")
    assert "cremad/conformer does" in fails(capsys, "data", "prepare", "ave", cremad, tmp_path / "out", "--faces")
    import fcntl

    own = os.open(whole, os.O_RDONLY)
    fcntl.flock(own, fcntl.LOCK_EX)
    assert "another process prepares it now" in fails(capsys, "data", "prepare", "cremad", cremad, whole)
    os.close(own)
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(InputError, match=r"pip install 'polymodal\[vision\]'"):
        flow(tmp_path / "x.mp4", tmp_path / "x")


def test_a_full_disk_blames_no_file(cremad, tmp_path, monkeypatch):
    def full(path, pixels):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("polymodal.datasets.extract.write_jpeg", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left on device.*make room and run this again"):
        prepared("cremad", cremad, tmp_path / "out", on_error="skip")


SHORT = "data.inputs.audio.max_seconds=1.0"
EVERY = [
    ("cremad/ogm", "spectrogram", SMALL_FRAMES),
    ("ave/mlb", "wav", (*SMALL_FRAMES, SHORT)),
    ("kinetics_sounds/ogm", "spectrogram", SMALL_FRAMES),
    ("ucf101/mlb", "wav", (*SMALL_FRAMES, SHORT)),
    (
        "ucf101/mmlora",
        "wav",
        tuple(f"data.inputs.{m}.{side}=16" for m in ("rgb", "flow") for side in ("height", "width")),
    ),
]


@pytest.mark.parametrize(("source", "sound", "small"), EVERY)
def test_prepared_check_fit_evaluate(source, sound, small, tmp_path, capsys, monkeypatch):
    """Through the command line, with the paper's preset."""
    monkeypatch.setattr("polymodal.datasets.flow.EDGE", 32)  # as large as the miniature's pictures
    name, _, preset = source.partition("/")
    root, out, run = make(name, tmp_path / name), tmp_path / "out", tmp_path / "run"
    assert answer(capsys, "data", "prepare", source, root, out, "--sound", sound)["broken"] == []
    before = open_table(f"{source}:{root}").frame
    shutil.rmtree(root)  # nothing of it is needed any more
    label = find(name).presets[preset].settings["label"]
    after = open_table(f"{source}:{out}").frame
    assert after[["id", label, "split"]].equals(before[["id", label, "split"]])
    checked = answer(capsys, "data", "check", source, out)
    assert checked["broken"] == checked["problems"] == []
    quick = ["2" if one == "12" else one for one in SMALL]
    polymodal("fit", f"{source}:{out}", *quick, *small, "--recipe", "joint", "--out", run)
    assert answer(capsys, "evaluate", run)["accuracy"] == pytest.approx(metrics(run)["test"]["accuracy"])


def test_fit_on_faces(cremad, tmp_path, capsys):
    """The preset of MLB's Conformers, with small encoders."""
    root = make("cremad", tmp_path / "all")
    random, out = np.random.default_rng(0), tmp_path / "out"
    prepared("cremad", root, out)
    (out / "Face_features").mkdir()
    for clip, emotion in zip(*(open_table(f"cremad:{out}").cells(c) for c in ("id", "emotion")), strict=True):
        values = random.normal(size=(random.integers(3, 9), 1408))
        values += 0.5 * (np.arange(1408) % 6 == "NHSFDA".index(emotion[0]))
        np.save(out / "Face_features" / f"{clip}.npy", values.astype(np.float16))
    small = [f"encoders.faces.{one}" for one in ("name=sequence_transformer", "dim=16", "depth=1", "heads=2")]
    small += ["data.inputs.audio.representation=log_mel", "data.inputs.audio.max_seconds=0.5"]
    checked = answer(capsys, "data", "check", "cremad/conformer", out)
    assert checked["broken"] == []
    polymodal("fit", f"cremad/conformer:{out}", *SMALL, *small, "--recipe", "joint", "--out", tmp_path / "run")
    assert answer(capsys, "evaluate", tmp_path / "run")["accuracy"] > 0.3


def test_pictures_are_scaled_to_256(tmp_path):
    from polymodal.datasets.flow import pictures

    frames = np.stack([picture(0, np.random.default_rng(0)) for _ in range(2)])[:, :16]
    write_clip(tmp_path / "clip.mp4", frames, 10)
    pictures(tmp_path / "clip.mp4", tmp_path / "found")
    for one in (tmp_path / "found").iterdir():
        with Image.open(one) as image:
            assert image.size == (512, 256)
    assert len(list((tmp_path / "found").iterdir())) == 2
