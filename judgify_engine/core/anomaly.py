"""When a tracked metric leaves its usual band: what is usual at this hour, and what a bucket of 5 minutes says to that. Pure.

- The band is the median of the last `history_days`, plus what this hour of the day usually differs by, and `sensitivity`
  spreads to each side; all of it weighted by how many readings a bucket has. The spread is the half width between the 5 % and
  the 95 % quantile, scaled to be a standard deviation where values are normal: machines and people have long tails of their
  own, which the MAD of the usual robust z-score (Iglewicz and Hoaglin 1993, with a cut of 3.5) does not see. The default is 4,
  as a metric is looked at 288 times a day: normal values pass 4 spreads once in two months, 3.5 once a week.
- What lies outside enters the history as the nearest end of the band, not as it is (the cleaning of Gelper, Fried and Croux
  2010). So a failure of days does not make the next one usual, and a level that changed for good does become usual, slowly.
- Hours of the day are told apart only when there are `SEASON_DAYS` days of them, and only by as much as they differ by more
  than chance would (positive-part James-Stein); until then, and where they do not differ, all hours are one. Nothing is judged
  before there are `LEARN_DAYS`.
- A band holds for one hour and is made of what came before it only. Hours are those of UTC.
- It is over when values are back within `CLEAR_SHARE` of the band's width; between that and outside, nothing changes.
"""

from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate
from statistics import NormalDist, median
from typing import Literal, NamedTuple

import msgspec

from judgify_engine.core.alert_state import Observation
from judgify_engine.core.samples import FINE_S, HOUR_S

DAY_S = 86_400
TAIL = 0.05
"""The share of the history that is left out of the spread on each side: what is amiss less often does not widen it."""
TAIL_Z = -NormalDist().inv_cdf(TAIL)
CLEAR_SHARE = 0.75
LEARN_DAYS, LEARN_BUCKETS = 3, 72
SEASON_DAYS = 14
"""So many observations of an hour of the day give its median an error of a third of their spread."""
GAP_S = 900
"""Where there was nothing for longer, what was outside before and is after was not outside all the time."""
LEAST_SPREAD = 1e-3
"""Of the median's size: a metric that never changed is outside when it changes by `sensitivity` times this."""
MADN = 1.4826
MEDIAN_ERROR = 1.2533
"""The error of a median, in errors of a mean (of normal values)."""


class Settings(NamedTuple):
    """Of a rule."""

    sensitivity: float
    """Spreads from the median to each end of the band: less finds more."""
    history_days: int
    season: Literal["hour", "none"]


class Bucket(NamedTuple):
    """A stored bucket of `FINE_S`. `count` is positive."""

    start_s: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs of a bucket
    mean: float


class Band(NamedTuple):
    """What is usual in one hour."""

    hour_s: int
    low: float
    high: float
    middle: float
    """The median, and what this hour of the day differs by."""
    median: float
    spread: float
    days: float
    """What the history spans."""
    buckets: int
    season_days: int
    """Of so many days this hour of the day is told apart; 0: it is not."""

    def distance(self, value: float) -> float:
        """How many spreads from the middle; negative: below."""
        return (value - self.middle) / self.spread


class Memory(msgspec.Struct):
    """What has to be kept from one evaluation to the next; all else is read from the stored buckets."""

    metric: str = ""
    through_s: int = 0
    """Buckets that begin before this were judged, or are history."""
    seen_s: int = -1
    """The newest bucket at the last look: what began no later is whole by now, or late."""
    band: Band | None = None
    """Of the hour that was looked at last."""
    clipped: dict[int, tuple[float, float]] = {}
    """Hour (Unix) to its band, of hours of the history in which something was outside."""
    outside_since_s: int | None = None
    """Since when all buckets are outside."""


class Walk:
    """Goes through the buckets of a metric in the order of their time, and says what each is like."""

    def __init__(self, settings: Settings, memory: Memory) -> None:
        """`memory` is changed as the walk goes on."""
        self.memory = memory
        self._settings = settings
        self._past = _Past(settings)
        self._hour_s = -1 if memory.band is None else memory.band.hour_s

    def remember(self, buckets: Iterable[Bucket]) -> None:
        """What was there before, in order: from `since_s` of what is judged first. Only before anything is judged."""
        for bucket in buckets:
            low, high = self.memory.clipped.get(bucket.start_s - bucket.start_s % HOUR_S, (bucket.mean, bucket.mean))
            self._past.add(bucket, min(max(bucket.mean, low), high) if low < high else bucket.mean)

    def judge(self, bucket: Bucket) -> Iterator[Observation]:
        """What the next bucket says; two where there was a gap before it."""
        memory, value = self.memory, bucket.mean
        if memory.through_s and bucket.start_s + FINE_S - memory.through_s > GAP_S:
            memory.outside_since_s = None
            yield Observation(bucket.start_s, bad=False, clear=False, reason="nothing came for a while")
        memory.through_s = bucket.start_s + FINE_S
        band = self._band_of(bucket.start_s - bucket.start_s % HOUR_S)
        if band is None:
            self._past.add(bucket, value)
            yield Observation(bucket.start_s + FINE_S, bad=False, clear=True, reason=f"fewer than {LEARN_DAYS} days are known")
            return
        distance = band.distance(value)
        bad = abs(distance) > self._settings.sensitivity
        if not bad:
            memory.outside_since_s = None
        else:
            memory.clipped[band.hour_s] = (band.low, band.high)
            if memory.outside_since_s is None:
                memory.outside_since_s = bucket.start_s
        self._past.add(bucket, min(max(value, band.low), band.high))
        clear = abs(distance) < self._settings.sensitivity * CLEAR_SHARE
        numbers = _numbers(band, bucket, memory.outside_since_s)
        yield Observation(bucket.start_s + FINE_S, bad, clear, _reason(band, value, distance), numbers)

    def _band_of(self, hour_s: int) -> Band | None:
        if hour_s != self._hour_s:
            self._hour_s, self.memory.band = hour_s, self._past.band(hour_s)
            oldest_s = since_s(hour_s, self._settings)
            for hour in [hour for hour in self.memory.clipped if hour < oldest_s]:
                del self.memory.clipped[hour]
        return self.memory.band


def needs_history(memory: Memory, fresh: Sequence[Bucket]) -> bool:
    """Whether a walk has to `remember` before it judges these: its band is not of the hour that they all are in."""
    return memory.band is None or any(bucket.start_s - bucket.start_s % HOUR_S != memory.band.hour_s for bucket in fresh)


def since_s(second: int, settings: Settings) -> int:
    """From when on the history is needed to judge a bucket of this second. Whole days: the season is looked at daily."""
    return second - second % DAY_S - settings.history_days * DAY_S


class _Past:
    """The cleaned history. A band costs as much as one run through it; each day all of it is looked at for the season."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entries: deque[tuple[int, int, float]] = deque()
        """start, count, value; in order."""
        self._day_s = -1
        self._offsets: Mapping[int, tuple[float, int]] = {}
        """Second of the day of an hour to what it usually differs by, and of how many days that is known."""
        self._sorted: list[tuple[float, int]] = []
        """(value less its hour's offset, count) of what is in the window of the last band."""
        self._first = self._next = 0
        """Which entries, by their place in `_entries`, that is: first included, next not."""

    def add(self, bucket: Bucket, value: float) -> None:
        self._entries.append((bucket.start_s, bucket.count, value))

    def band(self, hour_s: int) -> Band | None:
        """What is usual in an hour that begins no earlier than all that was added; None: too little is known."""
        if hour_s - hour_s % DAY_S != self._day_s:
            self._begin_day(hour_s - hour_s % DAY_S)
        self._slide(hour_s)
        entries = self._entries
        if len(self._sorted) < LEARN_BUCKETS or hour_s - entries[self._first][0] < LEARN_DAYS * DAY_S:
            return None
        low, middle, high = _quantiles(self._sorted, (TAIL, 0.5, 1 - TAIL))
        spread = max((high - low) / 2 / TAIL_Z, abs(middle) * LEAST_SPREAD, 1e-9)
        offset, days = self._offsets.get(hour_s % DAY_S, (0.0, 0))
        reach = self._settings.sensitivity * spread
        spanned = (hour_s - entries[self._first][0]) / DAY_S
        centre = middle + offset
        return Band(hour_s, centre - reach, centre + reach, centre, middle, spread, spanned, len(self._sorted), days)

    def _begin_day(self, day_s: int) -> None:
        entries, oldest_s = self._entries, day_s - self._settings.history_days * DAY_S
        while entries and entries[0][0] < oldest_s:
            entries.popleft()
        self._day_s = day_s
        if self._settings.season == "hour":
            self._offsets = _offsets(entry for entry in entries if entry[0] < day_s)
        self._sorted, self._first, self._next = [], 0, 0

    def _slide(self, hour_s: int) -> None:
        """Move the window to the `history_days` before an hour."""
        entries, oldest_s = self._entries, hour_s - self._settings.history_days * DAY_S
        fresh = []
        while self._next < len(entries) and entries[self._next][0] < hour_s:
            fresh.append(self._residual(entries[self._next]))
            self._next += 1
        if len(fresh) > len(self._sorted):
            self._sorted = sorted(self._sorted + fresh)
        else:
            for one in fresh:
                insort(self._sorted, one)
        while self._first < self._next and entries[self._first][0] < oldest_s:
            del self._sorted[bisect_left(self._sorted, self._residual(entries[self._first]))]
            self._first += 1

    def _residual(self, entry: tuple[int, int, float]) -> tuple[float, int]:
        second, count, value = entry
        offset, _ = self._offsets.get(second % DAY_S // HOUR_S * HOUR_S, (0.0, 0))
        return value - offset, count


def _quantiles(values: list[tuple[float, int]], fractions: Iterable[float]) -> list[float]:
    """Quantiles (nearest rank) of sorted (value, count)."""
    seen = list(accumulate(count for _, count in values))
    return [values[bisect_left(seen, fraction * seen[-1])][0] for fraction in fractions]


def _offsets(entries: Iterable[tuple[int, int, float]]) -> Mapping[int, tuple[float, int]]:
    """What hours of the day usually differ by from the median of their day. Empty: by no more than chance."""
    hours: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for second, count, value in entries:
        sums = hours[second - second % HOUR_S]
        sums[0] += value * count
        sums[1] += count
    days: dict[int, dict[int, float]] = defaultdict(dict)
    for hour_s, (total, readings) in hours.items():
        days[hour_s // DAY_S][hour_s % DAY_S] = total / readings
    differences: dict[int, list[float]] = defaultdict(list)
    for means in days.values():
        level = median(means.values())
        for second, mean in means.items():
            differences[second].append(mean - level)
    found = {second: (median(seen), len(seen)) for second, seen in differences.items() if len(seen) >= SEASON_DAYS}
    signal = sum(offset**2 for offset, _ in found.values())
    noise = 0.0
    for second, (offset, number) in found.items():
        mad = median(abs(one - offset) for one in differences[second])
        noise += (MEDIAN_ERROR * MADN * mad) ** 2 / number
    kept = 1 - noise / signal if signal > 0 else 0.0
    return {second: (offset * kept, number) for second, (offset, number) in found.items()} if kept > 0 else {}


def _numbers(band: Band, bucket: Bucket, outside_since_s: int | None) -> dict[str, float | int | str | None]:
    return {
        "value": _short(bucket.mean),
        "readings": bucket.count,
        "usual_low": _short(band.low),
        "usual_high": _short(band.high),
        "usual": _short(band.middle),
        "median": _short(band.median),
        "spread": _short(band.spread),
        "spreads_away": round(band.distance(bucket.mean), 2),
        "history_days": round(band.days, 1),
        "history_buckets": band.buckets,
        "hour": band.hour_s % DAY_S // HOUR_S if band.season_days else None,
        "hour_days": band.season_days,
        "since": None if outside_since_s is None else f"{datetime.fromtimestamp(outside_since_s, UTC):%Y-%m-%dT%H:%M:%SZ}",
    }


def _reason(band: Band, value: float, distance: float) -> str:
    where = "within" if band.low <= value <= band.high else "above" if distance > 0 else "below"
    hour = f", of this hour of the day {band.season_days}" if band.season_days else ""
    return (
        f"{_text(value)} is {where} the usual {_text(band.low)} to {_text(band.high)}: {abs(distance):.1f} spreads of"
        f" {_text(band.spread)} from {_text(band.middle)} (median {_text(band.median)} of {band.buckets:,} buckets"
        f" in {band.days:.0f} days{hour})"
    )


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _text(value: float) -> str:
    return f"{value:.4g}"
