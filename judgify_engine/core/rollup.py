"""Adding up changes: what a run of the log adds to the rollups, as integers. Pure.

Changes are added, not results replaced, so a delta may be applied once only; that is the rollup writer's promise (it
commits the position with the delta). An update takes the old row back and adds the new one; a delete takes it back.

While changes come in, values are only counted (value to how often); all else is derived once, when the delta is whole.
"""

from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from judgify_engine.core.bins import binned
from judgify_engine.core.counts import RESULT_PREFIX, CountKey, method_metric
from judgify_engine.core.model import Change
from judgify_engine.core.quality import fault_of
from judgify_engine.core.results import result_name
from judgify_engine.core.samples import (
    CONFIDENCE,
    EXECUTION_TIME,
    FINE_S,
    HOUR_S,
    LIVE_S,
    TRACKED_PREFIX,
    Sample,
    SampleKey,
    Told,
    sample_of,
    together,
    told,
)
from judgify_engine.core.tracking import EARLIEST_US, LATEST_US, Tracking, tracked_time_us
from judgify_engine.errors import Corrupt
from judgify_engine.units import START, Position

RECENT_S = 60
"""What was created longer before its commit is counted by `LIVE_S`, not by the second: only live rates need seconds."""
COMPLETED, FAILED = "completed", "failed"
UNTRACKED = Tracking()
REFUSED, STORED = "refused", "stored"


class Sums(msgspec.Struct, array_like=True):
    """Sums over judgments. Any of them may be negative: rows were taken back."""

    total: int = 0
    failed: int = 0
    rule: int = 0
    llm: int = 0
    hybrid: int = 0
    execution_time_us: int = 0
    confidence_ppm: int = 0
    histogram: dict[int, int] = {}
    """Slot of the execution time to count."""

    def add(self, other: "Sums") -> None:
        self.total += other.total
        self.failed += other.failed
        self.rule += other.rule
        self.llm += other.llm
        self.hybrid += other.hybrid
        self.execution_time_us += other.execution_time_us
        self.confidence_ppm += other.confidence_ppm
        histogram = self.histogram
        for slot, count in other.histogram.items():
            histogram[slot] = histogram.get(slot, 0) + count


QualityKey = tuple[str, str, int, str, str]
"""tenant, workflow, hour (Unix), `REFUSED` or `STORED`, kind (core/quality)."""
SecondKey = tuple[str, str, int, str]
"""tenant, workflow, second (Unix) of creation (of old ones: their bucket of `LIVE_S`), status."""
SecondSums = tuple[str, int, Sums]
"""workflow, second as in `SecondKey`."""
ResultCount = tuple[str, str, int]
"""workflow, result, count."""
TOLD_BACK_S = 691_200
"""Tracked values that occurred longer before are not told: no chart that follows the log shows them (at most 7 days do)."""
MAX_TOLD = 5000
"""Buckets of tracked fields that are told of one tenant and delta: some 200 KB."""


class Details(msgspec.Struct, array_like=True, frozen=True):
    """What charts need beyond sums, by bucket of `FINE_S` (Unix seconds)."""

    times: list[int] = []
    """The buckets of the results, which are told beside this."""
    confidences: list[tuple[str, int, dict[int, int]]] = []
    """workflow, bucket, bin (core/bins) to count."""
    tracked: list[tuple[str, str, int, Told]] | None = []
    """workflow, metric, bucket, sample. None: too many to tell."""


class Share(NamedTuple):
    """What a delta holds of one tenant."""

    sums: list[SecondSums]
    results: list[ResultCount]
    details: Details


_Values = dict[int, int]
"""Value to how often it came, less how often it was taken back."""
_CellKey = tuple[str, str, int, str, str]
"""tenant, workflow, second (Unix; of old ones: their bucket of `LIVE_S`), method, status."""


class _Cell(msgspec.Struct):
    """What was counted of judgments that share a key: one look-up for each row serves all its figures."""

    times_us: _Values
    confidences_ppm: _Values
    results: dict[str, int]
    tracked: dict[str, _Values]
    """Metric to its values, of judgments that do not say when they occurred."""
    came: int = 0
    went: int = 0

    def add(self, other: "_Cell") -> None:
        _add_values(self.times_us, other.times_us)
        _add_values(self.confidences_ppm, other.confidences_ppm)
        _add_values(self.results, other.results)
        for metric, values in other.tracked.items():
            _add_values(self.tracked.setdefault(metric, {}), values)
        self.came += other.came
        self.went += other.went


class Delta:
    """What a run of changes adds: all after the position `base`, up to `position`."""

    def __init__(self, base: Position = START, tracking: Tracking = UNTRACKED, window: tuple[int, int] | None = None) -> None:
        """`window`: count only what belongs to these Unix seconds, start included and end not."""
        self.base = base
        self.position: Position = START
        self.changes = 0
        self.last_commit_us = 0
        self.truncated = False
        """The table was emptied in this run: the rollups start again from nothing before the sums are added."""
        self.taken_back: set[int] = set()
        """Hours (Unix) of which values were taken back: their smallest and largest may be gone."""
        self.quality: dict[QualityKey, int] = {}
        """How often something was wrong."""
        self._tracking, self._window = tracking, window
        self._cells: dict[_CellKey, _Cell] = {}
        self._occurred: dict[SampleKey, _Values] = {}
        """Tracked values of judgments that say when they occurred."""
        self._emptied: dict[tuple[str, int], int] = {}
        """tenant, hour (Unix) -> how many rows came and were emptied away."""

    def add(self, change: Change) -> None:
        """Add one change of `judgment_executions`."""
        if change.old == {}:
            raise Corrupt(f"a change of {change.table} came without its old row: the table needs REPLICA IDENTITY FULL")
        self.note(change)
        if change.old is None and change.new is None:
            self.truncated = True
            self._emptied = {key: came for key, (came, _) in self._streamed().items()}
            self._cells.clear()
            self._occurred.clear()
            self.taken_back.clear()
            self.quality = {key: count for key, count in self.quality.items() if key[3] == REFUSED}
            return
        recent_s = change.commit_time_us // 1_000_000 - RECENT_S
        if change.new is not None:
            self._add_row(change.new, 1, recent_s)
        if change.old is not None:
            self._add_row(change.old, -1, recent_s)

    @property
    def holds_something(self) -> bool:
        """Whether anything was counted."""
        return self.truncated or bool(self._cells or self._occurred)

    def refused(self, change: Change) -> None:
        """Add one change of `judgment_quarantine`: what came in counts, what is tidied away later does not."""
        self.note(change)
        row = change.new
        if change.old is None and row is not None and EARLIEST_US <= row["created_at"] < LATEST_US:
            second = row["created_at"] // 1_000_000
            self._count((row["tenant_id"], row["workflow_id"], second - second % HOUR_S, REFUSED, row["kind"]), row["repeated"])

    def _count(self, key: QualityKey, count: int) -> None:
        self.quality[key] = self.quality.get(key, 0) + count

    def note(self, change: Change) -> None:
        """Count a change of any table: the position moves past it."""
        self.position = change.position
        self.last_commit_us = change.commit_time_us
        self.changes += 1

    def finish_at(self, end_lsn: int) -> None:
        """The last transaction is here in whole and the log goes on at `end_lsn`: the position moves to just before that."""
        if self.changes:
            self.position = Position(end_lsn - 1, 0)

    def _add_row(self, row: dict[str, Any], sign: int, recent_s: int) -> None:
        created_us, occurred_us = row["created_at"], row["occurred_at"]
        second = created_us // 1_000_000
        key = (
            row["tenant_id"],
            row["workflow_id"],
            second if second >= recent_s else second - second % LIVE_S,
            row["method_used"],
            row["status"],
        )
        cell = None
        if self._window is None or self._window[0] <= second < self._window[1]:
            cell = self._cells.get(key)
            if cell is None:
                cell = self._cells[key] = _Cell({}, {}, {}, {})
            self._judge(cell, key, row, second, sign)
        fields = self._tracking.of(key[0], key[1], row["workflow_version"], created_us)
        if fields is None:
            return
        if occurred_us is not None:
            self._track(key, fields.values(row["input_data"]), tracked_time_us(occurred_us, created_us) // 1_000_000, sign)
        elif cell is not None:
            tracked = cell.tracked
            for metric, value in fields.values(row["input_data"]):
                values = tracked.get(metric)
                if values is None:
                    values = tracked[metric] = {}
                values[value] = values.get(value, 0) + sign

    def _judge(self, cell: _Cell, key: _CellKey, row: dict[str, Any], second: int, sign: int) -> None:
        # The same rounding as PostgreSQL's round(double precision): half to even.
        time_us, times = round(row["execution_time_ms"] * 1000), cell.times_us
        times[time_us] = times.get(time_us, 0) + sign
        confidence, confidences = round(row["confidence_score"] * 1_000_000), cell.confidences_ppm
        confidences[confidence] = confidences.get(confidence, 0) + sign
        result, results = result_name(row["final_result"]) if key[4] == COMPLETED else FAILED, cell.results
        results[result] = results.get(result, 0) + sign
        if sign > 0:
            cell.came += 1
        else:
            cell.went += 1
            self.taken_back.add(second - second % HOUR_S)
        fault = fault_of(row)
        if fault is not None:
            self._count((key[0], key[1], second - second % HOUR_S, STORED, fault), sign)

    def _track(self, key: _CellKey, found: list[tuple[str, int]], second: int, sign: int) -> None:
        if self._window is not None and not self._window[0] <= second < self._window[1]:
            return
        for metric, value in found:
            values = self._occurred.setdefault((key[0], key[1], metric, second - second % LIVE_S, key[3], key[4]), {})
            values[value] = values.get(value, 0) + sign
        if sign < 0:
            self.taken_back.add(second - second % HOUR_S)

    def merge(self, other: "Delta") -> None:
        """Add what another delta counted, which was not truncated; the position stays."""
        for key, cell in other._cells.items():
            self._cells.setdefault(key, _Cell({}, {}, {}, {})).add(cell)
        for sample_key, values in other._occurred.items():
            _add_values(self._occurred.setdefault(sample_key, {}), values)
        for quality_key, count in other.quality.items():
            self._count(quality_key, count)
        self.taken_back |= other.taken_back
        self.last_commit_us = max(self.last_commit_us, other.last_commit_us)

    def _streamed(self) -> dict[tuple[str, int], list[int]]:
        found = {key: [came, came] for key, came in self._emptied.items()}
        for (tenant, _, second, _, _), cell in self._cells.items():
            flow = found.setdefault((tenant, second - second % HOUR_S), [0, 0])
            flow[0] += cell.came
            flow[1] += cell.went
        return found

    @cached_property
    def streamed(self) -> dict[tuple[str, int], list[int]]:
        """tenant, hour (Unix) -> how many rows came, how many were taken back. Only when all is added."""
        return self._streamed()

    @cached_property
    def results(self) -> dict[tuple[str, str, int, str], int]:
        """tenant, workflow, hour (Unix), result -> count. Only when all is added."""
        found: dict[tuple[str, str, int, str], int] = {}
        for (tenant, workflow, second, _, _), cell in self._cells.items():
            for result, count in cell.results.items():
                key = (tenant, workflow, second - second % HOUR_S, result)
                found[key] = found.get(key, 0) + count
        return found

    @cached_property
    def counts(self) -> dict[CountKey, int]:
        """How often each result and each method came. Only when all is added."""
        found: dict[CountKey, int] = {}
        for (tenant, workflow, second, method, _), cell in self._cells.items():
            bucket, came = second - second % FINE_S, cell.came - cell.went
            key = (tenant, workflow, method_metric(method), bucket)
            found[key] = found.get(key, 0) + came
            for result, count in cell.results.items():
                key = (tenant, workflow, RESULT_PREFIX + result, bucket)
                found[key] = found.get(key, 0) + count
        return found

    @cached_property
    def _judged(self) -> list[tuple[_CellKey, Sample, Sample]]:
        """Execution times and confidences as samples."""
        return [
            (key, sample_of(cell.times_us, 1000, key[4] != COMPLETED), sample_of(cell.confidences_ppm, 1, key[4] != COMPLETED))
            for key, cell in self._cells.items()
        ]

    @cached_property
    def samples(self) -> dict[SampleKey, Sample]:
        """All values as samples in the narrowest buckets. Only when all is added."""
        found: dict[SampleKey, list[Sample]] = {}
        for (tenant, workflow, second, method, status), times, confidences in self._judged:
            bucket = second - second % LIVE_S
            found.setdefault((tenant, workflow, EXECUTION_TIME, bucket, method, status), []).append(times)
            found.setdefault((tenant, workflow, CONFIDENCE, bucket, method, status), []).append(confidences)
        for (tenant, workflow, second, method, status), cell in self._cells.items():
            bucket = second - second % LIVE_S
            for metric, values in cell.tracked.items():
                sample = sample_of(values, 1, status != COMPLETED)
                found.setdefault((tenant, workflow, metric, bucket, method, status), []).append(sample)
        for key, values in self._occurred.items():
            found.setdefault(key, []).append(sample_of(values, 1, key[5] != COMPLETED))
        return {key: together(parts) for key, parts in found.items()}

    @cached_property
    def sums(self) -> dict[SecondKey, Sums]:
        """The sums over judgments by second. Only when all is added."""
        found: dict[SecondKey, Sums] = {}
        for (tenant, workflow, second, method, status), times, confidences in self._judged:
            count = times.count
            sums = found.get((tenant, workflow, second, status))
            if sums is None:
                sums = found[tenant, workflow, second, status] = Sums(histogram={})
            sums.total += count
            sums.failed += times.failed
            if method == "rule":
                sums.rule += count
            elif method == "llm":
                sums.llm += count
            else:
                sums.hybrid += count
            sums.execution_time_us += times.sum // 1000
            sums.confidence_ppm += confidences.sum
            _add_values(sums.histogram, times.histogram)
        return found

    @cached_property
    def shares(self) -> dict[str, Share]:
        """What of it is each tenant's. Only when all is added."""
        found: dict[str, Share] = {}

        def of(tenant: str) -> Share:
            share = found.get(tenant)
            if share is None:
                share = found[tenant] = Share([], [], Details([], [], []))
            return share

        for (tenant, workflow, second, _status), sums in self.sums.items():
            of(tenant).sums.append((workflow, second, sums))
        for (tenant, workflow, metric, bucket), count in self.counts.items():
            if metric.startswith(RESULT_PREFIX):
                of(tenant).results.append((workflow, metric.removeprefix(RESULT_PREFIX), count))
                of(tenant).details.times.append(bucket)
        since_s = self.last_commit_us // 1_000_000 - TOLD_BACK_S
        wide: dict[tuple[str, str, str, int], list[Sample]] = {}
        for (tenant, workflow, metric, second, _method, _status), sample in self.samples.items():
            if metric == CONFIDENCE or (second >= since_s and metric.startswith(TRACKED_PREFIX)):
                wide.setdefault((tenant, workflow, metric, second - second % FINE_S), []).append(sample)
        for (tenant, workflow, metric, bucket), parts in wide.items():
            sample, details = together(parts), of(tenant).details
            if metric == CONFIDENCE:
                details.confidences.append((workflow, bucket, binned(sample.histogram)))
            elif details.tracked is not None:
                details.tracked.append((workflow, metric, bucket, told(sample)))
        for tenant, share in found.items():
            if len(share.details.tracked or ()) > MAX_TOLD:
                found[tenant] = share._replace(details=Details(share.details.times, share.details.confidences, None))
        return found

    def by(self, width_s: int) -> dict[tuple[str, str, int], Sums]:
        """The sums by tenant, workflow and bucket of `width_s` seconds."""
        wider: dict[tuple[str, str, int], Sums] = {}
        for (tenant, workflow, second, _status), sums in self.sums.items():
            key = (tenant, workflow, second - second % width_s)
            known = wider.get(key)
            if known is None:
                known = wider[key] = Sums(histogram={})
            known.add(sums)
        return wider


def _add_values(into: dict[Any, int], values: dict[Any, int]) -> None:
    for value, times in values.items():
        into[value] = into.get(value, 0) + times
