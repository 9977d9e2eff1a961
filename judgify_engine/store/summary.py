"""What GET /api/v1/summary reads: sums over two spans of time, open differences, and how far all is verified, of one moment."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from judgify_engine.core.rollup import FINE_BUCKET_S, HOUR_S
from judgify_engine.store.pool import Database

# confidence_ppm_sum is not in the fine buckets: for short frames it is the hour's.
_HOURLY = """
SELECT coalesce(sum(total_executions), 0)::bigint AS total, coalesce(sum(successful_executions), 0)::bigint AS successful,
       coalesce(sum(execution_time_us_sum), 0)::bigint AS us, sum(confidence_ppm_sum)::bigint AS ppm
  FROM judgment_metrics_hourly
 WHERE tenant_id = $1 AND ($2::text IS NULL OR workflow_id = $2) AND hour >= $3 AND hour < $4
"""
_FINE = """
SELECT coalesce(sum(count), 0)::bigint AS total,
       coalesce(sum(count) FILTER (WHERE dimensions ->> 'status' = 'completed'), 0)::bigint AS successful,
       coalesce(sum(sum), 0)::bigint AS us, NULL::bigint AS ppm
  FROM judgment_metrics_timeseries
 WHERE tenant_id = $1 AND ($2::text IS NULL OR workflow_id = $2) AND time >= $3 AND time < $4
   AND metric_name = 'execution_time_ms'
"""
_DIFFERENCES = """
SELECT range_from, range_to, stored, rolled_up FROM reconciliation_differences
 WHERE slot_name = $1 AND tenant_id = $2 AND resolved_at IS NULL ORDER BY range_from LIMIT 100
"""
FRAMES = {"1h": timedelta(hours=1), "6h": timedelta(hours=6), "24h": timedelta(hours=24), "7d": timedelta(days=7)}
SHORT = ("1h", "6h")
"""Frames that are added up from the fine buckets, the others from hours."""


class Span(NamedTuple):
    """Sums over whole buckets of [start, end)."""

    start: datetime
    end: datetime
    total: int
    successful: int
    execution_time_us: int
    confidence_ppm: int | None


class Read(NamedTuple):
    """All that a summary is made of."""

    now: Span
    current: Span
    previous: Span
    differences: list[Any]
    verified_through: datetime | None
    recomputing: bool


class SummaryReader:
    """Reads summaries. `slot`: whose rollups."""

    def __init__(self, database: Database, slot: str) -> None:
        self._database, self._slot = database, slot

    async def read(self, tenant_id: str, workflow_id: str | None, timeframe: str) -> Read:
        """The frame that ends now, and the last one that is over beside the one before it.

        Raises DatabaseUnavailable or Overloaded.
        """
        width_s, sql = (FINE_BUCKET_S, _FINE) if timeframe in SHORT else (HOUR_S, _HOURLY)
        frame, bucket = FRAMES[timeframe], timedelta(seconds=width_s)
        second = int(datetime.now(UTC).timestamp())
        over = datetime.fromtimestamp(second - second % width_s, UTC)
        async with (
            self._database.query(may_be_slow=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):

            async def span(start: datetime, end: datetime) -> Span:
                row = await connection.fetchrow(sql, tenant_id, workflow_id, start, end)
                return Span(start, end, row["total"], row["successful"], row["us"], row["ppm"])

            now = await span(over + bucket - frame, over + bucket)
            current, previous = await span(over - frame, over), await span(over - 2 * frame, over - frame)
            differences = await connection.fetch(_DIFFERENCES, self._slot, tenant_id)
            through = await connection.fetchval("SELECT verified_through FROM reconciliation WHERE slot_name = $1", self._slot)
            position = await connection.fetchval("SELECT commit_lsn FROM cdc_positions WHERE slot_name = $1", self._slot)
        return Read(now, current, previous, list(differences), through, position is None)
