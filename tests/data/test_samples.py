from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from polymodal.data.cache import Cache
from polymodal.data.inputs import Input, make_input
from polymodal.data.loader import Loader
from polymodal.data.samples import Samples, prepare
from polymodal.data.schema import Schema, infer
from polymodal.data.split import split_rows
from polymodal.data.table import Table, read_table
from polymodal.errors import InputError
from polymodal.types import Padded
from tests.data.collated import collated
from tests.data.files import cut, numbered_frames, write_clip, write_image, write_sound

COUNT = 12


@pytest.fixture
def folder(tmp_path):
    """A table of real files with six kinds of columns."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for i in range(COUNT):
        write_image(tmp_path / f"{i}.png", rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        write_sound(tmp_path / f"{i}.wav", 0.05 + 0.01 * (i % 3))
        write_clip(tmp_path / f"{i}.mkv", numbered_frames(3 + i % 2, 8, 12))
        split = "train" if i < 8 else "valid" if i < 10 else "test"
        text = "many different words " * (1 + i // 2 % 4) + str(i // 2)
        rows.append(
            {"id": f"{i:03d}", "clip": f"{i}.mkv", "sound": f"{i}.wav", "picture": f"{i}.png", "words": text}
            | {"age": i, "vector": [float(i), 1.0], "colour": "rg"[i // 2 % 2], "split": split, "label": "ab"[i % 2]}
        )
    pd.DataFrame(rows).to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    return tmp_path


def parts_of(
    table: Table, cache: Cache | None = None, **options: Any
) -> tuple[Schema, dict[str, Input], dict[str, Samples]]:
    schema = infer(table, "label", **options)
    inputs = {name: make_input(one) for name, one in schema.modalities.items()}
    cache = cache or Cache()
    rows = split_rows(table, schema, seed=0).rows
    return schema, inputs, {part: Samples(table, found, schema, inputs, cache=cache) for part, found in rows.items()}


def tensors(value: Any) -> tuple[torch.Tensor, ...]:
    return tuple(value) if isinstance(value, Padded) else (value,)


def test_from_files_to_batches(folder):
    schema, inputs, parts = parts_of(read_table(folder / "t.jsonl"))
    assert {one.kind for one in schema.modalities.values()} == {
        "image", "audio", "video", "text", "numeric", "vector", "categorical"
    }  # fmt: skip
    calls: list[tuple[int, int]] = []
    prepare(*parts.values(), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (COUNT * 7, COUNT * 7)
    batch = parts["valid"].batch([1, 0])
    assert batch.ids == ["009", "008"]
    assert batch.target.tolist() == [1, 0]
    assert batch.present is None
    for name in ("picture", "clip"):
        assert batch.inputs[name].shape == (2, *inputs[name].shape)
    assert batch.inputs["sound"].values.shape == (2, *inputs["sound"].shape)
    train = parts["train"].batch(range(8))
    torch.testing.assert_close(train.inputs["numeric"].mean(0), torch.zeros(1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("limit", [0, 5_000, 30_000, 60_000, 100_000, 1 << 30])
def test_batches_do_not_depend_on_the_cache(folder, limit):
    table = read_table(folder / "t.jsonl")
    frame = table.frame.copy()
    frame.loc[[1, 9], ["clip", "sound", "picture", "words"]] = None
    frame.loc[[2], ["vector"]] = None
    table = read_table(frame, root=folder)
    _, _, reference = parts_of(table)
    prepare(*reference.values(), workers=0)
    cache = Cache(limit)
    _, inputs, parts = parts_of(table, cache)
    prepare(*parts.values(), workers=2)
    for part in ("train", "valid"):
        places = list(range(len(parts[part])))[::-1]
        ours, theirs = parts[part].batch(places), reference[part].batch(places)
        assert set(ours.present or {}) == {"clip", "sound", "picture", "words", "vector"}
        for name in inputs:
            column = parts[part].columns[name]
            direct = collated(inputs[name], [inputs[name].decode(column.cells[i], folder) for i in places])
            for a, b, c in zip(tensors(ours.inputs[name]), tensors(theirs.inputs[name]), tensors(direct), strict=True):
                assert torch.equal(a, b), name
                assert torch.equal(a, c), name
        assert ours.present is not None
        assert ours.present["clip"].tolist() == [i not in (1, 9) for i in parts[part].rows[places].tolist()]
        lacking = ~ours.present["sound"]
        assert ours.inputs["sound"].values[lacking].abs().max() == 0
    assert cache.used <= limit


def test_broken_files_are_listed_by_row(folder):
    cut(folder / "3.mkv", 0.5)
    (folder / "5.wav").unlink()
    (folder / "9.png").write_bytes(b"")
    (folder / "11.png").write_text("no picture")
    table = read_table(folder / "t.jsonl")
    _, _, parts = parts_of(table)
    with pytest.raises(InputError) as caught:
        prepare(*parts.values())
    lines = str(caught.value).splitlines()
    assert lines[0] == "4 of 12 samples cannot be read:"
    for line, row, modality, reason in zip(
        lines[1:5], (4, 6, 10, 12), ("clip", "sound", "picture", "picture"),
        ("truncated", "no such file", "is empty", "not a readable image"), strict=True,
    ):  # fmt: skip
        assert f"t.jsonl, row {row} (line {row}), modality {modality!r}" in line
        assert reason in line
    assert "--on-error skip" in lines[5]

    _, _, parts = parts_of(table)
    prepare(*parts.values(), on_error="skip")
    assert [len(parts[part]) for part in ("train", "valid", "test")] == [6, 1, 1]
    assert [one.row for one in parts["train"].skipped] == [3, 5]
    batch = parts["train"].batch(range(6))
    assert batch.ids == ["000", "001", "002", "004", "006", "007"]
    assert batch.target.tolist() == [0, 1, 0, 0, 0, 1]
    assert batch.inputs["numeric"].argmax() == 5


def test_many_broken_files_are_counted():
    table = read_table(pd.DataFrame({"x": [f"{i}.png" for i in range(30)], "label": list("ab") * 15}))
    _, _, parts = parts_of(table)
    for on_error in ("raise", "skip"):
        with pytest.raises(InputError, match=r"cannot be read:") as caught:
            prepare(*parts.values(), on_error=on_error)
        assert len(str(caught.value).splitlines()) <= 23
    assert "and 4 more" in str(caught.value) or "and 10 more" in str(caught.value)
    with pytest.raises(InputError, match="expected raise or skip"):
        parts["train"].decode_all(on_error="ignore")


def test_broken_vectors_and_numbers_are_listed_too():
    cells = {"v": [[1.0, 2.0]] * 5 + [[1.0]] + [[1.0, float("inf")]] + [[2.0, 3.0]], "label": list("ab") * 4}
    table = read_table(pd.DataFrame(cells))
    schema = infer(table, "label")
    samples = Samples(table, np.arange(8), schema, {"v": make_input(schema.modalities["v"])})
    with pytest.raises(
        InputError, match=r"row 6, modality 'v': column 'v': a list of shape \(1,\).*\n.*row 7.*infinite"
    ):
        prepare(samples)


def test_a_modality_that_no_training_row_has():
    frame = pd.DataFrame(
        {"x": [None] * 8 + ["a.png"] * 2, "label": list("ab") * 5, "split": ["train"] * 8 + ["valid"] * 2}
    )
    _, _, parts = parts_of(read_table(frame))
    with pytest.raises(InputError, match="modality 'x' is empty in every training row"):
        prepare(*parts.values())


def test_tables_without_labels():
    table = read_table(pd.DataFrame({"n": range(8), "label": list("ab") * 4}))
    schema, inputs, parts = parts_of(table, modalities=["n=n:numeric"])
    prepare(*parts.values())
    new = read_table(pd.DataFrame({"n": [1, 2]}))
    samples = Samples(new, np.arange(2), schema, inputs)
    assert not samples.has_labels
    assert samples.batch([0, 1]).target.tolist() == [0, 0]
    assert samples.ids == ["1", "2"]
    odd = read_table(pd.DataFrame({"n": [1, 2], "label": ["?", None]}))
    assert Samples(odd, np.arange(2), schema, inputs, labelled=False).target.tolist() == [0, 0]
    with pytest.raises(InputError, match="missing label"):
        Samples(odd, np.arange(2), schema, inputs)
    with pytest.raises(InputError, match="no column 'n'"):
        Samples(read_table(pd.DataFrame({"m": [1]})), np.arange(1), schema, inputs)


def test_an_empty_part():
    table = read_table(pd.DataFrame({"n": range(8), "label": list("ab") * 4}))
    schema, inputs, parts = parts_of(table)
    empty = Samples(table, np.zeros(0, np.int64), schema, inputs)
    prepare(parts["train"], empty)
    assert len(empty) == 0
    assert list(Loader(empty, 4, shuffle=False, seed=0)) == []


def test_decoding_processes_change_nothing(folder):
    table = read_table(folder / "t.jsonl")
    _, _, parts = parts_of(table, Cache(0), modalities=["v=clip:video", "t=words:text"])
    prepare(parts["train"], workers=0)
    state = torch.get_rng_state()
    alone = list(Loader(parts["train"], 3, shuffle=True, seed=0))
    loader = Loader(parts["train"], 3, shuffle=True, seed=0, workers=1)
    together = list(loader)
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(alone, together, strict=True):
        assert a.ids == b.ids
        assert torch.equal(a.inputs["v"], b.inputs["v"])
        assert torch.equal(a.inputs["t"].values, b.inputs["t"].values)
