-- Results and methods become metrics of judgment_metrics_buckets that are only counted: `result.VERDICT` and `method.rule`,
-- `method.llm`, `method.hybrid`, in buckets of 300 and 3600 seconds. They have a `count` and nothing else: `failed` and `sum` are
-- 0, there is neither a smallest nor a largest value, and no histogram.

-- Up to where they are counted: together with the position. Where it differs, an older version of the engine, which does not
-- count them, has moved the position (or did so before this migration), and all rollups are computed anew from the table.
ALTER TABLE cdc_positions
  ADD COLUMN counted_lsn    pg_lsn,
  ADD COLUMN counted_index  bigint;

ALTER TABLE cdc_gaps DROP CONSTRAINT cdc_gaps_reason_check, ADD CONSTRAINT cdc_gaps_reason_check CHECK (reason IN
  ('lost', 'missing', 'foreign', 'restored', 'publication', 'corrupt', 'first', 'upgraded'));

-- The aggregate of samples stays that: what is only counted has no values.
CREATE OR REPLACE VIEW judgment_metrics_hourly_cagg AS
SELECT bucket, tenant_id, workflow_id, metric_name, (sum / count)::double precision AS average, maximum, minimum, count
  FROM judgment_metrics_buckets
 WHERE width_s = 3600 AND workflow_id <> '' AND count > 0
   AND NOT starts_with(metric_name, 'result.') AND NOT starts_with(metric_name, 'method.')
UNION ALL
SELECT bucket, tenant_id, workflow_id, 'execution_count', 1, 1, 1, count
  FROM judgment_metrics_buckets
 WHERE width_s = 3600 AND workflow_id <> '' AND count > 0 AND metric_name = 'execution_time_ms';
