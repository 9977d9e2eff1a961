"""The rollups of a view at one position: all read in one transaction, so they agree with it and with each other."""

from datetime import UTC, datetime, timedelta
from typing import Any

from judgify_engine.core.rollup import FINE_BUCKET_S, Sums
from judgify_engine.core.view import BUCKETS_S, FRAMES_S, LIVE_WINDOW_S, Snapshot, ViewKey
from judgify_engine.store.pool import Database
from judgify_engine.store.rollup_writer import stored_position
from judgify_engine.units import START

_WORKFLOWS = """
SELECT workflow_id, sum(total_executions)::bigint AS total, sum(total_executions - successful_executions)::bigint AS failed,
       sum(rule_executions)::bigint AS rule, sum(llm_executions)::bigint AS llm, sum(hybrid_executions)::bigint AS hybrid,
       sum(execution_time_us_sum)::bigint AS us, sum(confidence_ppm_sum)::bigint AS ppm,
       judgify_histogram_sum(execution_time_histogram) AS histogram
  FROM judgment_metrics_hourly WHERE tenant_id = $1 AND ($2::text IS NULL OR workflow_id = $2) GROUP BY workflow_id
"""
_RESULTS = """
SELECT result, sum(total_executions)::bigint AS total FROM judgment_results_hourly
 WHERE tenant_id = $1 AND ($2::text IS NULL OR workflow_id = $2) GROUP BY result
"""
_HOURLY = """
SELECT extract(epoch FROM date_bin($4, hour, 'epoch'))::bigint AS bucket, sum(total_executions)::bigint AS total,
       sum(total_executions - successful_executions)::bigint AS failed, sum(execution_time_us_sum)::bigint AS us,
       judgify_histogram_sum(execution_time_histogram) AS histogram
  FROM judgment_metrics_hourly WHERE tenant_id = $1 AND ($2::text IS NULL OR workflow_id = $2) AND hour >= $3 GROUP BY 1
"""
_FINE = """
SELECT extract(epoch FROM date_bin($4, time, 'epoch'))::bigint AS bucket, sum(count)::bigint AS total,
       coalesce(sum(count) FILTER (WHERE dimensions ->> 'status' <> 'completed'), 0)::bigint AS failed, sum(sum)::bigint AS us,
       judgify_histogram_sum(histogram) AS histogram
  FROM judgment_metrics_timeseries
 WHERE tenant_id = $1 AND ($2::text IS NULL OR workflow_id = $2) AND time >= $3 AND metric_name = 'execution_time_ms' GROUP BY 1
"""
HOUR_S = 3600


class SnapshotReader:
    """Reads views from the rollup tables."""

    def __init__(self, database: Database, slot: str) -> None:
        self._database, self._slot = database, slot

    async def snapshot(self, key: ViewKey) -> Snapshot:
        """The figures of a view and the position that they hold for. Raises DatabaseUnavailable."""
        now = datetime.now(UTC)
        who = (key.tenant_id, key.workflow_id)
        width_s = BUCKETS_S[key.timeframe]
        since = _floor(now - timedelta(seconds=FRAMES_S[key.timeframe]), width_s)
        live_since = _floor(now - timedelta(seconds=LIVE_WINDOW_S), FINE_BUCKET_S)
        async with (
            self._database.query(may_be_slow=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            position = await stored_position(connection, self._slot) or START
            workflows = await connection.fetch(_WORKFLOWS, *who)
            results = await connection.fetch(_RESULTS, *who)
            sql = _HOURLY if width_s >= HOUR_S else _FINE
            chart = await connection.fetch(sql, *who, since, timedelta(seconds=width_s))
            live = await connection.fetch(_FINE, *who, live_since, timedelta(seconds=FINE_BUCKET_S))
        return Snapshot(
            position,
            {row["workflow_id"]: _sums(row) for row in workflows},
            {row["result"]: row["total"] for row in results},
            {row["bucket"]: _sums(row) for row in chart},
            {row["bucket"]: _sums(row) for row in live},
        )


def _floor(moment: datetime, width_s: int) -> datetime:
    seconds = int(moment.timestamp())
    return datetime.fromtimestamp(seconds - seconds % width_s, UTC)


def _sums(row: Any) -> Sums:
    counts = {bucket: count for bucket, count in enumerate(row["histogram"]) if count}
    return Sums(
        total=row["total"],
        failed=row["failed"],
        rule=row.get("rule", 0),
        llm=row.get("llm", 0),
        hybrid=row.get("hybrid", 0),
        execution_time_us=row["us"],
        confidence_ppm=row.get("ppm", 0),
        histogram=counts,
    )
