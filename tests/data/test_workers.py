"""How many processes decode, and how much they may have ready."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from polymodal.data.cache import Cache
from polymodal.data.inputs import make_input
from polymodal.data.loader import Loader
from polymodal.data.samples import Samples, prepare
from polymodal.data.schema import infer
from polymodal.data.table import Table
from polymodal.data.workers import processors, workers_for
from tests.data.files import write_image

GB = 2**30


@pytest.mark.parametrize(
    ("asked", "batch", "room", "expected"),
    [
        (2, 1000, 4 * GB, (2, 2)),
        (4, GB // 8, 4 * GB, (4, 2)),  # eight batches ready are a gigabyte
        (4, GB // 7, 4 * GB, (4, 1)),
        (4, GB // 3, 4 * GB, (3, 1)),
        (4, GB, 4 * GB, (1, 1)),
        (4, GB + 1, 4 * GB, (0, 0)),
        (4, 2**20, 64 * 2**20, (4, 2)),  # what containers have by default
        (4, 2**24, 64 * 2**20, (2, 1)),
        (4, 2**26, 64 * 2**20, (0, 0)),
        (0, 1000, 4 * GB, (0, 0)),
    ],
)
def test_what_is_ready_is_bounded(asked, batch, room, expected):
    found = workers_for(asked, batch, room=room)
    assert found == expected
    assert found.processes * found.ahead * batch <= min(GB, room // 2)


def test_by_the_machine(monkeypatch):
    for own, world, expected in ((1, 1, 0), (2, 1, 2), (64, 1, 8), (64, 16, 4), (4, 4, 0)):
        monkeypatch.setattr("polymodal.data.workers.processors", lambda own=own: own)
        assert workers_for(None, 1000, world, room=GB).processes == expected
    monkeypatch.undo()
    assert processors() >= 1


def test_batches_are_those_of_no_workers(tmp_path, monkeypatch):
    names = [write_image(tmp_path / f"{i}.png", np.full((8, 8, 3), 20 * i, np.uint8)).name for i in range(6)]
    table = Table(pd.DataFrame({"photo": pd.Series(names, dtype=object), "label": list("ababab")}), tmp_path, "table")
    schema = infer(table, "label", modalities=["photo=photo:image"])
    monkeypatch.setattr("polymodal.data.workers.processors", lambda: 2)
    seen = []
    for workers, held in ((0, 0), (None, 0), (None, 2**20)):
        photo = make_input(schema.modalities["photo"], height=8, width=8, channels=3)
        samples = Samples(table, np.arange(6), schema, {"photo": photo}, cache=Cache(held))
        prepare(samples, workers=0)
        made: list[dict[str, Any]] = []

        def loader(*args: Any, made: list[dict[str, Any]] = made, **settings: Any) -> Any:
            made.append(settings)
            return DataLoader(*args, **settings)

        with patch("torch.utils.data.DataLoader", loader):
            seen.append(list(Loader(samples, 2, shuffle=True, seed=3, workers=workers)))
        assert [(one["num_workers"], one["prefetch_factor"]) for one in made] == (
            [(2, 2)] if workers != 0 and not held else []
        )
    for other in seen[1:]:
        for one, two in zip(seen[0], other, strict=True):
            assert one.ids == two.ids
            assert torch.equal(one.inputs["photo"], two.inputs["photo"])
