"""Months, weeks and days as ranges of time and of UUIDv7 keys: which partitions there should be. Pure, all in UTC.

The rule that lets the width change at any time: what is there stays, and a new period begins where the one before it ends. It
ends at the next boundary of the width of today, or where a later period begins. So there is no gap and no overlap.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

Width = Literal["month", "week", "day"]
AHEAD: dict[Width, int] = {"month": 3, "week": 6, "day": 14}
"""How many whole periods there are after the present one."""
_RANDOM_BITS = 80
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_LAST_MS = (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // _MS


class Period(NamedTuple):
    """From `start` (inclusive) to `end`."""

    start: datetime
    end: datetime

    @property
    def suffix(self) -> str:
        """What the period's partition is called by: its month where it is a whole one, else its first day or moment."""
        if self.start == floor(self.start, "month") and self.end == after(self.start, "month"):
            return f"{self.start:%Y_%m}"
        if self.start == floor(self.start, "day"):
            return f"{self.start:%Y_%m_%d}"
        return f"{self.start:%Y_%m_%d_%H%M%S}_{self.start.microsecond // 1000:03d}"

    @property
    def ids(self) -> tuple[str, str]:
        """The smallest UUIDv7 of each end."""
        return smallest_id(self.start), smallest_id(self.end)


def floor(moment: datetime, width: Width) -> datetime:
    """The last boundary of `width` at or before `moment`. Weeks begin on Monday."""
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if width == "month":
        return day.replace(day=1)
    return day - timedelta(days=day.weekday()) if width == "week" else day


def after(moment: datetime, width: Width) -> datetime:
    """The first boundary of `width` after `moment`."""
    start = floor(moment, width)
    if width == "month":
        return start.replace(year=start.year + start.month // 12, month=start.month % 12 + 1)
    return start + timedelta(days=7 if width == "week" else 1)


def missing(existing: Iterable[Period], now: datetime, width: Width) -> list[Period]:
    """What has to be added so that the present and `AHEAD` periods after it are covered, the earliest first."""
    until = after(now, width)
    for _ in range(AHEAD[width]):
        until = after(until, width)
    return list(_missing(sorted(existing), floor(now, width), until, width))


def _missing(existing: list[Period], place: datetime, until: datetime, width: Width) -> Iterator[Period]:
    for start, end in [*existing, Period(until, until)]:
        while place < min(start, until):
            stop = min(after(place, width), start)
            yield Period(place, stop)
            place = stop
        place = max(place, end)


def smallest_id(moment: datetime) -> str:
    """The smallest UUIDv7 of a moment (of a whole millisecond), in hexadecimal; as `judgify_uuid7_floor` in SQL."""
    return f"{(moment - _EPOCH) // _MS:012x}{0:020x}"


def period_of(low: str | None, high: str | None) -> Period:
    """The period in which all UUIDv7 from `low` to `high` (not included) were made; None: no bound.

    Bounds that somebody else chose are widened to whole milliseconds, and what is beyond a `datetime` is its end.
    """
    start = 0 if low is None else int(low.replace("-", ""), 16) >> _RANDOM_BITS
    end = _LAST_MS if high is None else -(-int(high.replace("-", ""), 16) >> _RANDOM_BITS)
    return Period(_EPOCH + min(start, _LAST_MS) * _MS, _EPOCH + min(end, _LAST_MS) * _MS)
