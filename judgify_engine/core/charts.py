"""The charts of a time frame: which buckets it has, stored ones merged into them, and the figures of each. Pure.

Buckets are aligned to the Unix epoch, whenever the frame ends. Count, mean, minimum and maximum are exact. p50, p95 and p99
are read from the merged histogram, so they are within `ERROR` (1 %) of the exact ones (nearest rank) however many buckets were
merged, and never outside of minimum and maximum.
"""

from collections.abc import Iterable, Sequence
from math import ceil
from typing import NamedTuple

from judgify_engine.core.counts import is_counted
from judgify_engine.core.dashboards import BUCKETS_S, FRAMES_S
from judgify_engine.core.histogram import MILLIONTHS, quantiles
from judgify_engine.core.rollup import Sums
from judgify_engine.core.samples import CONFIDENCE, EXECUTION_COUNT, EXECUTION_TIME, FINE_S, HOUR_S, Sample

SUCCESS_RATE = "success_rate"
DEFAULT_METRICS = (EXECUTION_COUNT, EXECUTION_TIME, CONFIDENCE)
JUDGED = (*DEFAULT_METRICS, SUCCESS_RATE)
"""What every judgment has. The first and the last are counted with the execution times: every judgment has one."""
FRACTIONS = (0.5, 0.95, 0.99)


class Frame(NamedTuple):
    """Whole buckets of `bucket_s` seconds, [start, end) in Unix seconds."""

    start_s: int
    end_s: int
    bucket_s: int

    @property
    def stored_s(self) -> int:
        """The width of the stored buckets that these are made of."""
        return FINE_S if self.bucket_s < HOUR_S else HOUR_S

    @property
    def starts_s(self) -> range:
        """Where each bucket starts."""
        return range(self.start_s, self.end_s, self.bucket_s)


def frame_of(timeframe: str, until_us: int) -> Frame:
    """The frame whose last bucket holds what comes right before `until_us` (Unix µs)."""
    bucket_s = BUCKETS_S[timeframe]
    end_s = -(-until_us // (bucket_s * 1_000_000)) * bucket_s
    return Frame(end_s - FRAMES_S[timeframe], end_s, bucket_s)


def stored_names(metrics: Iterable[str]) -> list[str]:
    """The stored metrics that these are computed from, each once."""
    return list(dict.fromkeys(stored_name(metric) for metric in metrics))


def stored_name(metric: str) -> str:
    """The stored metric that this one is computed from."""
    return EXECUTION_TIME if metric in (EXECUTION_COUNT, SUCCESS_RATE) else metric


def merged(rows: Iterable[tuple[int, Sample]], frame: Frame) -> list[Sample]:
    """One sample for each bucket of the frame. `rows`: (start in Unix seconds, sample) of narrower buckets, in any order.

    The samples of `rows` become the buckets', so they are not to be used any more.
    """
    buckets: dict[int, Sample] = {}
    for second, sample in rows:
        start_s = second - second % frame.bucket_s
        known = buckets.get(start_s)
        if known is None:
            buckets[start_s] = sample
        else:
            known.add(sample)
    return [buckets.get(start_s) or Sample(histogram={}) for start_s in frame.starts_s]


def whole(buckets: Sequence[Sample]) -> Sample:
    """All buckets as one."""
    found = Sample(histogram={})
    for bucket in buckets:
        found.add(bucket)
    return found


class Figures(NamedTuple):
    """What a chart tells of some values, in the metric's unit; None of nothing."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs of figures
    failed: int | None
    mean: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


def figures_of(metric: str, sample: Sample) -> Figures:
    """The figures of a metric. `sample`: of `stored_name(metric)`."""
    if is_counted(metric):
        return Figures(sample.count, None)
    if sample.count <= 0:
        return Figures(sample.count, sample.failed)
    if metric == EXECUTION_COUNT:
        return _of_outcomes(sample, 0)
    if metric == SUCCESS_RATE:
        return _of_outcomes(sample, sample.failed)
    low, high = sample.minimum, sample.maximum
    found = [_within(value, low, high) for value in quantiles(sample.histogram, FRACTIONS)]
    return Figures(sample.count, sample.failed, *map(_in_unit, (sample.sum / sample.count, low, high, *found)))


def _of_outcomes(sample: Sample, zeros: int) -> Figures:
    """`zeros` of the values are 0, the others 1."""
    count = sample.count
    found = [float(max(1, ceil(fraction * count)) > zeros) for fraction in FRACTIONS]
    mean = round((count - zeros) / count, 6)
    return Figures(count, sample.failed, mean, float(zeros == 0), float(zeros < count), *found)


def _within(value: float | None, low: int | None, high: int | None) -> float | None:
    """A slot's middle may lie beyond all values in it."""
    if value is None or low is None or high is None:
        return value
    return min(max(value, low), high)


def _in_unit(millionths: float | None) -> float | None:
    return None if millionths is None else round(millionths / MILLIONTHS, 6)


def sums_of(sample: Sample) -> Sums:
    """A sample of execution times as a dashboard counts it."""
    return Sums(sample.count, sample.failed, execution_time_us=sample.sum // 1000, histogram=sample.histogram)
