"""The rollups computed from the table by SQL: all of them, or a range of hours. What `core/rollup.Delta` adds up, in SQL."""

from datetime import datetime
from typing import Any

from judgify_engine.core.histogram import BOUNDS_US
from judgify_engine.core.rollup import FINE_BUCKET_S

TIMEOUT_S = 3600.0
HOURLY = """tenant_id, workflow_id, hour, total_executions, successful_executions, rule_executions, llm_executions,
 hybrid_executions, execution_time_us_sum, confidence_ppm_sum, execution_time_histogram"""
RESULTS = "tenant_id, workflow_id, hour, result, total_executions"
FINE = "time, tenant_id, workflow_id, metric_name, dimensions, count, sum, histogram"
TABLES = (
    ("judgment_metrics_hourly", "hour", HOURLY, "new_hourly"),
    ("judgment_results_hourly", "hour", RESULTS, "new_results"),
    ("judgment_metrics_timeseries", "time", FINE, "new_fine"),
)
"""Each with its column of time, its columns that are not generated, and the table of a session that is to take its place."""
EMPTY = """
DELETE FROM judgment_metrics_hourly; DELETE FROM judgment_results_hourly;
DELETE FROM judgment_metrics_timeseries WHERE metric_name = 'execution_time_ms'
"""
_BY_BUCKET = """
  SELECT tenant_id, workflow_id, {time} AS bucket, status,
         width_bucket(round(execution_time_ms * 1000)::bigint, $1::bigint[]) AS slot,
         count(*) AS total, count(*) FILTER (WHERE method_used = 'rule') AS rule,
         count(*) FILTER (WHERE method_used = 'llm') AS llm,
         sum(round(execution_time_ms * 1000)::bigint)::bigint AS us,
         sum(round(confidence_score * 1000000)::bigint)::bigint AS ppm
    FROM judgment_executions WHERE {where} GROUP BY 1, 2, 3, 4, 5
"""
_FILL_HOURLY = f"""
INSERT INTO {{into}} ({HOURLY})
SELECT tenant_id, workflow_id, bucket, sum(total), coalesce(sum(total) FILTER (WHERE status = 'completed'), 0),
       sum(rule), sum(llm), sum(total - rule - llm), sum(us), sum(ppm),
       judgify_histogram_sum(array_fill(0::bigint, ARRAY[slot]) || total)
  FROM ({_BY_BUCKET.replace("{time}", "date_trunc('hour', created_at, 'UTC')")}) AS by_bucket GROUP BY 1, 2, 3
"""
_FILL_RESULTS = f"""
INSERT INTO {{into}} ({RESULTS})
SELECT tenant_id, workflow_id, date_trunc('hour', created_at, 'UTC'),
       CASE WHEN status <> 'completed' THEN 'failed'
            WHEN jsonb_typeof(final_result -> 'verdict') = 'string' THEN left(final_result ->> 'verdict', 64) ELSE '' END,
       count(*)
  FROM judgment_executions WHERE {{where}} GROUP BY 1, 2, 3, 4
"""
_FINE_TIME = f"to_timestamp(floor(extract(epoch FROM created_at) / {FINE_BUCKET_S}) * {FINE_BUCKET_S})"
_FILL_FINE = f"""
INSERT INTO {{into}} ({FINE})
SELECT bucket, tenant_id, workflow_id, 'execution_time_ms', jsonb_build_object('status', status), sum(total), sum(us),
       judgify_histogram_sum(array_fill(0::bigint, ARRAY[slot]) || total)
  FROM ({_BY_BUCKET.replace("{time}", _FINE_TIME)}) AS by_bucket GROUP BY bucket, tenant_id, workflow_id, status
"""
_LIVE = "created_at > now() - make_interval(hours => {hours})"


async def fill(connection: Any, live_hours: int) -> None:
    """Fill the empty rollups from the whole table, as the connection's transaction sees it."""
    await connection.execute(_FILL_HOURLY.format(into="judgment_metrics_hourly", where="true"), BOUNDS_US, timeout=TIMEOUT_S)
    await connection.execute(_FILL_RESULTS.format(into="judgment_results_hourly", where="true"), timeout=TIMEOUT_S)
    live = _LIVE.format(hours=int(live_hours))
    await connection.execute(_FILL_FINE.format(into="judgment_metrics_timeseries", where=live), BOUNDS_US, timeout=TIMEOUT_S)


async def prepare_range(connection: Any, start: datetime, end: datetime, live_hours: int) -> None:
    """Compute [start, end) into tables of this session, as its transaction sees the table."""
    for table, _, _, name in TABLES:
        await connection.execute(f"CREATE TEMP TABLE {name} (LIKE {table} INCLUDING GENERATED)")
    # Times as literals: they are ours, and the statements take other parameters.
    where = f"created_at >= '{start.isoformat()}' AND created_at < '{end.isoformat()}'"
    live = f"{where} AND {_LIVE.format(hours=int(live_hours))}"
    await connection.execute(_FILL_HOURLY.format(into="new_hourly", where=where), BOUNDS_US, timeout=TIMEOUT_S)
    await connection.execute(_FILL_RESULTS.format(into="new_results", where=where), timeout=TIMEOUT_S)
    await connection.execute(_FILL_FINE.format(into="new_fine", where=live), BOUNDS_US, timeout=TIMEOUT_S)


async def swap_range(connection: Any, start: datetime, end: datetime) -> int:
    """Put what was prepared in the place of what is there; returns how many judgments it counts."""
    for table, time, columns, name in TABLES:
        await connection.execute(f"DELETE FROM {table} WHERE {time} >= $1 AND {time} < $2", start, end, timeout=TIMEOUT_S)
        await connection.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {name}", timeout=TIMEOUT_S)
    return int(await connection.fetchval("SELECT coalesce(sum(total_executions), 0) FROM new_hourly"))
