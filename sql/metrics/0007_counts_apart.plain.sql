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
