"""The figures that alert rules are asked of, of all tenants at once: one query for each kind of figure, all of one moment."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from judgify_engine.core.alert_figures import USUAL_S, Need, Read, Sums, Window
from judgify_engine.core.samples import EXECUTION_TIME, FINE_S, HOUR_S
from judgify_engine.store.pool import Database
from judgify_engine.store.rollup_writer import stored_position
from judgify_engine.units import Position

TIMEOUT_S = 20.0

_WINDOWS = "unnest($1::int[], $2::int[], $3::timestamptz[], $4::timestamptz[]) AS w(place, width_s, from_at, to_at)"
_SUMS = f"""
SELECT w.place, b.tenant_id, b.workflow_id, sum(b.count)::bigint AS count, sum(b.failed)::bigint AS failed,
       sum(b.sum)::float8 AS total, min(b.minimum) AS low, max(b.maximum) AS high
  FROM {_WINDOWS} JOIN judgment_metrics_buckets AS b
    ON b.width_s = w.width_s AND b.bucket >= w.from_at AND b.bucket < w.to_at
 WHERE b.metric_name = '{EXECUTION_TIME}' AND (b.workflow_id = '' OR b.tenant_id = ANY($5::text[])) GROUP BY 1, 2, 3
"""
_HISTOGRAMS = f"""
SELECT w.place, b.tenant_id, b.workflow_id, h.slot, sum(h.n)::bigint AS n
  FROM {_WINDOWS} JOIN judgment_metrics_buckets AS b
    ON b.width_s = w.width_s AND b.bucket >= w.from_at AND b.bucket < w.to_at
 CROSS JOIN LATERAL unnest(b.slots, b.counts) AS h(slot, n)
 WHERE b.metric_name = '{EXECUTION_TIME}' AND b.tenant_id = ANY($5::text[]) GROUP BY 1, 2, 3, 4
"""
_FINE = f"""
SELECT w.place, b.tenant_id, b.workflow_id, b.metric_name, sum(b.count)::bigint AS count, sum(b.failed)::bigint AS failed,
       sum(b.sum)::float8 AS total, min(b.minimum) AS low, max(b.maximum) AS high
  FROM {_WINDOWS} JOIN judgment_metrics_buckets AS b
    ON b.width_s = w.width_s AND b.bucket >= w.from_at AND b.bucket < w.to_at
 WHERE b.tenant_id = ANY($5::text[])
   AND (b.metric_name = ANY($6::text[]) OR split_part(b.metric_name, '.', 1) || '.' = ANY($6::text[])) GROUP BY 1, 2, 3, 4
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
SELECT tenant_id FROM judgment_metrics_total
UNION SELECT tenant_id FROM judgment_quality_hourly WHERE hour > now() - interval '3 hours'
"""


class AlertFigures:
    """Reads rollups. `slot`: whose. All raise DatabaseUnavailable or Overloaded."""

    def __init__(self, rollups: Database, slot: str) -> None:
        self._rollups, self._slot = rollups, slot
        self._past: (
            tuple[tuple[int, frozenset[str], frozenset[str]], dict[tuple[str, str], tuple[int, Sequence[int]]]] | None
        ) = None

    async def position(self) -> Position | None:
        """Up to where the rollups are computed; None: they are being made anew."""
        async with self._rollups.query() as connection:
            return await stored_position(connection, self._slot)

    async def tenants(self) -> list[str]:
        """All of whom there are figures."""
        async with self._rollups.query(may_be_slow=True) as connection:
            return [row[0] for row in await connection.fetch(_TENANTS, timeout=TIMEOUT_S)]

    async def read(self, need: Need) -> Read:
        """All that is needed, in one snapshot."""
        if not need.windows:
            return Read({}, {}, {}, {}, 0, {})
        windows = need.windows
        last_s = windows[-1].end_s
        async with (
            self._rollups.query(may_be_slow=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            sums = await connection.fetch(_SUMS, *_columns(windows), need.by_workflow, timeout=TIMEOUT_S)
            slots = await connection.fetch(_HISTOGRAMS, *_columns(windows), need.p95, timeout=TIMEOUT_S) if need.p95 else []
            fine: list[Any] = []
            if need.fine:
                fine = await connection.fetch(_FINE, *_columns(windows, fine=True), need.fine, need.metrics, timeout=TIMEOUT_S)
            past_end_s = last_s - last_s % FINE_S
            past = await self._read_past(connection, need, past_end_s)
            quality = await _read_quality(connection, need.quality, last_s) if need.quality else {}
        histograms: dict[tuple[Window, str, str], dict[int, int]] = {}
        for place, tenant_id, workflow_id, slot, n in slots:
            histograms.setdefault((windows[place], tenant_id, workflow_id), {})[slot] = n
        by_metric: dict[tuple[Window, str, str], dict[str, Sums]] = {}
        for place, tenant_id, workflow_id, metric, *values in fine:
            by_metric.setdefault((windows[place], tenant_id, workflow_id), {})[metric] = Sums(*values)
        found = {(windows[row[0]], row[1], row[2]): Sums(*row[3:]) for row in map(tuple, sums)}
        return Read(found, histograms, by_metric, past, past_end_s, quality)

    async def _read_past(self, connection: Any, need: Need, end_s: int) -> dict[tuple[str, str], tuple[int, Sequence[int]]]:
        """What is usual changes slowly: it is read again when a bucket of 5 minutes is over, or others are asked for."""
        if not need.usual:
            return {}
        key = end_s, frozenset(need.usual), frozenset(need.by_workflow)
        if self._past is None or self._past[0] != key:
            bounds = _moment(end_s - USUAL_S), _moment(end_s)
            rows = await connection.fetch(_PAST, *bounds, need.usual, need.by_workflow, timeout=TIMEOUT_S)
            self._past = key, {(row["tenant_id"], row["workflow_id"]): (row["first_s"], row["counts"]) for row in rows}
        return self._past[1]


async def _read_quality(connection: Any, tenants: Sequence[str], end_s: int) -> dict[str, tuple[int, int]]:
    hour_s = (end_s - 1) // HOUR_S * HOUR_S
    bounds = _moment(hour_s - HOUR_S), _moment(hour_s + HOUR_S)
    stored = {row["tenant_id"]: row["count"] for row in await connection.fetch(_STORED, *bounds, tenants)}
    wrong = {row["tenant_id"]: row for row in await connection.fetch(_WRONG, *bounds, tenants)}
    found = {}
    for tenant_id in stored.keys() | wrong.keys():
        bad = wrong.get(tenant_id)
        valid = stored.get(tenant_id, 0) - (bad["stored"] if bad else 0)
        found[tenant_id] = max(0, valid), bad["wrong"] if bad else 0
    return found


def _columns(windows: Sequence[Window], *, fine: bool = False) -> tuple[list[Any], ...]:
    return (
        list(range(len(windows))),
        [FINE_S if fine else window.width_s for window in windows],
        [_moment(window.fine_start_s if fine or window.width_s == FINE_S else window.start_s) for window in windows],
        [_moment(window.end_s) for window in windows],
    )


def _moment(second: int) -> datetime:
    return datetime.fromtimestamp(second, UTC)
