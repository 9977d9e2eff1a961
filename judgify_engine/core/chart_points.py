"""The points of each type of chart, as messages and the API give them. Pure.

All but two types have a point for a bucket of time. A confidence_chart is one distribution of the whole time frame; a
workflows_chart has a row for each workflow, over all that there ever was, the busiest first.
"""

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

from judgify_engine.core.bins import FROM_PPM
from judgify_engine.core.histogram import MILLIONTHS, quantile
from judgify_engine.core.rollup import Sums
from judgify_engine.core.samples import Sample

MAX_WORKFLOWS = 50
MAX_RESULTS = 30
"""Results in one point, the most frequent ones; the others are counted together as `OTHERS`."""
OTHERS = "*"

Point = list[Any]


def points_of(chart: str, buckets: Iterable[tuple[int, Sums]]) -> list[Point]:
    """Of the types that are made of sums alone."""
    if chart == "execution_count_chart":
        return [[start, sums.total, sums.failed] for start, sums in buckets]
    if chart == "response_time_chart":
        return [[start, mean_ms(sums), p95_ms(sums.histogram)] for start, sums in buckets]
    if chart == "methods_chart":
        return [[start, sums.rule, sums.llm, sums.hybrid] for start, sums in buckets]
    return [[start, success_rate(sums)] for start, sums in buckets]


def result_points(buckets: Iterable[tuple[int, Mapping[str, int]]]) -> list[Point]:
    """Bucket, and how often each result came in it."""
    return [[start, _frequent(results)] for start, results in buckets]


def _frequent(results: Mapping[str, int]) -> dict[str, int]:
    found = {name: count for name, count in sorted(results.items()) if count}
    if len(found) <= MAX_RESULTS:
        return found
    ranked = sorted(found, key=lambda name: -found[name])
    rest = sum(found.pop(name) for name in ranked[MAX_RESULTS:])
    return found | {OTHERS: found.get(OTHERS, 0) + rest}


def tracked_points(buckets: Iterable[tuple[int, Sample]]) -> list[Point]:
    """Bucket, then count, mean, minimum, maximum and p95 of a tracked field in its own unit."""
    return [[start, *_tracked(sample)] for start, sample in buckets]


def _tracked(sample: Sample) -> list[float | None]:
    low, high = sample.minimum, sample.maximum
    if sample.count <= 0 or low is None or high is None:
        return [sample.count, None, None, None, None]
    middle = quantile(sample.histogram, 0.95)
    p95 = None if middle is None else min(max(middle, low), high)  # a slot's middle may lie beyond all values in it
    return [sample.count, *(None if one is None else _in_unit(one) for one in (sample.sum / sample.count, low, high, p95))]


def confidence_points(bins: Iterable[Mapping[int, int]]) -> list[Point]:
    """Where each bin begins and how many confidences are in it, all bins, also empty ones."""
    counts = [0] * len(FROM_PPM)
    for one in bins:
        for number, count in one.items():
            counts[number] += count
    return [[_in_unit(start), count] for start, count in zip(FROM_PPM, counts, strict=True)]


def workflow_points(workflows: Iterable[tuple[str, Sums]]) -> list[Point]:
    """A row for each, in the order in which they come."""
    return [[name, sums.total, sums.total - sums.failed, mean_ms(sums)] for name, sums in workflows]


def busiest(workflows: Mapping[str, Sums]) -> list[str]:
    """The workflows that are told."""
    return sorted(workflows, key=lambda name: (-workflows[name].total, name))[:MAX_WORKFLOWS]


def frame_end_s(now_s: float, bucket_s: int) -> int:
    """Where the bucket ends that a moment lies in, as the API counts (core/charts)."""
    return ceil(now_s / bucket_s) * bucket_s


def success_rate(sums: Sums) -> float | None:
    return round((sums.total - sums.failed) / sums.total, 6) if sums.total else None


def mean_ms(sums: Sums) -> float | None:
    return round(sums.execution_time_us / 1000 / sums.total, 4) if sums.total else None


def p95_ms(histogram: Mapping[int, int]) -> float | None:
    value = quantile(histogram, 0.95)
    return None if value is None else round(value / MILLIONTHS, 4)


def _in_unit(millionths: float) -> float:
    return round(millionths / MILLIONTHS, 6)
