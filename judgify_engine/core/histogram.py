"""A mergeable histogram of any numbers with a bounded relative error, and what all metrics are counted in. Pure.

Values are whole millionths of a metric's unit, so sums are exact whatever their order. Slots grow by 2 %, so a quantile read
from them is off by at most `ERROR` (1 %) of the exact one (nearest rank); by nothing for values under 50 millionths. The
idea is DDSketch's (Masson, Rim and Lee, VLDB 2019), with whole numbers as bounds so that PostgreSQL's `width_bucket` and
Python's `bisect` agree to the bit.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import accumulate
from math import ceil

MILLIONTHS = 1_000_000
LIMIT = 9e12
"""Values beyond this, in a metric's unit, are not counted: in millionths they would not fit PostgreSQL's bigint."""
ERROR = 0.01


def _make_bounds() -> tuple[int, ...]:
    bounds = [1]
    while bounds[-1] < LIMIT * MILLIONTHS:
        bounds.append(max(bounds[-1] + 1, bounds[-1] * 102 // 100))
    return tuple(bounds)


BOUNDS = _make_bounds()
"""Slot i > 0 counts values v with BOUNDS[i-1] <= v < BOUNDS[i], slot -i the same below zero, slot 0 zero itself."""
BOUNDS_SQL = "'{" + ",".join(map(str, BOUNDS)) + "}'::bigint[]"


@lru_cache(maxsize=16_384)  # the same times and readings come again: 0.06 µs instead of 0.2
def slot_of(value: int) -> int:
    """The slot of a value in millionths. In PostgreSQL: see `slot_sql`."""
    return bisect_right(BOUNDS, value) if value >= 0 else -bisect_right(BOUNDS, -value)


def slot_sql(value: str) -> str:
    """The SQL expression for the slot of `value`, itself an expression of type bigint."""
    return f"CASE WHEN {value} >= 0 THEN 1 ELSE -1 END * width_bucket(abs({value}), {BOUNDS_SQL})"


def middle_of(slot: int) -> float:
    """The value that stands for a slot, in millionths."""
    if slot == 0:
        return 0.0
    place = min(abs(slot), len(BOUNDS) - 1)
    middle = (BOUNDS[place - 1] + BOUNDS[place] - 1) / 2
    return middle if slot > 0 else -middle


def quantile(counts: Mapping[int, int], fraction: float) -> float | None:
    """The `fraction` quantile (nearest rank) in millionths, or None of nothing. `counts`: slot to count."""
    return quantiles(counts, (fraction,))[0]


def quantiles(counts: Mapping[int, int], fractions: Iterable[float]) -> list[float | None]:
    """The same for several fractions, for the cost of one."""
    slots = sorted([slot for slot, count in counts.items() if count > 0])
    seen = list(accumulate([counts[slot] for slot in slots]))
    if not slots:
        return [None for _ in fractions]
    return [middle_of(slots[bisect_left(seen, max(1, ceil(fraction * seen[-1])))]) for fraction in fractions]
