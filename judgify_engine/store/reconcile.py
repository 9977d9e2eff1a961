"""The two sides of the comparison, and its books. One arm reads the table itself, never what the stream said of it."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from judgify_engine.core.counts import RESULT_PREFIX
from judgify_engine.core.reconcile import EARLIEST_S, Difference, Totals, arm_differences, count_differences, differences
from judgify_engine.core.samples import ALL_WORKFLOWS, EXECUTION_TIME, FINE_S, HOUR_S, LIVE_S, Windows
from judgify_engine.errors import Unavailable
from judgify_engine.store.counts import ARE_COUNTED, IS_COUNTED
from judgify_engine.store.pool import Database
from judgify_engine.store.retention import retained_from
from judgify_engine.units import parse_lsn
from judgify_engine.wire.pgoutput import MARK

STATEMENT_TIMEOUT_S = 60.0
BEHIND_S = 20.0
POLL_S = 0.1
_STORED = """
SELECT tenant_id, count(*) AS total, count(*) FILTER (WHERE status = 'completed') AS completed,
       sum(round(execution_time_ms * 1000)::bigint)::bigint AS us
  FROM judgment_executions WHERE created_at >= $1 AND created_at < $2 GROUP BY 1
"""
_HOURLY = """
SELECT tenant_id, sum(total_executions)::bigint AS total, sum(successful_executions)::bigint AS completed,
       sum(execution_time_us_sum)::bigint AS us
  FROM judgment_metrics_hourly WHERE hour >= $1 AND hour < $2 GROUP BY 1
"""
_RESULTS = """
SELECT tenant_id, sum(total_executions)::bigint AS results
  FROM judgment_results_hourly WHERE hour >= $1 AND hour < $2 GROUP BY 1
"""

_ARMS = """
SELECT tenant_id, coalesce(max(a.count), 0)::bigint AS accepted, coalesce(max(s.inserted), 0)::bigint AS inserted,
       coalesce(max(s.deleted), 0)::bigint AS deleted
  FROM (SELECT tenant_id, sum(count) AS count FROM judgments_accepted WHERE hour >= $1 AND hour < $2 GROUP BY 1) AS a
  FULL JOIN (SELECT tenant_id, sum(inserted) AS inserted, sum(deleted) AS deleted
               FROM judgments_streamed WHERE hour >= $1 AND hour < $2 GROUP BY 1) AS s USING (tenant_id) GROUP BY 1
"""


# What others wrote without a workflow has no buckets of its own, only those of all together.
_WITHOUT = """
 UNION ALL SELECT tenant_id, total_executions, total_executions - successful_executions, execution_time_us_sum / 1000.0
   FROM judgment_metrics_hourly WHERE workflow_id = '' AND hour >= $1 AND hour < $2"""


def _buckets(width_s: int, of: str) -> str:
    """The buckets of one width: `=` those of all workflows together, `<>` those of each."""
    also = _WITHOUT if of == "<>" else ""
    return f"""
SELECT tenant_id, sum(count)::bigint AS total, (sum(sum) * 1000)::bigint AS us, sum(count - failed)::bigint AS completed
  FROM (SELECT tenant_id, count, failed, sum FROM judgment_metrics_buckets
         WHERE width_s = {width_s} AND bucket >= $1 AND bucket < $2 AND workflow_id {of} '{ALL_WORKFLOWS}'
           AND metric_name = '{EXECUTION_TIME}'{also}) AS buckets GROUP BY 1
"""


def _counts(width_s: int, of: str) -> str:
    """The same of what is only counted: judgments by their results and by their methods."""
    also = _WITHOUT_COUNTS if of == "<>" else ""
    return f"""
SELECT tenant_id, sum(count) FILTER (WHERE by_result)::bigint AS results,
       sum(count) FILTER (WHERE NOT by_result)::bigint AS methods
  FROM (SELECT tenant_id, starts_with(metric_name, '{RESULT_PREFIX}') AS by_result, count FROM judgment_metrics_buckets
         WHERE width_s = {width_s} AND bucket >= $1 AND bucket < $2 AND workflow_id {of} '{ALL_WORKFLOWS}'
           AND {IS_COUNTED}{also}) AS counts GROUP BY 1
"""


_WITHOUT_COUNTS = """
 UNION ALL SELECT tenant_id, by_result, total_executions
   FROM judgment_metrics_hourly CROSS JOIN (VALUES (true), (false)) AS both_of_them(by_result)
  WHERE workflow_id = '' AND hour >= $1 AND hour < $2"""
_FINE = _buckets(LIVE_S, "=")
# Everything that is kept of whole hours: each must say the same.
_BY_HOUR = (_HOURLY, _buckets(HOUR_S, "="), _buckets(HOUR_S, "<>"))
_BY_FINE = (_buckets(FINE_S, "="), _buckets(FINE_S, "<>"))
_COUNTED_BY_HOUR = (_RESULTS, _counts(HOUR_S, "="), _counts(HOUR_S, "<>"))
_COUNTED_BY_FINE = (_counts(FINE_S, "="), _counts(FINE_S, "<>"))
# Everything before an LSN is rolled up when the position has passed it.
_PASSED = f"""
SELECT EXISTS (SELECT FROM cdc_positions WHERE slot_name = $1 AND commit_lsn >= $2::text::pg_lsn AND {ARE_COUNTED})
"""
_MARK = f"SELECT pg_logical_emit_message(true, '{MARK}', '')"
_SAVE = """
INSERT INTO reconciliation AS r (slot_name, verified_through, rows_compared) VALUES ($1, $2, $3)
ON CONFLICT (slot_name) DO UPDATE SET verified_through = excluded.verified_through,
  rows_compared = r.rows_compared + excluded.rows_compared, checked_at = now()
"""
_RECORD = """
INSERT INTO reconciliation_differences AS d (slot_name, tenant_id, range_from, range_to, stored, rolled_up, arm)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (slot_name, tenant_id, range_from, range_to) WHERE resolved_at IS NULL
DO UPDATE SET stored = excluded.stored, rolled_up = excluded.rolled_up, arm = excluded.arm
"""
_NOT_VERIFIED = "UPDATE reconciliation SET verified_through = least(verified_through, $2) WHERE slot_name = $1"
_RESOLVE = """
UPDATE reconciliation_differences SET resolved_at = now()
 WHERE slot_name = $1 AND resolved_at IS NULL AND range_from >= $2 AND range_to <= $3 AND NOT tenant_id = ANY($4::text[])
"""


class Behind(Unavailable):
    """The rollups have not come as far as the table was read; nothing can be said yet."""

    code, title = "behind", "The rollups are behind"


class Comparison(NamedTuple):
    """What a slice showed."""

    rows: int
    differences: list[Difference]


class Books:
    """Compares slices of time and keeps the result. The databases may be one; `slot`: whose rollups."""

    def __init__(
        self,
        judgments: Database,
        rollups: Database,
        slot: str,
        windows: Windows,
        has_passed: Callable[[int], bool] | None = None,
    ) -> None:
        """`has_passed`: whether all before an LSN is rolled up, as who reads the log knows; None: nobody here does."""
        self._judgments, self._rollups, self._slot, self._windows = judgments, rollups, slot, windows
        self._has_passed = has_passed

    def fine_from_s(self, now_s: float) -> int:
        """Since when fine buckets are surely kept, at a whole hour."""
        second = int(now_s) - (self._windows.live_s - HOUR_S)
        return second - second % HOUR_S + HOUR_S

    async def compare(self, start_s: int, end_s: int, now_s: float) -> Comparison:
        """The slice in the table and in the rollups. Raises Behind, DatabaseUnavailable or Overloaded.

        Whole hours before `fine_from_s`, whole fine buckets after it. The table is read first; the rollups when they hold all
        that was read then. What changes in between shows as a difference: see again. Of judgments that retention has dropped
        nothing is compared any more.
        """
        async with self._judgments.query(may_be_slow=True) as connection:
            start_s = max(start_s, await _retained_s(connection))
            if start_s >= end_s:
                return Comparison(0, [])
            stored = await connection.fetch(_STORED, _moment(start_s), _moment(end_s), timeout=STATEMENT_TIMEOUT_S)
            if await _retained_s(connection) > start_s:  # dropped while it was read
                raise Behind("old judgments were dropped meanwhile; this slice is compared again")
            lsn = await connection.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        await self._reached(lsn)
        whole = start_s < self.fine_from_s(now_s) or start_s % HOUR_S == end_s % HOUR_S == 0
        async with self._rollups.query(may_be_slow=True) as connection:
            found = await self._compare_with(connection, _totals(stored), start_s, end_s, whole, now_s)
        return Comparison(sum(row["total"] for row in stored), found)

    async def _compare_with(
        self, connection: Any, known: dict[str, Totals], start_s: int, end_s: int, whole: bool, now_s: float
    ) -> list[Difference]:
        """What is known of a slice against each of the rollups; the first difference of a tenant speaks for it.

        `whole`: of whole hours. What was accepted is asked of hours that are over: else an answer may be ahead of the stream.
        """
        over = end_s < now_s
        arms: tuple[str, ...] = (_FINE,)
        counted: tuple[str, ...] = ()
        if whole:
            since_s = now_s - self._windows.fine_s + HOUR_S
            arms, counted = _BY_HOUR, _COUNTED_BY_HOUR
            if start_s >= since_s:
                arms, counted = (*arms, *_BY_FINE), (*counted, *_COUNTED_BY_FINE)
        bounds = _moment(start_s), _moment(end_s)
        found: dict[str, Difference] = {}
        for sql in arms:
            rows = await connection.fetch(sql, *bounds, timeout=STATEMENT_TIMEOUT_S)
            for one in differences(known, _totals(rows), start_s, end_s):
                found.setdefault(one.tenant_id, one)
        for sql in counted:
            rows = await connection.fetch(sql, *bounds, timeout=STATEMENT_TIMEOUT_S)
            for one in count_differences(known, {tenant: counts for tenant, *counts in rows}, start_s, end_s):
                found.setdefault(one.tenant_id, one)
        if whole:
            rows = await connection.fetch(_ARMS, *bounds, timeout=STATEMENT_TIMEOUT_S)
            told_by = {row["tenant_id"]: (row["accepted"] if over else 0, row["inserted"], row["deleted"]) for row in rows}
            for one in arm_differences(known, told_by, start_s, end_s):
                found.setdefault(one.tenant_id, one)
        return list(found.values())

    async def compare_fine(self, hour_s: int, now_s: float) -> Comparison:
        """A whole hour in the buckets of seconds and in all others, which are written by the same statement."""
        bounds = _moment(hour_s), _moment(hour_s + HOUR_S)
        async with (
            self._rollups.query(may_be_slow=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            fine = _totals(await connection.fetch(_FINE, *bounds, timeout=STATEMENT_TIMEOUT_S))
            return Comparison(0, await self._compare_with(connection, fine, hour_s, hour_s + HOUR_S, True, now_s))

    async def _reached(self, lsn: str) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + BEHIND_S
        marked = False
        while True:
            if self._has_passed is not None and self._has_passed(parse_lsn(lsn)):
                return
            async with self._rollups.query() as connection:
                if await connection.fetchval(_PASSED, self._slot, lsn):
                    return
            if self._has_passed is None and not marked:  # else the position of an idle database would not get there
                async with self._judgments.query() as connection:
                    await connection.execute(_MARK)
                marked = True
            if loop.time() > deadline_s:
                raise Behind(f"the rollups have not reached {lsn} within {BEHIND_S:.0f} s")
            await asyncio.sleep(POLL_S)

    async def next_rows_s(self, start_s: int) -> int | None:
        """The first hour with rollups at or after the hour of `start_s`."""
        async with self._rollups.query() as connection:
            hour = await connection.fetchval(
                "SELECT min(hour) FROM judgment_metrics_hourly WHERE hour >= $1", _moment(start_s - start_s % HOUR_S)
            )
        return None if hour is None else int(hour.timestamp())

    async def verified_through_s(self) -> int:
        """What was saved last; the earliest time when nothing was."""
        async with self._rollups.query() as connection:
            moment = await connection.fetchval("SELECT verified_through FROM reconciliation WHERE slot_name = $1", self._slot)
        return EARLIEST_S if moment is None else int(moment.timestamp())

    async def save(self, verified_through_s: int, rows: int) -> None:
        """Keep how far the comparison has come, and how many more rows it has read."""
        async with self._rollups.query() as connection:
            await connection.execute(_SAVE, self._slot, _moment(verified_through_s), rows)

    async def record(self, start_s: int, end_s: int, found: list[Difference]) -> None:
        """Keep what was found in a range, and end the differences inside it that are no more."""
        async with self._rollups.query() as connection, connection.transaction():
            tenants = [one.tenant_id for one in found]
            await connection.execute(_RESOLVE, self._slot, _moment(start_s), _moment(end_s), tenants)
            for one in found:
                bounds = _moment(one.start_s), _moment(one.end_s)
                totals = one.stored.total, one.rolled_up.total
                await connection.execute(_RECORD, self._slot, one.tenant_id, *bounds, *totals, one.arm)
            if found:  # at once: who sees the difference shall not read that its hours are verified
                await connection.execute(_NOT_VERIFIED, self._slot, min(_moment(one.start_s) for one in found))

    async def open_ranges(self) -> list[tuple[int, int]]:
        """Where differences stand, the oldest first."""
        async with self._rollups.query() as connection:
            rows = await connection.fetch(
                "SELECT DISTINCT range_from, range_to FROM reconciliation_differences"
                " WHERE slot_name = $1 AND resolved_at IS NULL ORDER BY 1, 2 LIMIT 1000",
                self._slot,
            )
        return [(int(row["range_from"].timestamp()), int(row["range_to"].timestamp())) for row in rows]


async def _retained_s(connection: Any) -> int:
    boundary = await retained_from(connection)
    return EARLIEST_S if boundary is None else int(boundary.timestamp())


def _moment(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)


def _totals(rows: list[Any]) -> dict[str, Totals]:
    totals = {row["tenant_id"]: Totals(row["total"], row["completed"], row["us"]) for row in rows}
    return {tenant: total for tenant, total in totals.items() if any(total)}
