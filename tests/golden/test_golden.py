"""Every golden record against the library; `POLYMODAL_GOLDEN_DIR` names another folder of the same records."""

import pytest

from tests.golden.records import CHECKED, FOLDER, OWN, checking, records


@pytest.mark.parametrize("record", [pytest.param(one, id=one.id) for one in records()])
def test_record(record):
    assert record.id in CHECKED, f"nothing checks {record.id}"
    checking(record)(record.expected)


def test_the_folder_holds_every_checked_record():
    found = {one.id for one in records()}
    assert found, f"{FOLDER} holds no golden record"
    if FOLDER == OWN:  # another folder may hold fewer
        assert found >= CHECKED
