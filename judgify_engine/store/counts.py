"""Results and methods as counted metrics (core/counts), in SQL: from the table, and for the time before it.

The judgments of old hours may be gone, but how often each result and each method came in them is kept for ever by the hour
(`judgment_results_hourly`, `judgment_metrics_hourly`). So the buckets of an hour can always be derived; those of five minutes
only where the judgments are still there.
"""

from datetime import datetime
from typing import Any

from judgify_engine.core.counts import METHOD_PREFIX, METHODS, RESULT_PREFIX
from judgify_engine.core.depth import is_deep_sql
from judgify_engine.core.samples import ALL_WORKFLOWS, EXECUTION_TIME, FINE_S, HOUR_S
from judgify_engine.store.pipe import TIMEOUT_S

ARE_COUNTED = "(counted_lsn, counted_index) IS NOT DISTINCT FROM (commit_lsn, change_index)"
"""Of a row of `cdc_positions`: versions that did not count yet moved the position alone."""
IS_COUNTED = f"(starts_with(metric_name, '{RESULT_PREFIX}') OR starts_with(metric_name, '{METHOD_PREFIX}'))"

RESULTS = f"""
SELECT tenant_id, workflow_id, date_bin('{FINE_S} s', created_at, '2000-01-01Z'),
       CASE WHEN status <> 'completed' THEN 'failed' WHEN {is_deep_sql("final_result")} THEN ''
            WHEN jsonb_typeof(final_result -> 'verdict') = 'string' THEN left(final_result ->> 'verdict', 64) ELSE '' END,
       count(*)
  FROM judgment_executions WHERE created_at >= @start AND created_at < @end GROUP BY 1, 2, 3, 4
"""
"""The results of [@start, @end) in buckets of `FINE_S`, for `NEW_RESULTS`."""
NEW_RESULTS = """
CREATE TEMP TABLE new_results (tenant_id text, workflow_id text, bucket timestamptz, result text, total bigint);
"""
FILL_RESULTS = """
INSERT INTO new_results_hourly (tenant_id, workflow_id, hour, result, total_executions)
SELECT tenant_id, workflow_id, date_trunc('hour', bucket, 'UTC'), result, sum(total) FROM new_results GROUP BY 1, 2, 3, 4
"""
_NEW_COUNTS = f"""
SELECT tenant_id, workflow_id, '{RESULT_PREFIX}' || result AS metric, bucket, total AS n FROM new_results
UNION ALL
SELECT tenant_id, workflow_id, '{METHOD_PREFIX}' || CASE WHEN method IN ('rule', 'llm') THEN method ELSE 'hybrid' END, bucket,
       count
  FROM new_samples WHERE metric_name = '{EXECUTION_TIME}'
"""
_METHOD_COUNTS = ", ".join(f"('{METHOD_PREFIX}{method}', {method}_executions)" for method in METHODS)
_HOURLY_COUNTS = f"""
SELECT tenant_id, workflow_id, '{RESULT_PREFIX}' || result AS metric, hour AS bucket, total_executions AS n
  FROM judgment_results_hourly WHERE hour < $1
UNION ALL
SELECT tenant_id, workflow_id, metric, hour, n
  FROM judgment_metrics_hourly CROSS JOIN LATERAL (VALUES {_METHOD_COUNTS}) AS three(metric, n) WHERE hour < $1
"""
_BUCKETS = """
INSERT INTO {into} (tenant_id, workflow_id, metric_name, width_s, bucket, count, failed, sum, slots, counts)
SELECT tenant_id, coalesce(workflow_id, '{all_workflows}'), metric, {width_s}, {bucket}, sum(n), 0, 0, '{{}}', '{{}}'
  FROM ({counts}) AS c WHERE {where}
 GROUP BY GROUPING SETS ((tenant_id, workflow_id, metric, {bucket}), (tenant_id, metric, {bucket}))
HAVING (grouping(workflow_id) = 1 OR workflow_id <> '{all_workflows}') AND sum(n) <> 0
"""


async def fill_new(target: Any, fine: str) -> None:
    """Add the counts to `new_metrics_buckets`, of what was prepared in `target` (store/recompute).

    `fine`: the condition for `bucket` to be kept in five minutes.
    """
    hour = "date_trunc('hour', bucket, 'UTC')"
    for width_s, bucket, where in ((HOUR_S, hour, "true"), (FINE_S, "bucket", fine)):
        await target.execute(_buckets("new_metrics_buckets", _NEW_COUNTS, width_s, bucket, where), timeout=TIMEOUT_S)


async def derive_before(target: Any, moment: datetime) -> None:
    """Make the counts of hours before that anew from what is kept by the hour, in a transaction of `target`."""
    await target.execute(
        f"DELETE FROM judgment_metrics_buckets WHERE width_s = {HOUR_S} AND bucket < $1 AND {IS_COUNTED}",
        moment,
        timeout=TIMEOUT_S,
    )
    sql = _buckets("judgment_metrics_buckets", _HOURLY_COUNTS, HOUR_S, "bucket", "true")
    await target.execute(sql, moment, timeout=TIMEOUT_S)


def _buckets(into: str, counts: str, width_s: int, bucket: str, where: str) -> str:
    return _BUCKETS.format(into=into, counts=counts, width_s=width_s, bucket=bucket, where=where, all_workflows=ALL_WORKFLOWS)
