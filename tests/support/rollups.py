"""The rollups recomputed by SQL from the table alone, to be compared row by row with what the engine wrote."""

from typing import Any

from judgify_engine.core.histogram import BOUNDS_US
from support.cluster import Database

_HOURLY_EXPECTED = """
SELECT tenant_id, workflow_id, date_trunc('hour', created_at, 'UTC') AS hour, count(*) AS total,
       count(*) FILTER (WHERE status = 'completed') AS successful,
       count(*) FILTER (WHERE method_used = 'rule') AS rule, count(*) FILTER (WHERE method_used = 'llm') AS llm,
       count(*) FILTER (WHERE method_used = 'hybrid') AS hybrid,
       sum(round(execution_time_ms * 1000))::bigint AS us, sum(round(confidence_score * 1000000))::bigint AS ppm
  FROM judgment_executions GROUP BY 1, 2, 3
"""
_HOURLY_KEPT = """
SELECT tenant_id, workflow_id, hour, total_executions, successful_executions, rule_executions, llm_executions,
       hybrid_executions, execution_time_us_sum, confidence_ppm_sum
  FROM judgment_metrics_hourly WHERE total_executions <> 0 OR execution_time_us_sum <> 0 OR confidence_ppm_sum <> 0
"""
_RESULTS_EXPECTED = """
SELECT tenant_id, workflow_id, date_trunc('hour', created_at, 'UTC') AS hour,
       CASE WHEN status = 'failed' THEN 'failed'
            WHEN jsonb_typeof(final_result -> 'verdict') = 'string' THEN left(final_result ->> 'verdict', 64)
            ELSE '' END AS result, count(*) AS total
  FROM judgment_executions GROUP BY 1, 2, 3, 4
"""
_RESULTS_KEPT = """
SELECT tenant_id, workflow_id, hour, result, total_executions FROM judgment_results_hourly WHERE total_executions <> 0
"""
_HISTOGRAM_EXPECTED = """
SELECT tenant_id, workflow_id, date_trunc('hour', created_at, 'UTC') AS hour,
       width_bucket(round(execution_time_ms * 1000)::bigint, $1::bigint[])::bigint AS bucket, count(*) AS total
  FROM judgment_executions GROUP BY 1, 2, 3, 4
"""
_HISTOGRAM_KEPT = """
SELECT tenant_id, workflow_id, hour, (place - 1)::bigint AS bucket, amount
  FROM judgment_metrics_hourly, unnest(execution_time_histogram) WITH ORDINALITY AS h(amount, place) WHERE amount <> 0
"""
_FINE_EXPECTED = """
SELECT to_timestamp(floor(extract(epoch FROM created_at) / 5) * 5) AS time, tenant_id, workflow_id, status, count(*),
       sum(round(execution_time_ms * 1000))::bigint
  FROM judgment_executions WHERE created_at > now() - interval '5 hours' GROUP BY 1, 2, 3, 4
"""
_FINE_KEPT = """
SELECT time, tenant_id, workflow_id, dimensions ->> 'status', count, sum FROM judgment_metrics_timeseries
 WHERE metric_name = 'execution_time_ms' AND time > now() - interval '5 hours' AND (count <> 0 OR sum <> 0)
"""


async def check_rollups(database: Database, within_s: float = 30.0) -> int:
    """Wait until all that is committed is rolled up, then compare everything; returns the number of judgments."""
    await database.settle(within_s)
    pairs: dict[str, tuple[str, str, list[Any]]] = {
        "judgment_metrics_hourly": (_HOURLY_EXPECTED, _HOURLY_KEPT, []),
        "judgment_results_hourly": (_RESULTS_EXPECTED, _RESULTS_KEPT, []),
        "execution_time_histogram": (_HISTOGRAM_EXPECTED, _HISTOGRAM_KEPT, [BOUNDS_US]),
        "judgment_metrics_timeseries": (_FINE_EXPECTED, _FINE_KEPT, []),
    }
    connection = await database.connect()
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for name, (expected_sql, kept_sql, values) in pairs.items():
                expected = {tuple(row) for row in await connection.fetch(expected_sql, *values, timeout=60)}
                kept = {tuple(row) for row in await connection.fetch(kept_sql, timeout=60)}
                missing, extra = sorted(expected - kept, key=str)[:5], sorted(kept - expected, key=str)[:5]
                assert expected == kept, f"{name} differs from the table\n expected {missing}\n kept     {extra}"
            stored = await connection.fetchval("SELECT count(*) FROM judgment_executions")
            summed = await connection.fetchval("SELECT coalesce(sum(total_executions), 0) FROM judgment_metrics_hourly")
            assert stored == summed
            return int(stored)
    finally:
        await connection.close()
