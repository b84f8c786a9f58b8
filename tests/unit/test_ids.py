"""Ids sort by their instant, and a bound lies below all ids of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from holdfast.model.ids import id_bound, new_ids


@pytest.mark.parametrize("milliseconds", [0, 1, 1_767_952_800_123])
def test_bound_has_the_instant_and_nothing_else(milliseconds: int) -> None:
    instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    bound = id_bound(instant + timedelta(microseconds=999))
    assert (bound.int >> 80, bound.version) == (milliseconds, 7)
    assert bound.int & ((1 << 62) - 1) == 0
    before = id_bound(instant - timedelta(microseconds=1))
    assert before < bound or milliseconds == 0


def test_no_bound_is_below_the_first_id() -> None:
    assert id_bound(datetime(1, 1, 1, tzinfo=UTC)) == id_bound(datetime(1970, 1, 1, tzinfo=UTC))


def test_new_ids_lie_between_the_bounds_around_them() -> None:
    before = id_bound(datetime.now(UTC))
    found = new_ids(1000)
    after = id_bound(datetime.now(UTC) + timedelta(milliseconds=1))
    assert len(set(found)) == 1000
    assert all(before <= each < after for each in found)
