"""Adding up changes: what a run of the log adds to the rollups, as integers. Pure.

Changes are added, not results replaced, so a delta may be applied once only; that is the rollup writer's promise (it
commits the position with the delta). An update takes the old row back and adds the new one; a delete takes it back.

While changes come in, values are only counted (value to how often); all else is derived once, when the delta is whole.
"""

from functools import cached_property, lru_cache
from typing import Any

import msgspec

from judgify_engine.core.model import Change
from judgify_engine.core.quality import fault_of
from judgify_engine.core.samples import CONFIDENCE, EXECUTION_TIME, HOUR_S, LIVE_S, Sample, SampleKey, sample_of, together
from judgify_engine.core.tracking import EARLIEST_US, LATEST_US, Tracking, tracked_time_us
from judgify_engine.errors import Corrupt
from judgify_engine.units import START, Position

RESULT_CHARS = 64
REMEMBERED_CHARS = 1024
RECENT_S = 60
"""What was created longer before its commit is counted by `LIVE_S`, not by the second: only live rates need seconds."""
COMPLETED, FAILED = "completed", "failed"
UNTRACKED = Tracking()
REFUSED, STORED = "refused", "stored"


class Sums(msgspec.Struct):
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
_Values = dict[int, int]
"""Value to how often it came, less how often it was taken back."""


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
        self.results: dict[tuple[str, str, int, str], int] = {}
        """tenant, workflow, hour (Unix), result -> count."""
        self.streamed: dict[tuple[str, int], list[int]] = {}
        """tenant, hour (Unix) -> how many rows came, how many were taken back."""
        self.quality: dict[QualityKey, int] = {}
        """How often something was wrong."""
        self._tracking, self._window = tracking, window
        # (tenant, workflow, second, method, status) to execution times in µs and confidences in millionths.
        self._judged: dict[tuple[str, str, int, str, str], tuple[_Values, _Values]] = {}
        self._tracked: dict[SampleKey, _Values] = {}

    def add(self, change: Change) -> None:
        """Add one change of `judgment_executions`."""
        if change.old == {}:
            raise Corrupt(f"a change of {change.table} came without its old row: the table needs REPLICA IDENTITY FULL")
        self.note(change)
        if change.old is None and change.new is None:
            self.truncated = True
            self._judged.clear()
            self._tracked.clear()
            self.results.clear()
            self.taken_back.clear()
            self.streamed = {key: [came, came] for key, (came, _) in self.streamed.items()}
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
        return self.truncated or bool(self._judged or self._tracked)

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
        tenant, workflow, created_us = row["tenant_id"], row["workflow_id"], row["created_at"]
        method, status = row["method_used"], row["status"]
        second = created_us // 1_000_000
        window = self._window
        if window is None or window[0] <= second < window[1]:
            cell = second if second >= recent_s else second - second % LIVE_S
            key = (tenant, workflow, cell, method, status)
            judged = self._judged.get(key)
            if judged is None:
                judged = self._judged[key] = ({}, {})
            times, confidences = judged
            # The same rounding as PostgreSQL's round(double precision): half to even.
            time_us = round(row["execution_time_ms"] * 1000)
            times[time_us] = times.get(time_us, 0) + sign
            confidence = round(row["confidence_score"] * 1_000_000)
            confidences[confidence] = confidences.get(confidence, 0) + sign
            streamed = self.streamed.get((tenant, second - second % HOUR_S))
            if streamed is None:
                streamed = self.streamed[tenant, second - second % HOUR_S] = [0, 0]
            streamed[sign < 0] += 1
            result = result_name(row["final_result"]) if status == COMPLETED else FAILED
            result_key = (tenant, workflow, second - second % HOUR_S, result)
            self.results[result_key] = self.results.get(result_key, 0) + sign
            if sign < 0:
                self.taken_back.add(second - second % HOUR_S)
            fault = fault_of(row)
            if fault is not None:
                self._count((tenant, workflow, second - second % HOUR_S, STORED, fault), sign)
        fields = self._tracking.of(tenant, workflow, row["workflow_version"], created_us)
        if fields is not None:
            second = tracked_time_us(row["occurred_at"], created_us) // 1_000_000
            if window is None or window[0] <= second < window[1]:
                for metric, value in fields.values(row["input_data"]):
                    sample_key = (tenant, workflow, metric, second - second % LIVE_S, method, status)
                    values = self._tracked.setdefault(sample_key, {})
                    values[value] = values.get(value, 0) + sign
                if sign < 0:
                    self.taken_back.add(second - second % HOUR_S)

    def merge(self, other: "Delta") -> None:
        """Add what another delta counted; the position stays."""
        for key, (times, confidences) in other._judged.items():
            mine = self._judged.setdefault(key, ({}, {}))
            _add_values(mine[0], times)
            _add_values(mine[1], confidences)
        for sample_key, values in other._tracked.items():
            _add_values(self._tracked.setdefault(sample_key, {}), values)
        for result_key, count in other.results.items():
            self.results[result_key] = self.results.get(result_key, 0) + count
        for hour_key, (came, went) in other.streamed.items():
            streamed = self.streamed.setdefault(hour_key, [0, 0])
            streamed[0] += came
            streamed[1] += went
        for quality_key, count in other.quality.items():
            self._count(quality_key, count)
        self.taken_back |= other.taken_back
        self.last_commit_us = max(self.last_commit_us, other.last_commit_us)

    @cached_property
    def _cells(self) -> list[tuple[str, str, int, str, str, Sample, Sample]]:
        """tenant, workflow, second, method, status; execution times and confidences as samples."""
        return [
            (*key, sample_of(times, 1000, key[4] != COMPLETED), sample_of(confidences, 1, key[4] != COMPLETED))
            for key, (times, confidences) in self._judged.items()
        ]

    @cached_property
    def samples(self) -> dict[SampleKey, Sample]:
        """All values as samples in the narrowest buckets. Only when all is added."""
        found: dict[SampleKey, list[Sample]] = {}
        for tenant, workflow, second, method, status, times, confidences in self._cells:
            bucket = second - second % LIVE_S
            found.setdefault((tenant, workflow, EXECUTION_TIME, bucket, method, status), []).append(times)
            found.setdefault((tenant, workflow, CONFIDENCE, bucket, method, status), []).append(confidences)
        for key, values in self._tracked.items():
            found[key] = [sample_of(values, 1, key[5] != COMPLETED)]
        return {key: together(parts) for key, parts in found.items()}

    @cached_property
    def sums(self) -> dict[SecondKey, Sums]:
        """The sums over judgments by second. Only when all is added."""
        found: dict[SecondKey, Sums] = {}
        for tenant, workflow, second, method, status, times, confidences in self._cells:
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


def _add_values(into: _Values, values: _Values) -> None:
    for value, times in values.items():
        into[value] = into.get(value, 0) + times


class _Named(msgspec.Struct):
    verdict: Any = None


_decode_named = msgspec.json.Decoder(_Named).decode


def result_name(final_result: str) -> str:
    """The result's name: `final_result.verdict` where it is a string (its first 64 characters), else empty."""
    return _short_result_name(final_result) if len(final_result) <= REMEMBERED_CHARS else _read_result_name(final_result)


def _read_result_name(final_result: str) -> str:
    try:
        verdict = _decode_named(final_result).verdict
    except (msgspec.MsgspecError, RecursionError):  # any JSON that is not an object, or nested beyond reason
        return ""
    return verdict[:RESULT_CHARS] if isinstance(verdict, str) else ""


_short_result_name = lru_cache(maxsize=8192)(_read_result_name)
