"""The figures that alert rules are asked of, of all tenants at once: one query for each kind of figure, all of one moment."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from judgify_engine.core.alert_figures import USUAL_S, Need, Read, Sums, Window
from judgify_engine.core.samples import EXECUTION_TIME, FINE_S, HOUR_S, LIVE_S
from judgify_engine.store.pool import Database
from judgify_engine.store.rollup_writer import stored_position
from judgify_engine.units import Position

TIMEOUT_S = 20.0

# Of one width at a time, between the first and the last moment of all windows: else all of the table would be read.
_WINDOWS = "unnest($1::int[], $2::timestamptz[], $3::timestamptz[]) AS w(place, from_at, to_at)"
_WITHIN = "b.width_s = $4 AND b.bucket >= $5 AND b.bucket < $6"
_SUMS = f"""
SELECT w.place, b.tenant_id, b.workflow_id, sum(b.count)::bigint AS count, sum(b.failed)::bigint AS failed,
       sum(b.sum)::float8 AS total, min(b.minimum) AS low, max(b.maximum) AS high
  FROM {_WINDOWS} JOIN judgment_metrics_buckets AS b
    ON b.bucket >= w.from_at AND b.bucket < w.to_at AND {_WITHIN}
 WHERE b.metric_name = '{EXECUTION_TIME}' AND (b.workflow_id = '' OR b.tenant_id = ANY($7::text[])) GROUP BY 1, 2, 3
"""
_HISTOGRAMS = f"""
SELECT w.place, b.tenant_id, b.workflow_id, h.slot, sum(h.n)::bigint AS n
  FROM {_WINDOWS} JOIN judgment_metrics_buckets AS b
    ON b.bucket >= w.from_at AND b.bucket < w.to_at AND {_WITHIN}
 CROSS JOIN LATERAL unnest(b.slots, b.counts) AS h(slot, n)
 WHERE b.metric_name = '{EXECUTION_TIME}' AND b.tenant_id = ANY($7::text[]) GROUP BY 1, 2, 3, 4
"""
_FINE = f"""
SELECT w.place, b.tenant_id, b.workflow_id, b.metric_name, sum(b.count)::bigint AS count, sum(b.failed)::bigint AS failed,
       sum(b.sum)::float8 AS total, min(b.minimum) AS low, max(b.maximum) AS high
  FROM {_WINDOWS} JOIN judgment_metrics_buckets AS b
    ON b.bucket >= w.from_at AND b.bucket < w.to_at AND {_WITHIN}
 WHERE b.tenant_id = ANY($7::text[])
   AND (b.metric_name = ANY($8::text[]) OR split_part(b.metric_name, '.', 1) || '.' = ANY($8::text[])) GROUP BY 1, 2, 3, 4
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
            sums: list[Any] = []
            for each in _columns(windows):
                sums += await connection.fetch(_SUMS, *each, need.by_workflow, timeout=TIMEOUT_S)
            slots: list[Any] = []
            if need.p95:
                for each in _columns(need.p95_windows):
                    slots += await connection.fetch(_HISTOGRAMS, *each, need.p95, timeout=TIMEOUT_S)
            fine: list[Any] = []
            if need.fine:
                for each in _columns(need.fine_windows, fine=True):
                    fine += await connection.fetch(_FINE, *each, need.fine, need.metrics, timeout=TIMEOUT_S)
            past_end_s = last_s - last_s % FINE_S
            past = await self._read_past(connection, need, past_end_s)
            quality = await _read_quality(connection, need.quality, last_s) if need.quality else {}
        histograms: dict[tuple[Window, str, str], dict[int, int]] = {}
        for place, tenant_id, workflow_id, slot, n in slots:
            histograms.setdefault((need.p95_windows[place], tenant_id, workflow_id), {})[slot] = n
        by_metric: dict[tuple[Window, str, str], dict[str, Sums]] = {}
        for place, tenant_id, workflow_id, metric, *values in fine:
            by_metric.setdefault((need.fine_windows[place], tenant_id, workflow_id), {})[metric] = Sums(*values)
        found = {(windows[row[0]], row[1], row[2]): Sums(*row[3:]) for row in map(tuple, sums)}
        return Read(found, histograms, by_metric, past, past_end_s, quality)

    async def _read_past(self, connection: Any, need: Need, end_s: int) -> dict[tuple[str, str], tuple[int, Sequence[int]]]:
        """What is usual changes slowly: it is read again when a bucket of 5 minutes is over, or others are asked for."""
        if not need.usual:
            return {}
        key = end_s, frozenset(need.usual), frozenset(need.usual_by_workflow)
        if self._past is None or self._past[0] != key:
            bounds = _moment(end_s - USUAL_S), _moment(end_s)
            rows = await connection.fetch(_PAST, *bounds, need.usual, need.usual_by_workflow, timeout=TIMEOUT_S)
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
