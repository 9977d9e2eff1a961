"""Values of a metric, added up: what a weighted sample or a bucket of a chart holds. Pure.

All numbers are whole millionths of the metric's unit. A count may be negative: values were taken back. Smallest and largest
values only ever widen: taking one back does not show in them until the hour is computed anew from the table.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from judgify_engine.core.histogram import slot_of

EXECUTION_TIME, CONFIDENCE, EXECUTION_COUNT = "execution_time_ms", "confidence", "execution_count"
TRACKED_PREFIX = "input."
ALL_WORKFLOWS = ""
"""Stands for all workflows of a tenant; no workflow has this name."""

LIVE_S, FINE_S, HOUR_S = 5, 300, 3600
"""Widths of buckets: for what is live, for charts of hours, for charts of days."""


class Sample(msgspec.Struct):
    """`count` values of a metric, `failed` of them of failed judgments."""

    count: int = 0
    failed: int = 0
    sum: int = 0
    minimum: int | None = None
    maximum: int | None = None
    histogram: dict[int, int] = {}
    """Slot to count, see core/histogram."""

    def add(self, other: "Sample") -> None:
        """Add the values of `other`."""
        self.count += other.count
        self.failed += other.failed
        self.sum += other.sum
        if other.minimum is not None and (self.minimum is None or other.minimum < self.minimum):
            self.minimum = other.minimum
        if other.maximum is not None and (self.maximum is None or other.maximum > self.maximum):
            self.maximum = other.maximum
        histogram = self.histogram
        for slot, count in other.histogram.items():
            histogram[slot] = histogram.get(slot, 0) + count

    @property
    def is_nothing(self) -> bool:
        """Whether adding this changes nothing."""
        return not (self.count or self.failed or self.sum or any(self.histogram.values()))


def sample_of(values: Mapping[int, int], scale: int, failed: bool) -> Sample:
    """`values`: value to how often it came (less what was taken back); a value times `scale` is millionths."""
    count = total = 0
    histogram: dict[int, int] = {}
    for value, times in values.items():
        count += times
        total += value * times
        slot = slot_of(value * scale)
        histogram[slot] = histogram.get(slot, 0) + times
    came = [value for value, times in values.items() if times > 0]
    low, high = (min(came) * scale, max(came) * scale) if came else (None, None)
    return Sample(count, count if failed else 0, total * scale, low, high, histogram)


class Told(msgspec.Struct, array_like=True, frozen=True):
    """A sample as processes tell each other of it. The sum is text: it may need more than 64 bits."""

    count: int
    failed: int
    sum: str
    minimum: int | None
    maximum: int | None
    histogram: dict[int, int]

    @property
    def sample(self) -> Sample:
        """One of its own, which may be added to."""
        return Sample(self.count, self.failed, int(self.sum), self.minimum, self.maximum, dict(self.histogram))


def told(sample: Sample) -> Told:
    """As it is now; it shares the histogram."""
    return Told(sample.count, sample.failed, str(sample.sum), sample.minimum, sample.maximum, sample.histogram)


SampleKey = tuple[str, str, str, int, str, str]
"""tenant, workflow, metric, bucket of `LIVE_S` (Unix seconds), method, status."""
BucketKey = tuple[str, str, str, int, int]
"""tenant, workflow (or `ALL_WORKFLOWS`), metric, width, bucket (Unix seconds)."""


class Windows(NamedTuple):
    """How long the narrow buckets are kept; hours are kept for ever. What is older when it comes is only counted by hour."""

    live_s: int
    fine_s: int


def kept(samples: Mapping[SampleKey, Sample], now_s: int, windows: Windows) -> list[tuple[SampleKey, Sample]]:
    """The samples that are written as they are: those of the time that narrow buckets are kept for."""
    since_s = now_s - windows.fine_s
    return [(key, sample) for key, sample in samples.items() if key[3] >= since_s and not sample.is_nothing]


def buckets_of(samples: Mapping[SampleKey, Sample], now_s: int, windows: Windows) -> dict[BucketKey, Sample]:
    """The samples in the buckets of all charts, of each workflow and of all of them together.

    Buckets that hold the same values share one object (most do: what a delta brings is of one moment): do not change them.
    """
    series: dict[tuple[str, str, str, int], list[Sample]] = {}
    for (tenant, workflow, metric, second, _method, _status), sample in samples.items():
        if not sample.is_nothing:
            if workflow != ALL_WORKFLOWS:  # a row that others wrote without one counts for all together only
                series.setdefault((tenant, workflow, metric, second), []).append(sample)
            series.setdefault((tenant, ALL_WORKFLOWS, metric, second), []).append(sample)
    found: dict[BucketKey, Sample] = {}
    narrow = [(key, together(parts)) for key, parts in series.items()]
    live_since_s, fine_since_s = now_s - windows.live_s, now_s - windows.fine_s
    for (tenant, workflow, metric, second), sample in narrow:
        if metric == EXECUTION_TIME and second >= live_since_s:
            found[tenant, workflow, metric, LIVE_S, second] = sample
    for width_s, since_s in ((FINE_S, fine_since_s), (HOUR_S, None)):
        wide: dict[BucketKey, list[Sample]] = {}
        for (tenant, workflow, metric, second), sample in narrow:
            if since_s is None or second >= since_s:
                wide.setdefault((tenant, workflow, metric, width_s, second - second % width_s), []).append(sample)
        found |= {key: together(parts) for key, parts in wide.items()}
    return found


def together(parts: list[Sample]) -> Sample:
    """All values of the parts; a single part is given back as it is."""
    if len(parts) == 1:
        return parts[0]
    whole = Sample(histogram={})
    for part in parts:
        whole.add(part)
    return whole
