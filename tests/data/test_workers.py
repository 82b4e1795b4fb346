"""How many processes decode, and how much they may have ready."""

import pytest

from polymodal.data.workers import processors, workers_for

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
    assert found.count * found.ahead * batch <= min(GB, room // 2)


def test_by_the_machine(monkeypatch):
    for own, world, expected in ((1, 1, 0), (2, 1, 2), (64, 1, 8), (64, 16, 4), (4, 4, 0)):
        monkeypatch.setattr("polymodal.data.workers.processors", lambda own=own: own)
        assert workers_for(None, 1000, world, room=GB).count == expected
    monkeypatch.undo()
    assert processors() >= 1
