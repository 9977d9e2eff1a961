"""The rollups recomputed by SQL from the table alone, to be compared row by row with what the engine wrote."""

from datetime import UTC, datetime
from typing import Any

from judgify_engine.core.histogram import slot_sql
from support.cluster import Database

# One row for each value of each metric: what all buckets, samples and histograms are made of.
_VALUES = """
WITH judged AS (
  SELECT *, created_at AS time, round(execution_time_ms * 1000)::bigint * 1000 AS ms, round(confidence_score * 1000000)::bigint
           AS confidence FROM judgment_executions
), values_ AS (
  SELECT tenant_id, workflow_id, 'execution_time_ms' AS metric, time, method_used, status, ms AS v FROM judged
  UNION ALL SELECT tenant_id, workflow_id, 'confidence', time, method_used, status, confidence FROM judged
  UNION ALL
  SELECT j.tenant_id, j.workflow_id, 'input.' || f.field, coalesce(j.occurred_at, j.created_at), method_used, status,
         round((j.input_data #>> string_to_array(f.field, '.'))::float8 * 1000000)::bigint
    FROM judged AS j CROSS JOIN LATERAL (
         SELECT definition FROM workflow_versions AS v WHERE v.tenant_id = j.tenant_id AND v.workflow_id = j.workflow_id
            AND ((j.workflow_version > 0 AND v.version <= j.workflow_version)
                 OR (j.workflow_version <= 0 AND v.created_at <= j.created_at)) ORDER BY v.version DESC LIMIT 1) AS w
   CROSS JOIN LATERAL jsonb_array_elements_text(coalesce(w.definition -> 'track', '[]')) AS f(field)
   WHERE jsonb_typeof(j.input_data #> string_to_array(f.field, '.')) = 'number'
     AND abs((j.input_data #>> string_to_array(f.field, '.'))::numeric) <= 9e12
)
"""
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
_TOTAL_EXPECTED = """
SELECT tenant_id, workflow_id, count(*), count(*) FILTER (WHERE status = 'completed'),
       count(*) FILTER (WHERE method_used = 'rule'), count(*) FILTER (WHERE method_used = 'llm'),
       count(*) FILTER (WHERE method_used = 'hybrid'),
       sum(round(execution_time_ms * 1000))::bigint, sum(round(confidence_score * 1000000))::bigint
  FROM judgment_executions GROUP BY 1, 2
"""
_TOTAL_KEPT = """
SELECT tenant_id, workflow_id, total_executions, successful_executions, rule_executions, llm_executions,
       hybrid_executions, execution_time_us_sum, confidence_ppm_sum
  FROM judgment_metrics_total WHERE total_executions <> 0 OR execution_time_us_sum <> 0 OR confidence_ppm_sum <> 0
"""
_RESULT = """
CASE WHEN status = 'failed' THEN 'failed'
     WHEN jsonb_typeof(final_result -> 'verdict') = 'string' THEN left(final_result ->> 'verdict', 64) ELSE '' END
"""
_RESULTS_EXPECTED = f"""
SELECT tenant_id, workflow_id, date_trunc('hour', created_at, 'UTC') AS hour, {_RESULT} AS result, count(*) AS total
  FROM judgment_executions GROUP BY 1, 2, 3, 4
"""
_RESULTS_KEPT = """
SELECT tenant_id, workflow_id, hour, result, total_executions FROM judgment_results_hourly WHERE total_executions <> 0
"""
_RESULT_TOTAL_EXPECTED = f"SELECT tenant_id, workflow_id, {_RESULT}, count(*) FROM judgment_executions GROUP BY 1, 2, 3"
_RESULT_TOTAL_KEPT = """
SELECT tenant_id, workflow_id, result, total_executions FROM judgment_results_total WHERE total_executions <> 0
"""
_BUCKET = "to_timestamp(floor(extract(epoch FROM time) / {width}) * {width})"
_KEPT_SINCE = {5: "@now - interval '5 hours'", 300: "@now - interval '300 days'", 3600: "'2000-01-01Z'"}
_BUCKETS_EXPECTED = _VALUES + "UNION ALL ".join(
    f"""
SELECT tenant_id, coalesce(workflow_id, '') AS workflow_id, metric, {width} AS width_s, {_BUCKET.format(width=width)} AS bucket,
       count(*), count(*) FILTER (WHERE status <> 'completed') AS failed, sum(v) * 0.000001 AS sum{{extremes}}
  FROM values_ WHERE {_BUCKET.format(width=width)} >= {since} {"AND metric = 'execution_time_ms'" if width == 5 else ""}
 GROUP BY GROUPING SETS ((tenant_id, metric, 5), (tenant_id, workflow_id, metric, 5))
"""
    for width, since in _KEPT_SINCE.items()
)
_COUNTED = f"""
SELECT tenant_id, workflow_id, created_at AS time, metric
  FROM judgment_executions CROSS JOIN LATERAL (VALUES ('result.' || {_RESULT}), ('method.' || method_used)) AS two(metric)
"""
_BUCKETS_EXPECTED += "".join(
    f"""UNION ALL
SELECT tenant_id, coalesce(workflow_id, ''), metric, {width}, {_BUCKET.format(width=width)} AS bucket, count(*), 0, 0
       {{no_extremes}}
  FROM ({_COUNTED}) AS counted WHERE {_BUCKET.format(width=width)} >= {_KEPT_SINCE[width]}
 GROUP BY GROUPING SETS ((tenant_id, metric, bucket), (tenant_id, workflow_id, metric, bucket))
"""
    for width in (300, 3600)
)
_BUCKETS_KEPT = "UNION ALL ".join(
    f"""
SELECT tenant_id, workflow_id, metric_name, width_s, bucket, count, failed, sum{{extremes}}
  FROM judgment_metrics_buckets WHERE width_s = {width} AND bucket >= {since} AND (count <> 0 OR sum <> 0 OR failed <> 0)
"""
    for width, since in _KEPT_SINCE.items()
)
_HISTOGRAM_EXPECTED = (
    _VALUES
    + f"""
SELECT tenant_id, workflow_id, metric, {_BUCKET.format(width=3600)} AS bucket, {slot_sql("v")} AS slot, count(*)
  FROM values_ GROUP BY 1, 2, 3, 4, 5
"""
)
_HISTOGRAM_KEPT = """
SELECT tenant_id, workflow_id, metric_name, bucket, slot, n
  FROM judgment_metrics_buckets CROSS JOIN LATERAL unnest(slots, counts) AS h(slot, n)
 WHERE width_s = 3600 AND workflow_id <> ''
"""
_SAMPLES_EXPECTED = (
    _VALUES
    + f"""
SELECT tenant_id, workflow_id, metric, {_BUCKET.format(width=300)} AS bucket, method_used, status, count(*), sum(v) * 0.000001
  FROM values_ WHERE {_BUCKET.format(width=300)} > @now - interval '300 days' GROUP BY 1, 2, 3, 4, 5, 6
"""
)
_SAMPLES_KEPT = f"""
SELECT tenant_id, workflow_id, metric_name, {_BUCKET.format(width=300)} AS bucket, dimensions ->> 'method',
       dimensions ->> 'status', sum(count), sum(sum)
  FROM judgment_metrics_timeseries
 WHERE {_BUCKET.format(width=300)} > @now - interval '300 days' AND metric_name <> 'execution_count'
 GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(count) <> 0 OR sum(sum) <> 0
"""
_QUALITY_EXPECTED = """
SELECT tenant_id, workflow_id, date_trunc('hour', created_at, 'UTC') AS hour, 'stored' AS source,
       'missing_field' AS kind, count(*)
  FROM judgment_executions
 WHERE tenant_id = '' OR workflow_id = '' OR input_data = 'null'::jsonb OR final_result = 'null'::jsonb GROUP BY 1, 2, 3
UNION ALL
SELECT tenant_id, workflow_id, date_trunc('hour', created_at, 'UTC'), 'refused', kind, sum(repeated)::bigint
  FROM judgment_quarantine GROUP BY 1, 2, 3, 5
"""
_QUALITY_KEPT = """
SELECT tenant_id, workflow_id, hour, source, kind, count FROM judgment_quality_hourly WHERE count <> 0
"""
_STREAMED_EXPECTED = "SELECT tenant_id, date_trunc('hour', created_at, 'UTC'), count(*) FROM judgment_executions GROUP BY 1, 2"
_STREAMED_KEPT = "SELECT tenant_id, hour, inserted - deleted FROM judgments_streamed WHERE inserted <> deleted"
_COUNTS_KEPT = f"""
SELECT tenant_id, workflow_id, sum(count)::bigint FROM judgment_metrics_timeseries
 WHERE metric_name = 'execution_count' AND {_BUCKET.format(width=300)} > @now - interval '300 days'
 GROUP BY 1, 2 HAVING sum(count) <> 0
"""
_COUNTS_EXPECTED = f"""
SELECT tenant_id, workflow_id, count(*) FROM judgment_executions
 WHERE {_BUCKET.format(width=300).replace("time)", "created_at)")} > @now - interval '300 days' GROUP BY 1, 2
"""


async def check_rollups(database: Database, within_s: float = 30.0, *, extremes: bool = False) -> int:
    """Wait until all that is committed is rolled up, then compare everything; returns the number of judgments.

    `extremes`: smallest and largest values too; they are only exact where nothing was taken back since they were computed.
    """
    low_high = ", min(v)::float8 / 1000000, max(v)::float8 / 1000000" if extremes else ""
    kept_low_high = ", minimum, maximum" if extremes else ""
    pairs: dict[str, tuple[str, str]] = {
        "judgment_metrics_hourly": (_HOURLY_EXPECTED, _HOURLY_KEPT),
        "judgment_metrics_total": (_TOTAL_EXPECTED, _TOTAL_KEPT),
        "judgment_results_hourly": (_RESULTS_EXPECTED, _RESULTS_KEPT),
        "judgment_results_total": (_RESULT_TOTAL_EXPECTED, _RESULT_TOTAL_KEPT),
        "judgment_metrics_buckets": (
            _BUCKETS_EXPECTED.replace("{extremes}", low_high).replace("{no_extremes}", ", NULL, NULL" if extremes else ""),
            _BUCKETS_KEPT.replace("{extremes}", kept_low_high),
        ),
        "histograms": (_HISTOGRAM_EXPECTED, _HISTOGRAM_KEPT),
        "judgment_metrics_timeseries": (_SAMPLES_EXPECTED, _SAMPLES_KEPT),
        "judgment_quality_hourly": (_QUALITY_EXPECTED, _QUALITY_KEPT),
        "judgments_streamed": (_STREAMED_EXPECTED, _STREAMED_KEPT),
        "execution_count": (_COUNTS_EXPECTED, _COUNTS_KEPT),
    }
    # One moment for both sides: else what leaves the window between the two looks like a difference.
    now = f"'{datetime.now(UTC).isoformat()}'::timestamptz"
    expecting = {name: expected.replace("@now", now) for name, (expected, _) in pairs.items()}
    keeping = {name: kept.replace("@now", now) for name, (_, kept) in pairs.items()}
    judgments, rollups = await database.connect(), await database.connect_rollups()
    try:
        expected = await _read(judgments, expecting)
        while True:
            await database.settle(within_s)  # so that all that was just read is rolled up
            kept = await _read(rollups, keeping)
            if kept == expected:
                break
            later = await _read(judgments, expecting)
            for name in pairs if later == expected else ():  # no row came between the two
                missing, extra = expected[name] - kept[name], kept[name] - expected[name]
                some = f"\n expected {sorted(missing, key=str)[:5]}\n kept     {sorted(extra, key=str)[:5]}"
                assert expected[name] == kept[name], f"{name} differs from the table{some}"
            expected = later  # such as what was refused, written a second after the answer
        return sum(count for _, _, count in expected["judgments_streamed"])
    finally:
        await judgments.close()
        await rollups.close()


async def _read(connection: Any, queries: dict[str, str]) -> dict[str, set[tuple[Any, ...]]]:
    """All of them as of one moment."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return {name: {tuple(row) for row in await connection.fetch(sql, timeout=120)} for name, sql in queries.items()}
