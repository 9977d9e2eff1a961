"""The figures that alert rules are asked of, of all tenants at once: one query for each kind of figure, all of one moment."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from judgify_engine.core.alert_figures import MOST_RESULTS, RESULT_PREFIX, USUAL_S, Need, Place, Read, Sums, Window
from judgify_engine.core.samples import EXECUTION_TIME, FINE_S, HOUR_S, LIVE_S
from judgify_engine.store.pool import Database
from judgify_engine.store.rollup_writer import stored_position
from judgify_engine.units import Position

TIMEOUT_S = 20.0
TURN_ROWS = 3000
KEPT_PASTS = 100
"""Of groups of tenants that are read together."""

# Of one width at a time, between the first and the last moment of all windows: else all of the table would be read.
_WINDOWS = "unnest($1::int[], $2::timestamptz[], $3::timestamptz[]) AS w(place, from_at, to_at)"
_WITHIN = "b.width_s = $4 AND b.bucket >= $5 AND b.bucket < $6"
_SUMS = f"""
SELECT w.place, b.tenant_id, b.workflow_id, sum(b.count)::bigint AS count, sum(b.failed)::bigint AS failed,
       sum(b.sum)::float8 AS total, min(b.minimum) AS low, max(b.maximum) AS high
  FROM {_WINDOWS} JOIN judgment_metrics_buckets AS b
    ON b.bucket >= w.from_at AND b.bucket < w.to_at AND {_WITHIN}
 WHERE b.metric_name = '{EXECUTION_TIME}' AND b.tenant_id = ANY($7::text[])
   AND (b.workflow_id = '' OR b.tenant_id = ANY($8::text[])) GROUP BY 1, 2, 3
"""
_HISTOGRAMS = f"""
SELECT w.place, b.tenant_id, b.workflow_id, h.slot, sum(h.n)::bigint AS n
  FROM {_WINDOWS} JOIN judgment_metrics_buckets AS b
    ON b.bucket >= w.from_at AND b.bucket < w.to_at AND {_WITHIN}
 CROSS JOIN LATERAL unnest(b.slots, b.counts) AS h(slot, n)
 WHERE b.metric_name = '{EXECUTION_TIME}' AND b.tenant_id = ANY($7::text[]) GROUP BY 1, 2, 3, 4
"""
# Of results only the most frequent ones: a tenant may have any number of them.
_FINE = f"""
SELECT place, tenant_id, workflow_id, metric_name, count, failed, total, low, high FROM (
SELECT w.place, b.tenant_id, b.workflow_id, b.metric_name, sum(b.count)::bigint AS count, sum(b.failed)::bigint AS failed,
       sum(b.sum)::float8 AS total, min(b.minimum) AS low, max(b.maximum) AS high,
       row_number() OVER (PARTITION BY w.place, b.tenant_id, b.workflow_id, starts_with(b.metric_name, '{RESULT_PREFIX}')
                          ORDER BY sum(b.count) DESC, b.metric_name) AS rank
  FROM {_WINDOWS} JOIN judgment_metrics_buckets AS b
    ON b.bucket >= w.from_at AND b.bucket < w.to_at AND {_WITHIN}
 WHERE b.tenant_id = ANY($7::text[])
   AND (b.metric_name = ANY($8::text[]) OR split_part(b.metric_name, '.', 1) || '.' = ANY($8::text[])) GROUP BY 1, 2, 3, 4
) AS ranked WHERE rank <= {MOST_RESULTS} OR NOT starts_with(metric_name, '{RESULT_PREFIX}')
"""
_PAST = f"""
SELECT tenant_id, workflow_id, extract(epoch FROM min(bucket))::bigint AS first_s, array_agg(count) AS counts
  FROM judgment_metrics_buckets
 WHERE metric_name = '{EXECUTION_TIME}' AND width_s = {FINE_S} AND bucket >= $1 AND bucket < $2 AND count > 0
   AND tenant_id = ANY($3::text[]) AND (workflow_id = '' OR tenant_id = ANY($4::text[])) GROUP BY 1, 2
"""
_STORED = """
SELECT tenant_id, sum(total_executions)::bigint AS count FROM judgment_metrics_hourly
 WHERE hour >= $1 AND hour < $2 AND tenant_id = ANY($3::text[]) GROUP BY 1
"""
_WRONG = """
SELECT tenant_id, sum(count)::bigint AS wrong, coalesce(sum(count) FILTER (WHERE source = 'stored'), 0)::bigint AS stored
  FROM judgment_quality_hourly WHERE hour >= $1 AND hour < $2 AND tenant_id = ANY($3::text[]) GROUP BY 1
"""
_TENANTS = """
SELECT tenant_id, max(workflows) FROM (
  SELECT tenant_id, count(*) AS workflows FROM judgment_metrics_total GROUP BY 1
  UNION ALL SELECT DISTINCT tenant_id, 0 FROM judgment_quality_hourly WHERE hour > now() - interval '3 hours') AS t GROUP BY 1
"""


class AlertFigures:
    """Reads rollups. `slot`: whose. All raise DatabaseUnavailable or Overloaded."""

    def __init__(self, rollups: Database, slot: str) -> None:
        self._rollups, self._slot = rollups, slot
        self._pasts: dict[tuple[frozenset[str], frozenset[str]], tuple[int, dict[Place, tuple[int, Sequence[int]]]]] = {}

    async def position(self) -> Position | None:
        """Up to where the rollups are computed; None: they are being made anew."""
        async with self._rollups.query() as connection:
            return await stored_position(connection, self._slot)

    async def tenants(self) -> dict[str, int]:
        """All of whom there are figures, and how many workflows each has."""
        async with self._rollups.query(may_be_slow=True) as connection:
            return {row[0]: row[1] for row in await connection.fetch(_TENANTS, timeout=TIMEOUT_S)}

    async def read(self, need: Need, timeout_s: float = TIMEOUT_S) -> Read:
        """All that is needed, in one snapshot. Raises Overloaded where that takes longer than `timeout_s`."""
        if not need.windows:
            return Read({}, {}, {}, {}, 0, {})
        windows = need.windows
        last_s = windows[-1].end_s
        until_s = time.monotonic() + timeout_s

        def left_s() -> float:
            return max(0.001, until_s - time.monotonic())

        async with (
            self._rollups.query(may_be_slow=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            sums: list[Any] = []
            for each in _columns(windows):
                sums += await connection.fetch(_SUMS, *each, need.tenants, need.by_workflow, timeout=left_s())
            slots: list[Any] = []
            if need.p95:
                for each in _columns(need.p95_windows):
                    slots += await connection.fetch(_HISTOGRAMS, *each, need.p95, timeout=left_s())
            fine: list[Any] = []
            if need.fine:
                for each in _columns(need.fine_windows, fine=True):
                    fine += await connection.fetch(_FINE, *each, need.fine, need.metrics, timeout=left_s())
            past_end_s = last_s - last_s % FINE_S
            past = await self._read_past(connection, need, past_end_s, left_s)
            quality = await _read_quality(connection, need.quality, last_s, left_s) if need.quality else {}
        histograms: dict[tuple[Window, str, str], dict[int, int]] = {}
        async for place, tenant_id, workflow_id, slot, n in _in_turns(slots):
            histograms.setdefault((need.p95_windows[place], tenant_id, workflow_id), {})[slot] = n
        by_metric: dict[tuple[Window, str, str], dict[str, Sums]] = {}
        async for place, tenant_id, workflow_id, metric, *values in _in_turns(fine):
            by_metric.setdefault((need.fine_windows[place], tenant_id, workflow_id), {})[metric] = Sums(*values)
        found = {(windows[row[0]], row[1], row[2]): Sums(*row[3:]) async for row in _in_turns(sums)}
        return Read(found, histograms, by_metric, past, past_end_s, quality)

    async def _read_past(
        self, connection: Any, need: Need, end_s: int, left_s: Callable[[], float]
    ) -> dict[Place, tuple[int, Sequence[int]]]:
        """What is usual changes slowly: it is read again when a bucket of 5 minutes is over, or others are asked for."""
        if not need.usual:
            return {}
        key = frozenset(need.usual), frozenset(need.usual_by_workflow)
        found = self._pasts.pop(key, None)
        if found is None or found[0] != end_s:
            bounds = _moment(end_s - USUAL_S), _moment(end_s)
            rows = await connection.fetch(_PAST, *bounds, need.usual, need.usual_by_workflow, timeout=left_s())
            found = end_s, {(row["tenant_id"], row["workflow_id"]): (row["first_s"], row["counts"]) for row in rows}
        while len(self._pasts) >= KEPT_PASTS:
            del self._pasts[next(iter(self._pasts))]
        self._pasts[key] = found
        return found[1]


async def _read_quality(
    connection: Any, tenants: Sequence[str], end_s: int, left_s: Callable[[], float]
) -> dict[str, tuple[int, int]]:
    hour_s = (end_s - 1) // HOUR_S * HOUR_S
    bounds = _moment(hour_s - HOUR_S), _moment(hour_s + HOUR_S)
    stored = {row["tenant_id"]: row["count"] for row in await connection.fetch(_STORED, *bounds, tenants, timeout=left_s())}
    wrong = {row["tenant_id"]: row for row in await connection.fetch(_WRONG, *bounds, tenants, timeout=left_s())}
    found = {}
    for tenant_id in stored.keys() | wrong.keys():
        bad = wrong.get(tenant_id)
        valid = stored.get(tenant_id, 0) - (bad["stored"] if bad else 0)
        found[tenant_id] = max(0, valid), bad["wrong"] if bad else 0
    return found


async def _in_turns(rows: Sequence[Any]) -> AsyncIterator[tuple[Any, ...]]:
    """There may be very many of them; others have the event loop in between."""
    for place, row in enumerate(rows, 1):
        yield tuple(row)
        if place % TURN_ROWS == 0:
            await asyncio.sleep(0)


def _columns(windows: Sequence[Window], *, fine: bool = False) -> Iterator[tuple[Any, ...]]:
    """For each width of buckets: the windows as columns, the width, and from when to when they all lie."""
    for width_s in (LIVE_S, FINE_S):
        chosen = [(place, one) for place, one in enumerate(windows) if (FINE_S if fine else one.width_s) == width_s]
        if chosen:
            starts_s = [one.start_s if width_s == LIVE_S else one.fine_start_s for _, one in chosen]
            ends_s = [one.end_s for _, one in chosen]
            columns = [place for place, _ in chosen], [_moment(each) for each in starts_s], [_moment(each) for each in ends_s]
            yield *columns, width_s, _moment(min(starts_s)), _moment(max(ends_s))


def _moment(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)
