"""Quantiles within their error, merging by adding, and the very slots that PostgreSQL's width_bucket gives."""

import csv
import math
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.histogram import BOUNDS, ERROR, LIMIT, MILLIONTHS, middle_of, quantile, quantiles, slot_of

READINGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "machine_temperature.csv"
HIGHEST = int(LIMIT) * MILLIONTHS
VALUES = st.one_of(
    st.integers(-HIGHEST, HIGHEST),
    st.integers(-200, 200),
    st.sampled_from(BOUNDS[:-1]),
    st.sampled_from(BOUNDS[:-1]).map(lambda v: -v),
)
LISTS = st.lists(VALUES, min_size=1, max_size=60)
FLOATS = 1 + 1e-12  # beyond 2**53 the middle of a slot is rounded
FRACTIONS = (0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0)


def count(values: list[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for value in values:
        counts[slot_of(value)] = counts.get(slot_of(value), 0) + 1
    return counts


def exact(values: list[int], fraction: float) -> int:
    """Nearest rank."""
    return sorted(values)[max(1, math.ceil(fraction * len(values))) - 1]


def assert_within_error(values: list[int], fraction: float) -> None:
    found, true = quantile(count(values), fraction), exact(values, fraction)
    assert found is not None
    assert abs(found - true) <= ERROR * abs(true) * FLOATS, f"quantile {fraction}: {found} instead of {true}"


@given(LISTS, st.floats(0.01, 1.0))
def test_quantile_is_within_the_error_of_the_exact_one(values: list[int], fraction: float) -> None:
    assert_within_error(values, fraction)


@pytest.mark.skipif(not READINGS.exists(), reason="the readings are not beside this checkout")
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_quantiles_of_real_readings_are_within_the_error(fraction: float) -> None:
    with READINGS.open(newline="") as file:
        values = [round(float(line["value"]) * MILLIONTHS) for line in csv.DictReader(file)]
    assert len(values) == 22_695
    assert_within_error(values, fraction)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("shape", [0.5, 1.1, 3.0])
def test_quantiles_of_a_heavy_tail_are_within_the_error(shape: float, fraction: float) -> None:
    chance = random.Random(7)
    values = [min(HIGHEST, round(chance.paretovariate(shape) * MILLIONTHS)) for _ in range(20_000)]
    assert_within_error(values, fraction)


def test_every_slot_stands_for_all_of_its_values() -> None:
    for low, after in pairwise(BOUNDS):
        for value in (low, after - 1, -low, 1 - after):
            assert abs(middle_of(slot_of(value)) - value) <= ERROR * abs(value) * FLOATS


def test_the_whole_range_has_slots() -> None:
    assert BOUNDS[0] == 1
    assert BOUNDS[-1] >= HIGHEST > BOUNDS[-2]
    assert BOUNDS[-1] < 2**63
    assert list(BOUNDS) == sorted(set(BOUNDS))


def test_the_bounds_never_change() -> None:
    """Histograms are stored by slot: other bounds would give old ones another meaning."""
    assert BOUNDS[:3] + BOUNDS[48:53] == (1, 2, 3, 49, 50, 51, 52, 53)
    assert len(BOUNDS) == 2085
    assert sum(BOUNDS) == 463_562_201_379_942_646_950


@given(LISTS, st.lists(st.floats(0.01, 1.0), max_size=5))
def test_several_quantiles_are_each_of_them(values: list[int], fractions: list[float]) -> None:
    counts = count(values)
    assert quantiles(counts, fractions) == [quantile(counts, fraction) for fraction in fractions]


@given(LISTS, LISTS)
def test_merging_is_the_histogram_of_both(left: list[int], right: list[int]) -> None:
    merged = count(left)
    for slot, number in count(right).items():
        merged[slot] = merged.get(slot, 0) + number
    assert merged == count(left + right)
    assert quantile(merged, 0.95) == quantile(count(left + right), 0.95)


@given(VALUES)
def test_slots_are_those_of_width_bucket(value: int) -> None:
    """As PostgreSQL documents it: 0 below the first threshold, else the number of the last one that is not above."""
    bucket = sum(1 for threshold in BOUNDS if threshold <= abs(value))
    assert slot_of(value) == (bucket if value >= 0 else -bucket)


@pytest.mark.parametrize("nothing", [{}, {3: 0}])
def test_nothing_has_no_quantile(nothing: dict[int, int]) -> None:
    assert quantile(nothing, 0.5) is None


def test_what_was_taken_back_does_not_count() -> None:
    assert quantile({5: 0, 9: 2}, 0.5) == quantile({9: 2}, 0.5)
