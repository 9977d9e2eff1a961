"""Charts: aligned buckets, all of them there, merged exactly, with quantiles within the stated error of the exact ones."""

import csv
import math
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.chart_points import points_of
from judgify_engine.core.charts import (
    DEFAULT_METRICS,
    SUCCESS_RATE,
    Figures,
    figures_of,
    frame_of,
    merged,
    stored_names,
    sums_of,
    whole,
)
from judgify_engine.core.dashboards import BUCKETS_S, FRAMES_S
from judgify_engine.core.histogram import ERROR, MILLIONTHS
from judgify_engine.core.samples import EXECUTION_COUNT, EXECUTION_TIME, Sample, sample_of

READINGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "machine_temperature.csv"
METRIC = "input.temperature"
FRACTIONS = (0.5, 0.95, 0.99)
FRAME = frame_of("6h", 1_000_000 * 1_800 * 1_000_000)
VALUES = st.lists(st.tuples(st.integers(0, 71), st.integers(-(10**13), 10**13)), max_size=80)


def narrow(values: list[tuple[int, int]], *, failed: bool = False) -> list[tuple[int, Sample]]:
    """(place, value in millionths) as stored buckets of 5 minutes of FRAME."""
    places: dict[int, dict[int, int]] = {}
    for place, value in values:
        counts = places.setdefault(place, {})
        counts[value] = counts.get(value, 0) + 1
    return [(FRAME.start_s + 300 * place, sample_of(counts, 1, failed)) for place, counts in places.items()]


def exact(values: list[int], fraction: float) -> float:
    """Nearest rank, in the metric's unit."""
    return sorted(values)[max(1, math.ceil(fraction * len(values))) - 1] / MILLIONTHS


def assert_figures(figures: Figures, values: list[int]) -> None:
    assert figures.count == len(values)
    if not values:
        assert set(figures[2:]) == {None}
        return
    assert figures.minimum == pytest.approx(min(values) / MILLIONTHS, abs=1e-6)
    assert figures.maximum == pytest.approx(max(values) / MILLIONTHS, abs=1e-6)
    assert figures.mean == pytest.approx(sum(values) / len(values) / MILLIONTHS, abs=1e-6)
    for fraction, found in zip(FRACTIONS, (figures.p50, figures.p95, figures.p99), strict=True):
        true = exact(values, fraction)
        assert found is not None
        assert abs(found - true) <= ERROR * abs(true) + 1e-6, f"p{fraction:.0%}: {found} instead of {true}"
        assert min(values) / MILLIONTHS - 1e-6 <= found <= max(values) / MILLIONTHS + 1e-6


@pytest.mark.parametrize("timeframe", BUCKETS_S)
@given(st.integers(0, 4 * 10**15))
def test_a_frame_is_whole_aligned_buckets_and_its_last_one_holds_the_moment(timeframe: str, moment_us: int) -> None:
    frame = frame_of(timeframe, moment_us)
    assert frame.bucket_s == BUCKETS_S[timeframe]
    assert frame.end_s - frame.start_s == FRAMES_S[timeframe]
    assert frame.start_s % frame.bucket_s == frame.end_s % frame.bucket_s == 0
    assert (frame.end_s - frame.bucket_s) * 1_000_000 < max(1, moment_us) <= max(1, frame.end_s * 1_000_000)
    assert frame.bucket_s % frame.stored_s == 0
    assert (frame.stored_s == 300) == (timeframe in ("1h", "6h"))


def test_the_buckets_are_those_of_the_design() -> None:
    noon = round(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp())
    shapes = {name: (len(frame.starts_s), frame.end_s) for name in BUCKETS_S for frame in [frame_of(name, noon * 1_000_000)]}
    assert shapes == {"1h": (12, noon), "6h": (12, noon), "24h": (24, noon), "7d": (28, noon)}
    later = frame_of("6h", noon * 1_000_000 + 1)
    assert (later.end_s, later.starts_s[-1]) == (noon + 1800, noon)


@given(VALUES)
def test_merged_buckets_have_the_figures_of_their_values(values: list[tuple[int, int]]) -> None:
    buckets = merged(narrow(values), FRAME)
    assert len(buckets) == 12
    for number, bucket in enumerate(buckets):
        assert_figures(figures_of(METRIC, bucket), [value for place, value in values if place // 6 == number])
    assert_figures(figures_of(METRIC, whole(buckets)), [value for _, value in values])


@given(VALUES, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(values: list[tuple[int, int]], chance: random.Random) -> None:
    shuffled = narrow(values)
    chance.shuffle(shuffled)
    told = [figures_of(METRIC, bucket) for bucket in merged(narrow(values), FRAME)]
    assert [figures_of(METRIC, bucket) for bucket in merged(shuffled, FRAME)] == told


def test_the_whole_leaves_the_buckets_as_they_are() -> None:
    buckets = merged(narrow([(0, 5), (1, 7), (70, 9)]), FRAME)
    before = [(bucket.count, dict(bucket.histogram)) for bucket in buckets]
    whole(buckets)
    assert [(bucket.count, dict(bucket.histogram)) for bucket in buckets] == before


def test_empty_buckets_are_there_with_nothing_in_them() -> None:
    buckets = merged([], FRAME)
    assert [figures_of(METRIC, bucket) for bucket in buckets] == [Figures(0, 0)] * 12
    assert figures_of(METRIC, whole(buckets)) == Figures(0, 0)


def test_what_lies_outside_is_left_out() -> None:
    rows = [(FRAME.start_s - 300, Sample(1)), (FRAME.end_s, Sample(1)), (FRAME.end_s - 300, Sample(5))]
    assert [bucket.count for bucket in merged(rows, FRAME)] == [0] * 11 + [5]


def test_values_that_were_all_taken_back_leave_no_figures() -> None:
    sample = sample_of({70: 1}, 1, False)
    sample.add(Sample(-1, 0, -70, None, None, {next(iter(sample.histogram)): -1}))
    assert figures_of(METRIC, sample) == Figures(0, 0)


@pytest.mark.skipif(not READINGS.exists(), reason="the readings are not beside this checkout")
def test_real_readings_are_within_the_error_in_every_frame() -> None:
    with READINGS.open(newline="") as file:
        readings = [
            (
                round(datetime.fromisoformat(line["timestamp"]).replace(tzinfo=UTC).timestamp()),
                round(float(line["value"]) * MILLIONTHS),
            )
            for line in csv.DictReader(file)
        ]
    last_us = (readings[-1][0] + 1) * 1_000_000
    for timeframe in BUCKETS_S:
        frame = frame_of(timeframe, last_us)
        inside = [(second, value) for second, value in readings if frame.start_s <= second < frame.end_s]
        rows = [(second - second % frame.stored_s, sample_of({value: 1}, 1, False)) for second, value in inside]
        buckets = merged(rows, frame)
        for start_s, bucket in zip(frame.starts_s, buckets, strict=True):
            within = [value for second, value in inside if start_s <= second < start_s + frame.bucket_s]
            assert_figures(figures_of(METRIC, bucket), within)
        assert_figures(figures_of(METRIC, whole(buckets)), [value for _, value in inside])


@pytest.mark.parametrize("shape", [0.5, 1.1, 3.0])
def test_a_heavy_tail_in_many_buckets_is_within_the_error(shape: float) -> None:
    chance = random.Random(11)
    values = [(chance.randrange(72), min(10**18, round(chance.paretovariate(shape) * MILLIONTHS))) for _ in range(20_000)]
    assert_figures(figures_of(METRIC, whole(merged(narrow(values), FRAME))), [value for _, value in values])


@given(st.integers(1, 500), st.integers(0, 500))
def test_success_rate_and_count_are_exact(completed: int, failed: int) -> None:
    sample = sample_of({700: completed}, 1000, False)
    sample.add(sample_of({900: failed}, 1000, True))
    rate = figures_of(SUCCESS_RATE, sample)
    ones = [0] * failed + [MILLIONTHS] * completed
    assert (rate.count, rate.failed, rate.mean) == (len(ones), failed, round(completed / len(ones), 6))
    assert rate[3:] == (exact(ones, 0), 1.0, *(exact(ones, fraction) for fraction in FRACTIONS))
    assert figures_of(EXECUTION_COUNT, sample) == Figures(len(ones), failed, *[1.0] * 6)


def test_each_stored_metric_is_read_once() -> None:
    assert stored_names([*DEFAULT_METRICS, SUCCESS_RATE, METRIC]) == [EXECUTION_TIME, "confidence", METRIC]


def test_a_chart_shows_what_the_dashboard_counts() -> None:
    sample = sample_of({1500: 3}, 1000, False)  # µs
    sample.add(sample_of({2500: 1}, 1000, True))
    sums = sums_of(sample)
    assert points_of("execution_count_chart", [(7, sums)]) == [[7, 4, 1]]
    assert points_of("success_rate_chart", [(7, sums)]) == [[7, 0.75]]
    [[_, mean_ms, p95_ms]] = points_of("response_time_chart", [(7, sums)])
    assert mean_ms == 1.75
    assert p95_ms == pytest.approx(2.5, rel=ERROR)
    assert points_of("response_time_chart", [(7, sums_of(Sample()))]) == [[7, None, None]]
