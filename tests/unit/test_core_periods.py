"""Periods: whatever the width is and was, there is no gap, no overlap, and no two of the same name."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import get_args
from uuid import UUID

import pytest
import uuid_utils
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.periods import AHEAD, Period, Width, after, floor, missing, period_of, smallest_id

WIDTHS: tuple[Width, ...] = get_args(Width)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("moment", "width", "start", "end", "suffix"),
    [
        ("2026-11-24T17:30:00.5", "month", "2026-11-01", "2026-12-01", "2026_11"),
        ("2026-12-31T23:59:59.999999", "month", "2026-12-01", "2027-01-01", "2026_12"),
        ("2028-02-29", "month", "2028-02-01", "2028-03-01", "2028_02"),
        ("2027-02-28T12:00", "month", "2027-02-01", "2027-03-01", "2027_02"),
        ("2028-02-29T01:00", "day", "2028-02-29", "2028-03-01", "2028_02_29"),
        ("2026-12-31T01:00", "day", "2026-12-31", "2027-01-01", "2026_12_31"),
        ("2026-11-29T23:00", "week", "2026-11-23", "2026-11-30", "2026_11_23"),
        ("2026-11-30", "week", "2026-11-30", "2026-12-07", "2026_11_30"),
        ("2027-01-01", "week", "2026-12-28", "2027-01-04", "2026_12_28"),
    ],
)
def test_the_period_of_a_moment(moment: str, width: Width, start: str, end: str, suffix: str) -> None:
    period = Period(floor(at(moment), width), after(at(moment), width))
    assert period == (at(start), at(end))
    assert period.suffix == suffix


def test_what_is_no_whole_month_or_begins_at_no_midnight_is_called_by_its_start() -> None:
    assert Period(at("2026-11-01"), at("2026-11-02")).suffix == "2026_11_01"
    assert Period(at("2026-11-05"), at("2026-12-01")).suffix == "2026_11_05"
    assert Period(at("2026-11-05T10:20:30.004"), at("2026-12-01")).suffix == "2026_11_05_102030_004"


def test_a_fresh_database_gets_this_period_and_the_next_ones() -> None:
    assert [one.suffix for one in missing([], at("2026-11-24"), "month")] == ["2026_11", "2026_12", "2027_01", "2027_02"]
    for width in WIDTHS:
        assert len(missing([], at("2026-11-24"), width)) == AHEAD[width] + 1


def test_a_new_width_begins_where_the_made_ahead_ones_end() -> None:
    months = missing([], at("2026-11-24"), "month")
    assert missing(months, at("2026-11-24"), "day") == []
    assert [one.suffix for one in missing(months, at("2027-02-15"), "day")] == ["2027_03_01"]
    days = missing([], at("2026-11-24"), "day")  # up to December 8
    assert missing(days, at("2026-11-24"), "week")[0] == (at("2026-11-23"), at("2026-11-24"))
    assert missing(days, at("2026-11-24"), "month")[:2] == [
        (at("2026-11-01"), at("2026-11-24")),
        (days[-1].end, at("2027-01-01")),
    ]


def test_a_gap_between_two_that_are_there_is_filled_to_the_millisecond() -> None:
    odd = Period(at("2026-11-24T10:20:30.004"), at("2026-12-24T01:02:03"))
    found = missing([odd, Period(at("2027-01-01"), at("2027-02-01"))], at("2026-11-24"), "month")
    assert found[:2] == [(at("2026-11-01"), odd.start), (odd.end, at("2027-01-01"))]


@given(st.lists(st.tuples(st.sampled_from(WIDTHS), st.timedeltas(timedelta(0), timedelta(days=150))), max_size=20), moments)
def test_no_gap_no_overlap_whatever_the_changes_of_width(steps: list[tuple[Width, timedelta]], now: datetime) -> None:
    there = missing([], now, "month")
    first = there[0].start
    for width, pause in steps:
        now += pause
        added = missing(there, now, width)
        there = sorted([*there, *added])
        assert missing(there, now, width) == [], "what was made is known again"
        assert all(one.start < one.end for one in there)
        assert all(one.end <= following.start for one, following in pairwise(there)), "two overlap"
        covered = [one for one in there if one.end > floor(now, width)]
        assert covered[0].start <= floor(now, width) or floor(now, width) < first
        assert all(one.end == following.start for one, following in pairwise(covered)), "there is a gap"
        assert covered[-1].end >= after(now, width) + timedelta(days=13)
        assert len({one.suffix for one in there}) == len(there)


@given(moments)
def test_ids_of_a_period_are_those_made_in_it(moment: datetime) -> None:
    period = Period(floor(moment, "day"), after(moment, "day"))
    low, high = period.ids
    nanoseconds = int((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)) * 1000
    made = uuid_utils.uuid7(nanoseconds=nanoseconds).hex
    assert low <= made < high
    assert period_of(low, high) == period


def test_bounds_of_others_are_widened_never_narrowed() -> None:
    low, high = smallest_id(at("2026-11-01")), smallest_id(at("2026-12-01"))
    odd = period_of(str(UUID(int=int(low, 16) + 1)), str(UUID(int=int(high, 16) + 1)))
    assert odd == (at("2026-11-01"), at("2026-12-01T00:00:00.001"))
    everything = period_of(None, None)
    assert (everything.start.year, everything.end.year) == (1970, 9999)
    assert period_of(low, 32 * "f").end == everything.end
