"""Every golden record against the library; `POLYMODAL_GOLDEN_DIR` names another folder of the same records."""

import pytest

from tests.golden.records import CHECKED, FOLDER, OWN, checking, records

# Whole topics, or single records as "topic/name"; a record leaves with the change that builds it.
NOT_YET: set[str] = set()
CASES = [
    pytest.param(one, id=one.id, marks=pytest.mark.skip("not built yet") if {one.topic, one.id} & NOT_YET else ())
    for one in records()
]


@pytest.mark.parametrize("record", CASES)
def test_record(record):
    assert record.id in CHECKED, f"nothing checks {record.id}"
    checking(record)(record.expected)


def test_nothing_is_both_checked_and_not_yet_built():
    assert not (CHECKED | {one.split("/")[0] for one in CHECKED}) & NOT_YET


def test_the_folder_holds_every_checked_record():
    found = {one.id for one in records()}
    assert found, f"{FOLDER} holds no golden record"
    if FOLDER == OWN:  # another folder may hold fewer
        assert found >= CHECKED
        assert found | {one.topic for one in records()} >= NOT_YET
