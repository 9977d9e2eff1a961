"""What has to be done to the rollups now and then: samples merged into wider buckets, old ones forgotten, partitions made.

On plain PostgreSQL the samples are partitioned by month, and partitions are dropped when they are over for `metrics.keep_days`.
With TimescaleDB its policies compress and drop chunks; here they are only kept true to the settings.
"""

import asyncio
import contextlib
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from judgify_engine.config import Config
from judgify_engine.core.samples import FINE_S, LIVE_S
from judgify_engine.errors import JudgifyError
from judgify_engine.store import timescale
from judgify_engine.store.pool import Database
from judgify_engine.store.recompute import UNLIMITED
from judgify_engine.store.rollup_writer import SWAP_LOCK

log = logging.getLogger(__name__)

INTERVAL_S = 600.0
SLICE_ROWS = 20_000
MONTHS_AHEAD = 2
TABLE = "judgment_metrics_timeseries"
MERGE_AFTER = timedelta(hours=2)
"""Samples older than this are merged; by then nearly all late ones have come."""
MERGE_HOURS = 24
"""Hours merged at once at most: what was missed while no engine ran is caught up with in several rounds."""
KEEP_DONE = timedelta(days=30)
"""How long repairs that are finished and differences that are resolved can be looked at."""
TIMEOUT_S = 600.0

_FORGET = """
DELETE FROM judgment_metrics_buckets WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM judgment_metrics_buckets WHERE width_s = $1 AND bucket < $2 LIMIT $3))
"""
# What is over and done with; what is open stays, however old. Gaps are few, and a record that users read: they stay.
_FORGET_DONE = tuple(
    f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {ended} < $1 LIMIT $2))"
    for table, ended in (("rollup_repairs", "finished_at"), ("reconciliation_differences", "resolved_at"))
)
# The hours not merged yet; what comes late to a merged hour stays as it came.
_NEXT_HOUR = """
SELECT min(hour) FROM (
  SELECT coalesce((SELECT merged_through FROM metrics_upkeep), '2000-01-01Z'::timestamptz) AS through) AS t
 CROSS JOIN LATERAL (
  SELECT date_trunc('hour', min(time), 'UTC') AS hour FROM judgment_metrics_timeseries WHERE time >= through AND time < $1) AS h
"""
_MERGE = f"""
WITH taken AS (
  DELETE FROM judgment_metrics_timeseries WHERE time >= $1 AND time < $2 RETURNING *
), wide AS (
  SELECT to_timestamp(floor(extract(epoch FROM time) / {FINE_S}) * {FINE_S}) AS bucket, * FROM taken
), sums AS (
  SELECT bucket, tenant_id, workflow_id, metric_name, dimensions, sum(count) AS count, sum(sum) AS sum, min(minimum) AS minimum,
         max(maximum) AS maximum
    FROM wide GROUP BY 1, 2, 3, 4, 5 HAVING sum(count) <> 0 OR sum(sum) <> 0
), histograms AS (
  SELECT bucket, tenant_id, workflow_id, metric_name, dimensions, array_agg(slot ORDER BY slot) AS slots,
         array_agg(n ORDER BY slot) AS counts
    FROM (SELECT bucket, tenant_id, workflow_id, metric_name, dimensions, slot, sum(n)::bigint AS n
            FROM wide CROSS JOIN LATERAL unnest(slots, counts) AS u(slot, n) GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(n) <> 0) AS s
   GROUP BY 1, 2, 3, 4, 5
)
INSERT INTO judgment_metrics_timeseries (time, tenant_id, workflow_id, metric_name, value, dimensions, count, sum, minimum,
  maximum, slots, counts)
SELECT bucket, tenant_id, workflow_id, metric_name, (sum / nullif(count, 0))::double precision, dimensions, count, sum, minimum,
       maximum, coalesce(slots, '{{}}'), coalesce(counts, '{{}}')
  FROM sums LEFT JOIN histograms USING (bucket, tenant_id, workflow_id, metric_name, dimensions)
"""


async def run(rollups: Database, config: Config, stop: asyncio.Event) -> None:
    """Once every ten minutes until `stop`; a failure is logged and tried again next time."""
    while not stop.is_set():
        try:
            await prepare(rollups, config)
            await forget(rollups, config, datetime.now(UTC))
            await merge(rollups, datetime.now(UTC))
        except (JudgifyError, asyncpg.PostgresError) as error:
            log.warning("upkeep of the rollups failed and is tried again later", extra={"reason": str(error)})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), INTERVAL_S)


async def prepare(rollups: Database, config: Config) -> None:
    """Partitions ahead, or TimescaleDB's policies; quick, also before anything is served. Raises StartupError."""
    async with rollups.query() as connection:
        if await timescale.has_hypertable(connection):
            await timescale.set_policies(connection, config.metrics)
        else:
            await _make_ahead(connection, datetime.now(UTC))


async def forget(rollups: Database, config: Config, now: datetime) -> None:
    """Forget what is older than it is kept, in small slices so that nobody waits for locks."""
    async with rollups.query() as connection:
        if not await timescale.has_hypertable(connection):
            await _drop_old(connection, now - timedelta(days=config.metrics.keep_days))
    for width_s, keep in (
        (LIVE_S, timedelta(hours=config.keep.live_hours)),
        (FINE_S, timedelta(days=config.metrics.keep_days)),
    ):
        await _forget(rollups, _FORGET, width_s, now - keep)
    for sql in _FORGET_DONE:
        await _forget(rollups, sql, now - KEEP_DONE)


async def _forget(rollups: Database, sql: str, *values: Any) -> None:
    """Run a DELETE whose last parameter is how many rows at most, until there are no more."""
    forgotten = SLICE_ROWS
    while forgotten == SLICE_ROWS:
        async with rollups.query() as connection:
            done = await connection.execute(sql, *values, SLICE_ROWS)
        forgotten = int(done.split()[-1])


async def merge(rollups: Database, now: datetime) -> int:
    """Merge the samples of hours that are over for long enough; returns how many hours were merged.

    Under a lock that a repair takes too: else it would miss rows that are being merged.
    """
    until = (now - MERGE_AFTER).replace(minute=0, second=0, microsecond=0)
    for done in range(MERGE_HOURS):
        async with rollups.query(may_be_slow=True) as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", SWAP_LOCK, timeout=TIMEOUT_S)
            hour = await connection.fetchval(_NEXT_HOUR, until, timeout=TIMEOUT_S)
            if hour is None:
                return done
            await connection.execute(UNLIMITED)
            await connection.execute(_MERGE, hour, hour + timedelta(hours=1), timeout=TIMEOUT_S)
            await connection.execute(
                "INSERT INTO metrics_upkeep (single, merged_through) VALUES (true, $1)"
                " ON CONFLICT (single) DO UPDATE SET merged_through = excluded.merged_through",
                hour + timedelta(hours=1),
            )
    return MERGE_HOURS


async def _make_ahead(connection: Any, now: datetime) -> None:
    for name, start, end in _months(now, MONTHS_AHEAD):
        if await connection.fetchval("SELECT to_regclass($1) IS NULL", name):
            try:
                # Names and bounds are ours, and DDL takes no parameters.
                await connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {TABLE} FOR VALUES FROM ('{start}') TO ('{end}')"
                )
            except asyncpg.CheckViolationError:
                log.warning("the default partition holds samples of this month", extra={"partition": name})


def _months(now: datetime, ahead: int) -> list[tuple[str, datetime, datetime]]:
    """(name, start, end) of the partition of `now` and of the `ahead` months after it, in UTC."""
    result = []
    year, month = now.year, now.month
    for _ in range(ahead + 1):
        start = datetime(year, month, 1, tzinfo=UTC)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        result.append((f"{TABLE}_{start:%Y_%m}", start, datetime(year, month, 1, tzinfo=UTC)))
    return result


async def _drop_old(connection: Any, before: datetime) -> None:
    rows = await connection.fetch(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::regclass", TABLE
    )
    last = f"{TABLE}_{before:%Y_%m}"
    for name in sorted(row["relname"] for row in rows):
        if name.removeprefix(f"{TABLE}_")[:4].isdigit() and name < last:
            async with connection.transaction():
                await connection.execute("SET LOCAL lock_timeout = '2s'")
                await connection.execute(f"DROP TABLE {name}")
            log.info("old samples were dropped", extra={"partition": name})
    await connection.execute(f"DELETE FROM {TABLE}_default WHERE time < $1", before, timeout=TIMEOUT_S)
