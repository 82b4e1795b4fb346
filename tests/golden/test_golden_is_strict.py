"""Any one expected number moved beyond its tolerance fails its record, and so does a key that nobody computes."""

import pytest

from tests.golden.checks import CHECKS
from tests.golden.records import Record, compare, computed, moved, records

CASES = [pytest.param(one, id=one.id) for one in records() if one.name in CHECKS.get(one.topic, {})]


@pytest.mark.parametrize("record", CASES)
def test_a_moved_number_fails(record: Record):
    found = computed(record)
    count = 0
    for sign in (1, -1):
        for place, changed in moved(record.expected, sign * 10 * record.tol):
            with pytest.raises(AssertionError, match="is not"):
                compare(found, changed, record.tol)
                pytest.fail(f"{record.id}{place} is not compared")
            count += 1
    assert count >= 2 * len(record.expected)


@pytest.mark.parametrize("record", CASES)
def test_a_key_too_many_or_too_few_fails(record: Record):
    found = computed(record)
    with pytest.raises(AssertionError):
        compare(found, record.expected | {"unheard_of": 0.0}, record.tol)
    for key in record.expected:
        with pytest.raises(AssertionError):
            compare({name: value for name, value in found.items() if name != key}, record.expected, record.tol)
