"""A mergeable histogram of durations with a bounded relative error. Pure.

Bounds grow by the factor `GROWTH`, so a quantile read from it is off by at most `ERROR` (5 %) of the exact value, within
`LOWEST_US` … `HIGHEST_US`; below the lowest bound, by at most that bound. The idea is DDSketch's (Masson, Rim and Lee,
VLDB 2019), with bounds as whole microseconds so that PostgreSQL's `width_bucket` and Python's `bisect` agree to the bit.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

LOWEST_US = 1
HIGHEST_US = 30_000_000
GROWTH = 1.1
ERROR = 0.05


def _make_bounds() -> tuple[int, ...]:
    bounds = [LOWEST_US]
    exact = float(LOWEST_US)
    while bounds[-1] < HIGHEST_US:
        exact *= GROWTH
        if int(exact) > bounds[-1]:
            bounds.append(int(exact))
    return tuple(bounds)


BOUNDS_US = _make_bounds()
"""Bucket i counts values v with BOUNDS_US[i-1] <= v < BOUNDS_US[i]; bucket 0 is below the first bound."""
_MIDDLES_US = (0.0, *((low + high - 1) / 2 for low, high in pairwise(BOUNDS_US)), float(BOUNDS_US[-1]))


def bucket_of(value_us: int) -> int:
    """The bucket of a duration in whole microseconds. PostgreSQL: `width_bucket(value, BOUNDS)`."""
    return bisect_right(BOUNDS_US, value_us)


def quantile_us(counts: Mapping[int, int] | Sequence[int], fraction: float) -> float | None:
    """The `fraction` quantile (nearest rank) in microseconds, or None of nothing.

    `counts`: bucket to count, or a list by bucket.
    """
    pairs: Iterable[tuple[int, int]] = sorted(counts.items()) if isinstance(counts, Mapping) else enumerate(counts)
    pairs = [(bucket, count) for bucket, count in pairs if count > 0]
    total = sum(count for _, count in pairs)
    rank = fraction * total
    seen = 0
    for bucket, count in pairs:
        seen += count
        if seen >= rank:
            return _MIDDLES_US[bucket]
    return None


def to_array(counts: Mapping[int, int]) -> str:
    """The counts as a PostgreSQL array literal, up to the highest bucket used."""
    if not counts:
        return "{}"
    values = [0] * (max(counts) + 1)
    for bucket, count in counts.items():
        values[bucket] = count
    return "{" + ",".join(map(str, values)) + "}"
