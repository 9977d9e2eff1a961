"""The rollups computed from the table by SQL, all of them or a range of hours: what `core/rollup.Delta` adds up, in SQL.

The judgments and the rollups may live in two databases, so what is computed there is streamed here (COPY out, COPY in) into
tables of a session, from which the rollups are then replaced in one transaction.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from judgify_engine.core.depth import is_deep_sql
from judgify_engine.core.histogram import LIMIT, slot_sql
from judgify_engine.core.samples import CONFIDENCE, EXECUTION_TIME, FINE_S, LIVE_S, TRACKED_PREFIX, Windows
from judgify_engine.core.tracking import ranges
from judgify_engine.store import counts
from judgify_engine.store.pipe import TIMEOUT_S as TIMEOUT_S
from judgify_engine.store.pipe import pipe
from judgify_engine.store.tracking import BELIEVED_SQL, CREATED_US_SQL, TRACKS_COLUMNS, held_sql, read_versions, value_sql

SUMS = """total_executions, successful_executions, rule_executions, llm_executions, hybrid_executions, execution_time_us_sum,
 confidence_ppm_sum"""
_IS_TRACKED = f"starts_with(metric_name, '{TRACKED_PREFIX}')"
_TABLES = (
    ("metrics_hourly", "hour", "true"),
    ("results_hourly", "hour", "true"),
    ("metrics_buckets", "bucket", f"NOT {_IS_TRACKED}"),
    ("metrics_timeseries", "time", f"NOT {_IS_TRACKED}"),
    ("quality_hourly", "hour", "source = 'stored'"),
)
"""Each with its time, and which of its rows are computed from the judgments by when they were created."""
_VALUES = (("metrics_buckets", "bucket", _IS_TRACKED), ("metrics_timeseries", "time", _IS_TRACKED))
"""The same of those by when they occurred."""
# Lifts, for a transaction, TimescaleDB's refusal to unpack more than 100,000 rows in a DELETE. To others it is a name like any.
UNLIMITED = "SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 0"


class Span(NamedTuple):
    """Hours to compute, [start, end)."""

    start: datetime
    end: datetime
    values_start: datetime
    """Where it starts for tracked values, not after `start`."""


_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
ALL = Span(_BEGINNING, datetime(2200, 1, 1, 1, tzinfo=UTC), _BEGINNING)  # 2200-01-01 00:00 is allowed, too


def _is_deep(value: str) -> str:
    """For a text that is formatted once more."""
    return is_deep_sql(value).replace("{", "{{").replace("}", "}}")


# A row for each group of judgments whose values fall into one bucket of time: what is `new_samples` below.
_GROUPED = """
SELECT tenant_id, workflow_id, metric, to_timestamp(bucket), method_used, status, sum(n)::bigint, sum(total), min(low),
       max(high), array_agg(slot ORDER BY slot), array_agg(n ORDER BY slot)
  FROM (SELECT tenant_id, workflow_id, metric, floor(extract(epoch FROM time) / {width_s})::bigint * {width_s} AS bucket,
               method_used, status, {slot} AS slot, count(*) AS n, sum(v) AS total, min(v) AS low, max(v) AS high
          FROM ({rows}) AS v(tenant_id, workflow_id, metric, time, method_used, status, v)
         GROUP BY 1, 2, 3, 4, 5, 6, 7) AS by_slot
 GROUP BY 1, 2, 3, 4, 5, 6
"""
_JUDGED = f"""
SELECT tenant_id, workflow_id, metric, created_at, method_used, status, v FROM judgment_executions
 CROSS JOIN LATERAL (VALUES ('{EXECUTION_TIME}', round(execution_time_ms * 1000)::bigint * 1000),
                            ('{CONFIDENCE}', round(confidence_score * 1000000)::bigint)) AS two(metric, v)
 WHERE created_at >= {{start}} AND created_at < {{end}}
"""
_TIMED = f"""
SELECT tenant_id, workflow_id, '{EXECUTION_TIME}', created_at, method_used, status,
       round(execution_time_ms * 1000)::bigint * 1000
  FROM judgment_executions WHERE created_at >= {{start}} AND created_at < {{end}}
"""
# `$1`: which fields hold for which versions (core/tracking.ranges). What is no double, or beyond the limit, does not count.
# `{table}`: the judgments, with a condition maybe.
_TRACKED = f"""
SELECT e.tenant_id, e.workflow_id, '{TRACKED_PREFIX}' || field, e.time, e.method_used, e.status, round(v * 1000000)::bigint
  FROM (SELECT *, {CREATED_US_SQL} AS us, CASE WHEN {BELIEVED_SQL} THEN occurred_at ELSE created_at END AS time
          FROM {{table}}) AS e
  JOIN jsonb_to_recordset($1::jsonb) AS t({TRACKS_COLUMNS}, tenant_id text, fields jsonb)
    ON t.tenant_id = e.tenant_id AND t.workflow_id = e.workflow_id
   AND {held_sql("e.workflow_version", "e.us")}
 CROSS JOIN LATERAL jsonb_array_elements_text(t.fields) AS field
 CROSS JOIN LATERAL (
       SELECT {value_sql("place")} AS v FROM (SELECT e.input_data #> string_to_array(field, '.') AS place) AS p) AS value
 WHERE NOT {_is_deep("e.input_data")} AND abs(v) <= {LIMIT:.0f}
"""
_IN_SPAN = "((occurred_at >= {start} AND occurred_at < {end}) OR (created_at >= {start} AND created_at < {end}))"
_THERE = (
    "judgment_executions WHERE true",
    "judgment_leaving WHERE id >= (SELECT kept_before FROM judgment_retention)",  # what is kept of it counts as kept
)
SAMPLE_NAMES = "tenant_id, workflow_id, metric_name, bucket, method, status, count, sum, low, high, slots, counts"
_KEPT = f"SELECT {SAMPLE_NAMES} FROM judgment_kept_values WHERE bucket >= {{start}} AND bucket < {{end}}"
# As core/quality.fault_of.
_FAULTS = """
SELECT tenant_id, workflow_id, date_trunc('hour', created_at, 'UTC'), 'stored', fault, count(*)
  FROM (SELECT *, CASE WHEN tenant_id = '' OR workflow_id = '' OR input_data = 'null' OR final_result = 'null'
                            THEN 'missing_field'
                       WHEN NOT (confidence_score BETWEEN 0 AND 1 AND execution_time_ms BETWEEN 0 AND 30000) THEN 'out_of_range'
                       WHEN method_used NOT IN ('rule', 'llm', 'hybrid') THEN 'unknown_method' END AS fault
          FROM judgment_executions WHERE created_at >= {start} AND created_at < {end}) AS e
 WHERE fault IS NOT NULL GROUP BY 1, 2, 3, 5
"""
REFUSED = """
SELECT tenant_id, workflow_id, date_trunc('hour', created_at, 'UTC') AS hour, kind, sum(repeated)::bigint AS count
  FROM judgment_quarantine WHERE created_at >= '2000-01-01Z' AND created_at < '2200-01-01Z' GROUP BY 1, 2, 3, 4
"""
_COUNT_REFUSED = """
INSERT INTO judgment_quality_hourly AS m (tenant_id, workflow_id, hour, source, kind, count)
SELECT tenant, workflow, hour, 'refused', kind, count
  FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::bigint[]) AS q(tenant, workflow, hour, kind, count)
ON CONFLICT (tenant_id, hour, workflow_id, source, kind) DO UPDATE SET count = greatest(m.count, excluded.count)
"""
_SAMPLES = """(tenant_id text, workflow_id text, metric_name text, bucket timestamptz, method text, status text, count bigint,
 sum numeric, low bigint, high bigint, slots integer[], counts bigint[])"""
_NEW = f"""{counts.NEW_RESULTS}
CREATE TEMP TABLE new_samples {_SAMPLES};
CREATE TEMP TABLE new_live {_SAMPLES};
CREATE TEMP TABLE new_quality_hourly (LIKE judgment_quality_hourly);
CREATE TEMP TABLE new_results_hourly (LIKE judgment_results_hourly);
CREATE TEMP TABLE new_metrics_hourly (LIKE judgment_metrics_hourly INCLUDING GENERATED);
CREATE TEMP TABLE new_metrics_buckets (LIKE judgment_metrics_buckets);
CREATE TEMP TABLE new_metrics_timeseries (LIKE judgment_metrics_timeseries);
"""
_FILL_HOURLY = f"""
INSERT INTO new_metrics_hourly (tenant_id, workflow_id, hour, {SUMS})
SELECT tenant_id, workflow_id, date_trunc('hour', bucket, 'UTC'), sum(count) FILTER (WHERE time),
       coalesce(sum(count) FILTER (WHERE time AND status = 'completed'), 0),
       coalesce(sum(count) FILTER (WHERE time AND method = 'rule'), 0),
       coalesce(sum(count) FILTER (WHERE time AND method = 'llm'), 0),
       coalesce(sum(count) FILTER (WHERE time AND method NOT IN ('rule', 'llm')), 0),
       sum(sum) FILTER (WHERE time) / 1000, sum(sum) FILTER (WHERE NOT time)
  FROM (SELECT *, metric_name = '{EXECUTION_TIME}' AS time FROM new_samples
         WHERE metric_name IN ('{EXECUTION_TIME}', '{CONFIDENCE}')) AS judged GROUP BY 1, 2, 3
"""
_BUCKETS = """
INSERT INTO new_metrics_buckets (tenant_id, workflow_id, metric_name, width_s, bucket, count, failed, sum, minimum, maximum,
  slots, counts)
SELECT tenant_id, workflow_id, metric_name, {width_s}, bucket, a.count, a.failed, a.sum, a.low, a.high, h.slots, h.counts
  FROM (SELECT tenant_id, coalesce(workflow_id, '') AS workflow_id, metric_name, {bucket} AS bucket, sum(count) AS count,
               coalesce(sum(count) FILTER (WHERE status <> 'completed'), 0) AS failed, sum(sum) * 0.000001 AS sum,
               min(low)::double precision / 1000000 AS low, max(high)::double precision / 1000000 AS high
          FROM {source} WHERE {where}
         GROUP BY GROUPING SETS ((tenant_id, workflow_id, metric_name, {bucket}), (tenant_id, metric_name, {bucket}))
        HAVING grouping(workflow_id) = 1 OR workflow_id <> '') AS a
  JOIN (SELECT tenant_id, workflow_id, metric_name, bucket, array_agg(slot ORDER BY slot) AS slots,
               array_agg(n ORDER BY slot) AS counts
          FROM (SELECT tenant_id, coalesce(workflow_id, '') AS workflow_id, metric_name, {bucket} AS bucket, slot,
                       sum(n)::bigint AS n
                  FROM {source} CROSS JOIN LATERAL unnest(slots, counts) AS u(slot, n) WHERE {where}
                 GROUP BY GROUPING SETS ((tenant_id, workflow_id, metric_name, {bucket}, slot),
                                        (tenant_id, metric_name, {bucket}, slot))
                HAVING grouping(workflow_id) = 1 OR workflow_id <> ''
               ) AS by_slot
         GROUP BY 1, 2, 3, 4) AS h USING (tenant_id, workflow_id, metric_name, bucket)
"""
_FILL_TIMESERIES = f"""
INSERT INTO new_metrics_timeseries (time, tenant_id, workflow_id, metric_name, value, dimensions, count, sum, minimum, maximum,
  slots, counts)
SELECT bucket, tenant_id, workflow_id, metric_name, (sum / 1000000 / count)::double precision,
       jsonb_build_object('method', method, 'status', status), count, sum * 0.000001, low::double precision / 1000000,
       high::double precision / 1000000, slots, counts
  FROM new_samples WHERE bucket >= $1
UNION ALL
SELECT bucket, tenant_id, workflow_id, 'execution_count', 1, jsonb_build_object('method', method, 'status', status), count,
       count, 1, 1, '{{}}', '{{}}'
  FROM new_samples WHERE bucket >= $1 AND metric_name = '{EXECUTION_TIME}'
"""
_TOUCHED = """
CREATE TEMP TABLE touched ON COMMIT DROP AS
SELECT tenant_id, workflow_id FROM judgment_metrics_hourly WHERE hour >= $1 AND hour < $2
 UNION SELECT tenant_id, workflow_id FROM judgment_results_hourly WHERE hour >= $1 AND hour < $2
 UNION SELECT tenant_id, workflow_id FROM new_metrics_hourly
"""
# From their hours, not by what was replaced: so they are right again even where they did not agree with their hours.
_ADD_UP = f"""
DELETE FROM judgment_metrics_total WHERE (tenant_id, workflow_id) IN (SELECT * FROM touched);
DELETE FROM judgment_results_total WHERE (tenant_id, workflow_id) IN (SELECT * FROM touched);
INSERT INTO judgment_metrics_total (tenant_id, workflow_id, {SUMS})
SELECT tenant_id, workflow_id, {", ".join(f"sum({name.strip()})" for name in SUMS.split(","))}
  FROM judgment_metrics_hourly WHERE (tenant_id, workflow_id) IN (SELECT * FROM touched) GROUP BY 1, 2;
INSERT INTO judgment_results_total (tenant_id, workflow_id, result, total_executions)
SELECT tenant_id, workflow_id, result, sum(total_executions)
  FROM judgment_results_hourly WHERE (tenant_id, workflow_id) IN (SELECT * FROM touched) GROUP BY 1, 2, 3
"""
# What came by in the stream is told anew from here on: at least what was accepted, and the rest of it is gone.
_BEGIN_STREAMED = """
INSERT INTO judgments_streamed AS s (hour, tenant_id, inserted, deleted)
SELECT hour, tenant_id, greatest(there, accepted, before), greatest(there, accepted, before) - there
  FROM (SELECT hour, tenant_id, coalesce(t.there, 0) AS there, coalesce(a.accepted, 0) AS accepted,
               coalesce(b.before, 0) AS before
          FROM (SELECT hour, tenant_id, sum(total_executions) AS there FROM judgment_metrics_hourly
                 WHERE hour >= $1 AND hour < $2 GROUP BY 1, 2) AS t
          FULL JOIN (SELECT hour, tenant_id, sum(count) AS accepted FROM judgments_accepted
                      WHERE hour >= $1 AND hour < $2 GROUP BY 1, 2) AS a USING (hour, tenant_id)
          FULL JOIN (SELECT hour, tenant_id, inserted AS before FROM judgments_streamed
                      WHERE hour >= $1 AND hour < $2) AS b USING (hour, tenant_id)) AS all_of_them
ON CONFLICT (hour, tenant_id) DO UPDATE SET inserted = excluded.inserted, deleted = excluded.deleted
"""


async def prepare(source: Any, target: Any, span: Span, windows: Windows) -> None:
    """Compute the span into tables of the session `target`, from the table as the transaction of `source` sees it."""
    now = datetime.now(UTC).timestamp()
    live_from, fine_from = _moment(now - windows.live_s, LIVE_S), _moment(now - windows.fine_s, FINE_S)
    await target.execute(_NEW)
    start, end = _literal(span.start), _literal(span.end)
    await pipe(source, grouped(_JUDGED.format(start=start, end=end), FINE_S), target, "new_samples")
    await _prepare_values(source, target, _literal(span.values_start), end)
    if span.end > live_from:
        live_start = _literal(max(span.start, live_from))
        await pipe(source, grouped(_TIMED.format(start=live_start, end=end), LIVE_S), target, "new_live")
    await pipe(source, counts.RESULTS.replace("@start", start).replace("@end", end), target, "new_results")
    await pipe(source, _FAULTS.format(start=start, end=end), target, "new_quality_hourly")
    await target.execute("ANALYZE new_samples; ANALYZE new_live", timeout=TIMEOUT_S)
    await target.execute(_FILL_HOURLY, timeout=TIMEOUT_S)
    await target.execute(counts.FILL_RESULTS, timeout=TIMEOUT_S)
    hour, fine = "date_trunc('hour', bucket, 'UTC')", f"bucket >= {_literal(fine_from)}"
    for values in (
        {"width_s": 3600, "bucket": hour, "source": "new_samples", "where": "true"},
        {"width_s": FINE_S, "bucket": "bucket", "source": "new_samples", "where": fine},
        {"width_s": LIVE_S, "bucket": "bucket", "source": "new_live", "where": "true"},
    ):
        await target.execute(_BUCKETS.format(**values), timeout=TIMEOUT_S)
    await counts.fill_new(target, fine)
    await target.execute(_FILL_TIMESERIES, fine_from, timeout=TIMEOUT_S)


async def _prepare_values(source: Any, target: Any, start: str, end: str) -> None:
    """Tracked values that occurred in [start, end): of the judgments that are there, leave just now, or were dropped."""
    fields = msgspec.json.encode(ranges(await read_versions(source))).decode()
    for there in _THERE:
        rows = f"{there} AND {_IN_SPAN.format(start=start, end=end)}"
        values = f"{tracked(rows)} AND e.time >= {start} AND e.time < {end}"
        await pipe(source, grouped(values, FINE_S), target, "new_samples", fields)
    await pipe(source, _KEPT.format(start=start, end=end), target, "new_samples")


async def empty(target: Any, span: Span) -> None:
    """Forget all that was computed of the judgments of a span that has no end, in a transaction of `target`."""
    await target.execute(UNLIMITED)
    await target.execute(
        "CREATE TEMP TABLE touched ON COMMIT DROP AS SELECT tenant_id, workflow_id FROM judgment_metrics_total"
        " UNION SELECT tenant_id, workflow_id FROM judgment_results_total"
    )
    await _delete(target, span)
    await target.execute(_ADD_UP, timeout=TIMEOUT_S)
    await target.execute("UPDATE judgments_streamed SET deleted = inserted WHERE hour >= $1", span.start)
    await target.execute("DROP TABLE touched")


async def _delete(target: Any, span: Span) -> None:
    for tables, start in ((_TABLES, span.start), (_VALUES, span.values_start)):
        for table, time, ours in tables:
            sql = f"DELETE FROM judgment_{table} WHERE {time} >= $1 AND {time} < $2 AND {ours}"
            await target.execute(sql, start, span.end, timeout=TIMEOUT_S)


async def count_refused(rows: list[Any], target: Any) -> None:
    """Count what the quarantine holds (`REFUSED`) where that is more than was counted; what it held once stays counted."""
    columns = [[row[name] for row in rows] for name in ("tenant_id", "workflow_id", "hour", "kind", "count")]
    await target.execute(_COUNT_REFUSED, *columns, timeout=TIMEOUT_S)


async def swap(target: Any, span: Span) -> int:
    """Put what was prepared in the place of what is there, in a transaction of `target`; returns the judgments it counts."""
    bounds = span.start, span.end
    await target.execute(UNLIMITED)
    await target.execute(_TOUCHED, *bounds, timeout=TIMEOUT_S)
    await _delete(target, span)
    for table, _, _ in _TABLES:
        columns = await _columns_of(target, f"judgment_{table}")
        await target.execute(f"INSERT INTO judgment_{table} ({columns}) SELECT {columns} FROM new_{table}", timeout=TIMEOUT_S)
    await target.execute(_ADD_UP, timeout=TIMEOUT_S)
    await target.execute(_BEGIN_STREAMED, *bounds, timeout=TIMEOUT_S)
    return int(await target.fetchval("SELECT coalesce(sum(total_executions), 0) FROM new_metrics_hourly"))


def tracked(table: str) -> str:
    """A query of the tracked values of a table of judgments, one a row, for `grouped`; `$1`: what is tracked, as JSON."""
    return _TRACKED.format(table=table)


def grouped(rows: str, width_s: int) -> str:
    """A query of the values that `rows` gives, added up in buckets of `width_s` seconds, with the columns `SAMPLE_NAMES`."""
    return _GROUPED.format(rows=rows, width_s=width_s, slot=slot_sql("v"))


def _moment(second: float, width_s: int) -> datetime:
    return datetime.fromtimestamp(int(second) - int(second) % width_s, UTC)


def _literal(moment: datetime) -> str:
    """A time in SQL: it is ours, and COPY takes no parameters."""
    return f"'{moment.isoformat()}'::timestamptz"


async def _columns_of(connection: Any, table: str) -> str:
    names = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped"
        " AND attgenerated = '' ORDER BY attnum",
        table,
    )
    return ", ".join(row["attname"] for row in names)
