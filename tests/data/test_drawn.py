"""Training samples that are drawn anew each epoch: by seed, epoch and row alone, and never in evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polymodal.data.cache import Cache
from polymodal.data.features import FeatureCache
from polymodal.data.inputs import Input, input_from_state, make_input
from polymodal.data.loader import Loader
from polymodal.data.samples import Samples, prepare
from polymodal.data.schema import Modality, infer
from polymodal.data.table import read_table
from polymodal.errors import InputError
from polymodal.types import Features, Padded
from tests.data.files import numbered_frames, write_clip, write_csv, write_image, write_sound

SIZE = {"height": 6, "width": 8, "standardize": False}
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "crop": ("photo", {"augment": "crop_flip", **SIZE}),
    "flip": ("photo", {"augment": "flip", **SIZE}),
    "colours": ("photo", {"augment": "flip", "distort": 0.5, "blur": 3, **SIZE}),
    "frames": ("clip", {"sampling": "random", "frames": 2, "channels": 1, **SIZE}),
    "segments": ("clip", {"sampling": "segments", "frames": 2, "channels": 1, "augment": "crop_flip", **SIZE}),
    "masks": ("sound", {"augment": "spec_augment", "n_mels": 20, "max_seconds": 0.2}),
}
KINDS = {"photo": "image", "clip": "video", "sound": "audio"}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten rows of a picture, a clip and a sound each; the last row has none of them."""
    folder = tmp_path_factory.mktemp("drawn")
    random = np.random.default_rng(0)
    rows = []
    for i in range(10):
        write_image(folder / f"{i}.png", random.integers(0, 256, (16, 20, 3), dtype=np.uint8))
        write_clip(folder / f"{i}.mkv", numbered_frames(12, 8, 8) + i, sound=False)
        write_sound(folder / f"{i}.wav", pitch=300.0 + 100 * i)
        rows.append({"photo": f"{i}.png", "clip": f"{i}.mkv", "sound": f"{i}.wav", "label": "ab"[i % 2], "n": i})
    rows[9] |= {"photo": "", "clip": "", "sound": ""}
    return write_csv(folder / "t.csv", rows)


def samples(table: Path, way: str, *, training: bool = True, memory: int = 1 << 30, rows: int = 10) -> Samples:
    column, options = WAYS[way]
    read = read_table(table)
    schema = infer(read, "label", modalities=[f"m={column}:{KINDS[column]}"])
    inputs = {"m": make_input(schema.modalities["m"], **options)}
    made = Samples(read, np.arange(rows), schema, inputs, cache=Cache(memory), training=training)
    prepare(made, workers=0)
    return made


def numbers(value: Any) -> Tensor:
    return value.values if isinstance(value, Padded) else value


def seen(loader: Loader, epoch: int) -> dict[str, Tensor]:
    loader.set_epoch(epoch)
    return {name: numbers(batch.inputs["m"])[i] for batch in loader for i, name in enumerate(batch.ids or ())}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[bool]:
    assert one.keys() == other.keys()
    return [torch.equal(one[name], other[name]) for name in one]


@pytest.mark.parametrize("way", WAYS)
def test_draws_follow_seed_epoch_and_row_alone(table: Path, way: str) -> None:
    data = samples(table, way)
    expected = seen(Loader(data, 4, shuffle=True, seed=7), 3)
    halves = [seen(Loader(data, 3, shuffle=True, seed=7, rank=rank, world=2), 3) for rank in (0, 1)]
    assert all(equal(expected, halves[0] | halves[1]))
    assert all(equal(expected, seen(Loader(samples(table, way, memory=0), 5, shuffle=True, seed=7), 3)))
    # A later epoch, another seed: others, though a mirror or a short mask may be the same by chance.
    for seed, epoch in ((7, 4), (8, 3)):
        assert sum(equal(expected, seen(Loader(data, 4, shuffle=True, seed=seed), epoch))) < 9
    assert all(equal(expected, seen(Loader(data, 4, shuffle=True, seed=7), 3)))
    assert not expected["10"].any()  # the row that lacks the modality


def test_worker_processes_draw_alike(table: Path) -> None:
    data = samples(table, "segments")
    expected = seen(Loader(data, 4, shuffle=True, seed=1), 2)
    assert all(equal(expected, seen(Loader(data, 4, shuffle=True, seed=1, workers=1), 2)))


@pytest.mark.parametrize("way", WAYS)
def test_evaluation_is_fixed(table: Path, way: str) -> None:
    data = samples(table, way, training=False)
    epochs = [seen(Loader(data, 4, shuffle=False, seed=seed), seed) for seed in (0, 1)]
    assert all(equal(*epochs))
    plain = {k: v for k, v in WAYS[way][1].items() if k != "augment"} | (
        {"sampling": "even"} if way == "frames" else {}
    )
    column = WAYS[way][0]
    input = make_input(Modality("m", (column,), KINDS[column]), **plain)
    input.probe([(f"{i}.{ {'photo': 'png', 'clip': 'mkv', 'sound': 'wav'}[column] }",) for i in range(9)], table.parent)
    decoded = [column.decode(i) for column in [data.columns["m"]] for i in range(9)]
    assert all(one is None or np.isfinite(one).all() for one in decoded)
    training = Loader(samples(table, way), 4, shuffle=True, seed=0).fixed(["m"])
    assert all(equal(epochs[0], dict(sorted(seen(training, 0).items(), key=lambda one: int(one[0])))))


def test_evaluation_sees_the_colours_of_the_file(table: Path) -> None:
    found, training = (
        seen(Loader(samples(table, "colours", training=on), 4, shuffle=False, seed=0), 0) for on in (False, True)
    )
    plain = make_input(Modality("m", ("photo",), "image"), channels=3, **SIZE)
    for i in range(9):
        expected = plain.finish(plain.pack([plain.decode((f"{i}.png",), table.parent)]))[0]
        assert torch.equal(found[str(i + 1)], expected)
        assert not torch.equal(training[str(i + 1)], expected)


def test_random_frames_are_those_of_the_clip(table: Path) -> None:
    data = samples(table, "frames")
    found = np.stack([seen(Loader(data, 4, shuffle=True, seed=0), epoch)["1"].numpy() for epoch in range(40)])
    frames = (found[:, :, 0, 0, 0] * 255 / 10).round().astype(int) - 1  # brightness 10, 20, ...
    assert (np.diff(frames, axis=1) > 0).all()
    assert set(frames.ravel()) == set(range(12))


def test_frames_of_a_clip_are_cut_together_or_one_by_one(table: Path) -> None:
    common = {"frames": 4, "augment": "crop_flip", "channels": 3, **SIZE}
    gradient = np.repeat(np.arange(0, 240, 12, dtype=np.uint8)[None, None], 16, 1).repeat(4, 0)
    write_clip(table.parent / "still.mkv", gradient, sound=False)
    for each in (False, True):
        input = make_input(Modality("m", ("clip",), "video"), per_frame_aug=each, **common)
        random = np.random.default_rng(0)
        cells = ("still.mkv",)
        material = input.material(cells, table.parent, random)
        assert material is not None
        assert material.shape == (4, 16, 20, 3)
        found = [input.vary(material, cells, random) for _ in range(5)]
        assert all(one.shape == (4, 6, 8, 3) for one in found)
        assert all((one == one[:1]).all() for one in found) != each


def test_u_of_a_flow_changes_its_sign_in_a_mirror(tmp_path: Path) -> None:
    for axis, value in (("u", 200), ("v", 30)):
        (tmp_path / axis / "clip").mkdir(parents=True)
        write_image(tmp_path / axis / "clip" / "1.png", np.full((6, 8), value, np.uint8))
    for channels in (2, 3):
        options = {**SIZE, "frames": 1, "augment": "flip", "channels": channels}
        input = make_input(Modality("m", ("f",), "video"), **options)
        cells, random = ("{u,v}/clip",), np.random.default_rng(0)
        material = input.material(cells, tmp_path, random)
        assert material is not None
        pairs = {tuple(input.vary(material, cells, random)[0, 0, 0, :2].tolist()) for _ in range(20)}
        assert pairs == {(200, 30), (55, 30)}


def test_masks_are_zero_after_standardisation(table: Path) -> None:
    data = samples(table, "masks")
    loader = Loader(data, 9, shuffle=True, seed=0)
    plain = Loader(samples(table, "masks", training=False), 9, shuffle=False, seed=0)
    expected = seen(plain, 0)
    for name, one in seen(loader, 1).items():
        changed = one != expected[name]
        assert not one[changed].abs().gt(1e-5).any()
    assert any(not torch.equal(one, expected[name]) for name, one in seen(loader, 1).items())


def test_statistics_are_those_of_the_fixed_samples(table: Path) -> None:
    options = {k: v for k, v in SIZE.items() if k != "standardize"}
    means = []
    for training in (True, False):
        read = read_table(table)
        schema = infer(read, "label", modalities=["m=photo:image"])
        made = make_input(schema.modalities["m"], augment="crop_flip", **options)
        prepare(Samples(read, np.arange(10), schema, {"m": made}, training=training), workers=0)
        means.append(made.state()["mean"])
    assert means[0] == pytest.approx(means[1])


def test_options_are_kept_and_checked() -> None:
    modality = Modality("v", ("clip",), "video")
    given = make_input(
        modality, sampling="segments", fps=1, augment="crop_flip", crop_scale=[0.5, 1.0], per_frame_aug=True
    )
    assert given.random
    assert not given.keeps
    again = input_from_state(given.state())
    assert again.state() == given.state()
    for options, message in (
        ({"sampling": "segment"}, "sampling is 'segment', expected one of even, first"),
        ({"augment": "crop"}, "augment is 'crop', expected one of none, flip, crop_flip"),
        ({"crop_scale": [0.0, 1.0]}, "crop_scale is"),
        ({"crop_scale": [0.5]}, "crop_scale is"),
        ({"fps": 0}, "fps is 0"),
        ({"distort": -1.0}, "distort is -1.0, expected a strength from 0 to 2.5"),
        ({"distort": 0.5, "channels": 1}, "distort is 0.5, expected 0 for pictures that are not of 3 channels"),
        ({"blur": 4}, "blur is 4, expected 0, or an odd number of pixels"),
        ({"per_frame_aug": True}, "per_frame_aug is True, expected false where augment is 'none'"),
    ):
        with pytest.raises(InputError, match=message):
            make_input(modality, **options)
    for size in ({}, {"height": 9, "width": 6}):
        with pytest.raises(InputError, match="shorter_side is 8, expected height and width, of at most so many pixels"):
            make_input(Modality("i", ("photo",), "image"), shorter_side=8, **size)
    with pytest.raises(InputError, match="augment is 'spec_augment', expected none for waveforms"):
        make_input(Modality("a", ("a",), "audio"), augment="spec_augment", representation="waveform")


class Flat(nn.Module):
    """The numbers of a picture as features."""

    dim = 144

    def forward(self, x: Tensor) -> Features:
        return Features(x.flatten(1))


def test_features_of_drawn_inputs_are_those_of_the_first_epochs(table: Path, tmp_path: Path) -> None:
    loader = Loader(samples(table, "crop", rows=9), 4, shuffle=True, seed=0)
    with pytest.raises(InputError, match="'m' is augmented at random"):
        FeatureCache().loader(loader, {"m": Flat()})
    epochs = [{name: one.flatten() for name, one in seen(loader, epoch).items()} for epoch in range(3)]
    for _ in range(2):
        cached = FeatureCache(tmp_path, draws=3, shard=4, batch_size=2).loader(loader, {"m": Flat()})
        cached.set_epoch(1)
        for batch in cached:
            for i, name in enumerate(batch.ids):
                draw = (1 + int(name) - 1) % 3
                assert torch.equal(batch.inputs["m"].pooled[i], epochs[draw][name])
    fixed = FeatureCache(tmp_path).loader(loader.fixed(["m"]), {"m": Flat()})
    expected = seen(Loader(samples(table, "crop", training=False, rows=9), 4, shuffle=False, seed=0), 0)
    for batch in fixed:
        for i, name in enumerate(batch.ids):
            assert torch.equal(batch.inputs["m"].pooled[i], expected[name].flatten())


def test_inputs_without_options_are_not_drawn() -> None:
    kinds: list[Input] = [
        make_input(Modality("m", ("c",), kind)) for kind in ("image", "video", "audio", "text", "vector")
    ]
    assert not any(one.random for one in kinds)


@pytest.mark.parametrize("way", ["crop", "frames"])
def test_broken_files_are_named(tmp_path: Path, way: str) -> None:
    column, options = WAYS[way]
    options = {k: v for k, v in options.items() if k not in ("height", "width", "frames")}
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"no picture")
    read = read_table(write_csv(tmp_path / "t.csv", [{column: f"{i}.png", "label": "ab"[i % 2]} for i in range(3)]))
    schema = infer(read, "label", modalities=[f"m={column}:{KINDS[column]}"])
    made = Samples(read, np.arange(3), schema, {"m": make_input(schema.modalities["m"], **options)}, training=True)
    with pytest.raises(InputError, match=r"3 of 3 samples cannot be read:\n.*row 1 \(line 2\), modality 'm': .*0\.png"):
        prepare(made, workers=0)
