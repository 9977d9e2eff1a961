"""Adding up changes: what a run of the log adds to the rollups, as integers. Pure.

Changes are added, not results replaced, so a delta may be applied once only; that is the rollup writer's promise (it
commits the position with the delta). An update takes the old row back and adds the new one; a delete takes it back.
"""

from functools import lru_cache
from typing import Any

import msgspec

from judgify_engine.core.histogram import bucket_of
from judgify_engine.core.model import Change
from judgify_engine.errors import Corrupt
from judgify_engine.units import START, Position

FINE_BUCKET_S = 5
HOUR_S = 3600
RESULT_CHARS = 64
REMEMBERED_CHARS = 1024
FAILED = "failed"


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
    """Bucket of the execution time to count."""

    def add(self, other: "Sums") -> None:
        self.total += other.total
        self.failed += other.failed
        self.rule += other.rule
        self.llm += other.llm
        self.hybrid += other.hybrid
        self.execution_time_us += other.execution_time_us
        self.confidence_ppm += other.confidence_ppm
        histogram = self.histogram
        for bucket, count in other.histogram.items():
            histogram[bucket] = histogram.get(bucket, 0) + count


SecondKey = tuple[str, str, int, str]
"""tenant, workflow, second (Unix) of creation, status."""


class Delta:
    """What a run of changes adds, by second: all after the position `base`, up to `position`."""

    def __init__(self, base: Position = START) -> None:
        self.base = base
        self.position: Position = START
        self.changes = 0
        self.truncated = False
        """The table was emptied in this run: the rollups start again from nothing before the sums are added."""
        self.sums: dict[SecondKey, Sums] = {}
        self.results: dict[tuple[str, str, int, str], int] = {}
        """tenant, workflow, hour (Unix), result -> count."""

    def add(self, change: Change) -> None:
        """Add one change of `judgment_executions`."""
        if change.old == {}:
            raise Corrupt(f"a change of {change.table} came without its old row: the table needs REPLICA IDENTITY FULL")
        self.note(change)
        if change.old is None and change.new is None:
            self.truncated = True
            self.sums.clear()
            self.results.clear()
            return
        if change.new is not None:
            self._add_row(change.new, 1)
        if change.old is not None:
            self._add_row(change.old, -1)

    def note(self, change: Change) -> None:
        """Count a change of any table: the position moves past it."""
        self.position = change.position
        self.changes += 1

    def _add_row(self, row: dict[str, Any], sign: int) -> None:
        tenant, workflow, status = row["tenant_id"], row["workflow_id"], row["status"]
        second = row["created_at"] // 1_000_000
        key = (tenant, workflow, second, status)
        sums = self.sums.get(key)
        if sums is None:
            sums = self.sums[key] = Sums(histogram={})
        sums.total += sign
        if status != "completed":
            sums.failed += sign
        method = row["method_used"]
        if method == "rule":
            sums.rule += sign
        elif method == "llm":
            sums.llm += sign
        else:
            sums.hybrid += sign
        # The same rounding as PostgreSQL's round(double precision): half to even.
        time_us = round(row["execution_time_ms"] * 1000)
        sums.execution_time_us += sign * time_us
        sums.confidence_ppm += sign * round(row["confidence_score"] * 1_000_000)
        bucket = bucket_of(time_us)
        sums.histogram[bucket] = sums.histogram.get(bucket, 0) + sign
        result = FAILED if status != "completed" else result_name(row["final_result"])
        result_key = (tenant, workflow, second - second % HOUR_S, result)
        self.results[result_key] = self.results.get(result_key, 0) + sign

    def merge(self, other: "Delta") -> None:
        """Add the sums of another delta; the position stays."""
        for key, sums in other.sums.items():
            self.sums.setdefault(key, Sums(histogram={})).add(sums)
        for result_key, count in other.results.items():
            self.results[result_key] = self.results.get(result_key, 0) + count

    def by(self, width_s: int) -> dict[SecondKey, Sums]:
        """The sums in buckets of `width_s` seconds instead of one."""
        wider: dict[SecondKey, Sums] = {}
        for (tenant, workflow, second, status), sums in self.sums.items():
            key = (tenant, workflow, second - second % width_s, status)
            known = wider.get(key)
            if known is None:
                known = wider[key] = Sums(histogram={})
            known.add(sums)
        return wider


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
