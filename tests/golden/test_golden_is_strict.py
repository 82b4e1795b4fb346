"""Any one expected number moved beyond its tolerance fails its record, and so does a key that nobody computes."""

import pytest

from tests.golden.records import CHECKED, Record, checking, moved, records

CASES = [pytest.param(one, id=one.id) for one in records() if one.id in CHECKED]


def fails(check, expected):
    try:
        check(expected)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("record", CASES)
def test_a_moved_number_fails(record: Record):
    check = checking(record)
    for sign in (1, -1):
        variants = list(moved(record.expected, sign * 10 * record.tol))
        assert len(variants) >= len(record.expected)
        for place, changed in variants:
            assert fails(check, changed), f"{record.id}{place} is not compared"


@pytest.mark.parametrize("record", CASES)
def test_a_key_that_nobody_computes_fails(record: Record):
    with pytest.raises(AssertionError):
        checking(record)(record.expected | {"unheard_of": 0.0})
