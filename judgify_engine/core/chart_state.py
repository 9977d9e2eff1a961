"""What the charts of one view hold, by bucket of its time frame, and what of it changed since it was told. Pure.

Buckets before `forgotten_s` are not known, so what changes in them late is passed over: it would show a part for the whole.
"""

from typing import TypeVar

import msgspec

from judgify_engine.core.chart_points import (
    Point,
    confidence_points,
    frame_end_s,
    points_of,
    result_points,
    tracked_points,
)
from judgify_engine.core.counts import RESULT_PREFIX
from judgify_engine.core.dashboards import (
    BUCKETS_S,
    FRAMES_S,
    TRACKED_CHART,
    ChartDefinition,
    Needs,
    metrics_of,
)
from judgify_engine.core.rollup import Details, Sums
from judgify_engine.core.samples import CONFIDENCE, Sample, Told

K = TypeVar("K")


class FrameDetails(msgspec.Struct, array_like=True):
    """What a snapshot has of a time frame beyond sums, as far as the view needs it; by bucket (Unix seconds)."""

    since_s: int = 0
    """The first bucket that was read."""
    results: dict[int, dict[str, int]] = {}
    confidences: dict[int, dict[int, int]] = {}
    """Bin (core/bins) to count."""
    tracked: dict[str, dict[int, Told]] = {}
    """By metric."""


class Changed(msgspec.Struct):
    """What of the charts is to be told: buckets, buckets of tracked fields by metric, and whether distributions are."""

    buckets: set[int] = set()
    tracked: dict[str, set[int]] = {}
    confidences: bool = False

    @property
    def details(self) -> bool:
        """Whether there is something that no sums tell of."""
        return self.confidences or any(self.tracked.values())


class ChartState:
    """See the module."""

    def __init__(self, timeframe: str, needs: Needs, sums: dict[int, Sums], details: FrameDetails) -> None:
        self.bucket_s, self._frame_s = BUCKETS_S[timeframe], FRAMES_S[timeframe]
        self._has_results, self._has_confidences = RESULT_PREFIX in needs.metrics, CONFIDENCE in needs.metrics
        self.sums = sums
        self.results, self.confidences = details.results, details.confidences
        self.tracked = {metric: _samples(details.tracked.get(metric, {})) for metric in needs.fields}
        self.times: dict[int, int] = {}
        """Histogram of the execution times of the whole time frame."""
        for one in sums.values():
            add_counts(self.times, one.histogram)
        self._forgotten_s = details.since_s
        self._end_s = 0
        """Where the last bucket ends that is over or under way."""
        self.changed = Changed()
        """Since `settle`."""

    def can_add(self, details: Details) -> bool:
        """Whether all that the charts need is told."""
        return details.tracked is not None or not self.tracked

    def add_sums(self, second: int, sums: Sums) -> None:
        bucket = second - second % self.bucket_s
        if bucket >= self._forgotten_s:
            at(self.sums, bucket).add(sums)
            add_counts(self.times, sums.histogram)
            self.changed.buckets.add(bucket)

    def add_result(self, second: int, result: str, count: int) -> None:
        bucket = second - second % self.bucket_s
        if self._has_results and bucket >= self._forgotten_s:
            add_counts(self.results.setdefault(bucket, {}), {result: count})

    def add_confidences(self, second: int, bins: dict[int, int]) -> None:
        bucket = second - second % self.bucket_s
        if self._has_confidences and bucket >= self._forgotten_s:
            add_counts(self.confidences.setdefault(bucket, {}), bins)
            self.changed.confidences = True

    def add_tracked(self, metric: str, second: int, told: Told) -> None:
        """Adds what was told of a field that a chart shows; of another one nothing is kept."""
        buckets, bucket = self.tracked.get(metric), second - second % self.bucket_s
        if buckets is not None and bucket >= self._forgotten_s:
            known = buckets.get(bucket)
            if known is None:
                buckets[bucket] = told.sample
            else:
                known.add(told.sample)
            self.changed.tracked.setdefault(metric, set()).add(bucket)

    def move_to(self, now_s: float) -> None:
        """Time went by: buckets leave the distribution, and what is to occur in a bucket that begins now shows."""
        before_s, self._end_s = self._end_s, max(self._end_s, frame_end_s(now_s, self.bucket_s))
        if before_s in (0, self._end_s):
            return
        left, right = range(before_s - self._frame_s, self._end_s - self._frame_s), range(before_s, self._end_s)
        self.changed.confidences |= any(start in left or start in right for start in self.confidences)
        for metric, buckets in self.tracked.items():
            self.changed.tracked.setdefault(metric, set()).update(start for start in buckets if start in right)

    def forget(self, now_s: float) -> None:
        """What is out of the time frame."""
        self._forgotten_s = max(self._forgotten_s, int(now_s) - self._frame_s - self.bucket_s)
        for start in [start for start in self.sums if start < self._forgotten_s]:
            add_counts(self.times, self.sums.pop(start).histogram, -1)
        tables: list[dict[int, dict[str, int]] | dict[int, dict[int, int]] | dict[int, Sample]]
        tables = [self.results, self.confidences, *self.tracked.values()]
        for table in tables:
            for start in [start for start in table if start < self._forgotten_s]:
                del table[start]

    def since(self, buckets: set[int]) -> Changed | None:
        """What to tell where these buckets changed since some time ago. What time itself changed is not known: of distributions
        and tracked fields it is all. None: some are there no more (all that was in them was deleted)."""
        buckets = {start for start in buckets if start >= self._forgotten_s}
        if not buckets <= self.sums.keys():
            return None
        return Changed(buckets, {metric: set(known) for metric, known in self.tracked.items()}, True)

    def settle(self) -> None:
        """All was told."""
        self.changed = Changed()

    def points(self, chart: ChartDefinition, changed: Changed | None) -> list[Point]:
        """The points of a chart that changed (of a distribution all, or none); None: all of them."""
        if chart.type == "confidence_chart":
            first_s = self._end_s - self._frame_s
            shown = [bins for start, bins in self.confidences.items() if first_s <= start < self._end_s]
            return confidence_points(shown) if changed is None or changed.confidences else []
        if chart.type == TRACKED_CHART:
            metric = metrics_of(chart.type, chart.field)[0]
            samples = self.tracked[metric]
            starts = sorted(samples if changed is None else changed.tracked.get(metric, ()))
            return tracked_points((start, samples[start]) for start in starts if start in samples and start < self._end_s)
        starts = sorted(self.sums if changed is None else changed.buckets)
        if chart.type == "results_chart":
            return result_points((start, self.results.get(start, {})) for start in starts if start in self.sums)
        return points_of(chart.type, ((start, self.sums[start]) for start in starts if start in self.sums))


def _samples(buckets: dict[int, Told]) -> dict[int, Sample]:
    return {start: told.sample for start, told in buckets.items()}


def at(table: dict[K, Sums], place: K) -> Sums:
    """The sums at a place, made when it is new."""
    known = table.get(place)
    if known is None:
        known = table[place] = Sums(histogram={})
    return known


def add_counts(into: dict[K, int], counts: dict[K, int], sign: int = 1) -> None:
    """Add each count, or with `sign` -1 take it away."""
    for name, count in counts.items():
        into[name] = into.get(name, 0) + sign * count
