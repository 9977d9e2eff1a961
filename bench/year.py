"""A year of one tenant's metrics, made by SQL right in `judgment_metrics_buckets`: what `bench queries` asks about.

50 workflows and all of them together, each with execution times, confidence and one tracked field. As in real life the rows are
written hour after hour, those of all series side by side. The histograms are made once, `SHAPES` for each metric, of 21 to
101 slots, and every row takes one of them.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from judgify_engine.core.histogram import MILLIONTHS, slot_of

from . import report

WORKFLOWS = 50
SHAPES = 64
MIDDLES = {"execution_time_ms": 0.4, "confidence": 0.35, "input.temperature": 85.0}
"""The usual value of each metric."""
DAYS = 365
FINE_DAYS = 40
LIVE_HOURS = 2
SLICE_DAYS = 20
TIMEOUT_S = 3600.0

# `total`: values in a bucket of 5 minutes.
_SHAPES = """
CREATE TEMP TABLE shapes AS
SELECT metric_name, shape, array_agg(slot ORDER BY slot) AS slots, array_agg(n ORDER BY slot) AS counts,
       sum(n)::bigint AS total, sum(n * v)::numeric(40, 6) AS sum, min(v)::float8 AS low, max(v)::float8 AS high
  FROM (SELECT metric_name, shape, slot + place AS slot,
               1 + (20 * exp(-(2.5 * place / reach) ^ 2))::bigint AS n, (middle * 1.02 ^ place)::numeric(20, 6) AS v
          FROM (VALUES {middles}) AS m(metric_name, slot, middle)
         CROSS JOIN generate_series(0, {shapes} - 1) AS shape
         CROSS JOIN LATERAL (SELECT 10 + shape * 40 / {shapes} AS reach) AS s
         CROSS JOIN LATERAL generate_series(-reach, reach) AS place) AS one
 GROUP BY 1, 2
"""
_NAMES = "CREATE TEMP TABLE names AS SELECT 'plant-' || n AS workflow_id, 1 AS times FROM generate_series(1, {n}) AS n" + (
    " UNION ALL SELECT '', {n}"
)
_FILL = """
INSERT INTO judgment_metrics_buckets (tenant_id, workflow_id, metric_name, width_s, bucket, count, failed, sum, minimum,
  maximum, slots, counts)
SELECT $1, workflow_id, metric_name, $2, bucket, total * many, total * many / 50, sum * many, low, high, slots,
       ARRAY(SELECT c * many FROM unnest(counts) AS c)
  FROM generate_series($3::timestamptz, $4::timestamptz - interval '1 second', make_interval(secs => $2::int)) AS bucket
 CROSS JOIN names CROSS JOIN LATERAL (SELECT times * greatest(1, $2 / 300) AS many) AS t
  JOIN shapes ON shape = (extract(epoch FROM bucket)::bigint / $2 + hashtext(workflow_id)) & {shapes} - 1
 WHERE $2 <> 5 OR metric_name = 'execution_time_ms'
ON CONFLICT DO NOTHING
"""
_MADE = """
SELECT max(bucket) + make_interval(secs => $2::int) FROM judgment_metrics_buckets
 WHERE tenant_id = $1 AND workflow_id = '' AND metric_name = 'execution_time_ms' AND width_s = $2
"""
_TOTALS = """
INSERT INTO judgment_metrics_total (tenant_id, workflow_id, total_executions, successful_executions, rule_executions,
  llm_executions, hybrid_executions, execution_time_us_sum, confidence_ppm_sum)
SELECT $1, workflow_id, sum(count), sum(count - failed), sum(count), 0, 0, sum(sum) * 1000, 0 FROM judgment_metrics_buckets
 WHERE tenant_id = $1 AND workflow_id <> '' AND metric_name = 'execution_time_ms' AND width_s = 3600 GROUP BY 2
ON CONFLICT DO NOTHING
"""


async def make(connection: Any, tenant_id: str, *, full: bool) -> dict[str, float]:
    """Write what is not there yet, up to the end of this hour; `full`: buckets of 5 minutes for the whole year too.

    Returns how many rows there are, their size with the index, and how long it took.
    """
    began_s = time.perf_counter()
    middles = ", ".join(f"('{name}', {slot_of(round(middle * MILLIONTHS))}, {middle})" for name, middle in MIDDLES.items())
    await connection.execute(_SHAPES.format(shapes=SHAPES, middles=middles), timeout=TIMEOUT_S)
    await connection.execute(_NAMES.format(n=WORKFLOWS), timeout=TIMEOUT_S)
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    spans = (
        (3600, timedelta(days=DAYS)),
        (300, timedelta(days=DAYS if full else FINE_DAYS)),
        (5, timedelta(hours=LIVE_HOURS)),
    )
    for width_s, span in spans:
        start = max(end - span, await connection.fetchval(_MADE, tenant_id, width_s) or end - span)
        while start < end:
            until = min(end, start + timedelta(days=SLICE_DAYS if width_s == 3600 else 2))
            await connection.execute(_FILL.format(shapes=SHAPES), tenant_id, width_s, start, until, timeout=TIMEOUT_S)
            start = until
        report.note(f"bench queries: buckets of {width_s} s are made ({time.perf_counter() - began_s:.0f} s)")
    await connection.execute(_TOTALS, tenant_id, timeout=TIMEOUT_S)
    await connection.execute("VACUUM (ANALYZE) judgment_metrics_buckets", timeout=TIMEOUT_S)
    row = await connection.fetchrow(
        "SELECT count(*) AS rows, pg_total_relation_size('judgment_metrics_buckets') AS bytes FROM judgment_metrics_buckets",
        timeout=TIMEOUT_S,
    )
    return {"rows": row["rows"], "bytes": row["bytes"], "took_s": time.perf_counter() - began_s}
