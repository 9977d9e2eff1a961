"""Quantiles within their error, merging by adding, and the very buckets that PostgreSQL's width_bucket gives."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.histogram import BOUNDS_US, ERROR, HIGHEST_US, LOWEST_US, bucket_of, quantile_us, to_array

TIMES = st.one_of(st.integers(LOWEST_US, HIGHEST_US), st.integers(LOWEST_US, 200), st.sampled_from(BOUNDS_US[:-1]))
LISTS = st.lists(TIMES, min_size=1, max_size=60)


def count(times: list[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for time in times:
        counts[bucket_of(time)] = counts.get(bucket_of(time), 0) + 1
    return counts


def width_bucket(operand: int, thresholds: tuple[int, ...]) -> int:
    """As PostgreSQL documents it: 0 below the first threshold, else the number of the last one that is not above."""
    return sum(1 for threshold in thresholds if threshold <= operand)


@given(LISTS, st.floats(0.01, 1.0))
def test_quantile_is_within_the_error_of_the_exact_one(times: list[int], fraction: float) -> None:
    exact = sorted(times)[math.ceil(fraction * len(times)) - 1]
    found = quantile_us(count(times), fraction)
    assert found is not None
    assert abs(found - exact) <= ERROR * exact


def test_every_bucket_stands_for_all_of_its_values() -> None:
    for low, after in pairwise(BOUNDS_US):
        for value in (low, after - 1):
            found = quantile_us({bucket_of(value): 1}, 0.5)
            assert found is not None
            assert abs(found - value) <= ERROR * value


def test_the_whole_range_has_buckets() -> None:
    assert BOUNDS_US[0] == LOWEST_US
    assert BOUNDS_US[-1] > HIGHEST_US or bucket_of(HIGHEST_US) == len(BOUNDS_US)
    assert list(BOUNDS_US) == sorted(set(BOUNDS_US))


def test_the_bounds_never_change() -> None:
    """Histograms are stored by bucket: other bounds would give old ones another meaning."""
    assert BOUNDS_US[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13)
    assert len(BOUNDS_US) == 166
    assert sum(BOUNDS_US) == 341_561_186


@given(LISTS, LISTS)
def test_merging_is_the_histogram_of_both(left: list[int], right: list[int]) -> None:
    merged = count(left)
    for bucket, number in count(right).items():
        merged[bucket] = merged.get(bucket, 0) + number
    assert merged == count(left + right)
    assert quantile_us(merged, 0.95) == quantile_us(count(left + right), 0.95)


@given(st.one_of(st.integers(-5, HIGHEST_US + 5), st.sampled_from(BOUNDS_US)))
def test_buckets_are_those_of_width_bucket(value: int) -> None:
    assert bucket_of(value) == width_bucket(value, BOUNDS_US)


@given(LISTS)
def test_array_holds_each_count_at_its_bucket(times: list[int]) -> None:
    counts = count(times)
    array = to_array(counts)
    read = [int(item) for item in array[1:-1].split(",")]
    assert {bucket: number for bucket, number in enumerate(read) if number} == counts
    assert len(read) == max(counts) + 1
    assert quantile_us(read, 0.5) == quantile_us(counts, 0.5)


@pytest.mark.parametrize("nothing", [{}, [], {3: 0}, [0, 0]])
def test_nothing_has_no_quantile(nothing: dict[int, int] | list[int]) -> None:
    assert quantile_us(nothing, 0.5) is None


def test_nothing_is_an_empty_array() -> None:
    assert to_array({}) == "{}"


def test_what_was_taken_back_does_not_count() -> None:
    assert quantile_us({5: 0, 9: 2}, 0.5) == quantile_us({9: 2}, 0.5)
