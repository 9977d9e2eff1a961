-- Weighted samples on plain PostgreSQL: partitioned by month; partitions are made ahead and dropped by the engine.

-- One row stands for `count` values of a metric in a bucket of time; rows are only ever added (a negative count takes values
-- back), and merged into wider buckets when they are some hours old. `value` is their mean. The histogram is as in
-- judgment_metrics_buckets.
CREATE TABLE judgment_metrics_timeseries (
  time         timestamptz      NOT NULL,
  tenant_id    text             NOT NULL,
  workflow_id  text             NOT NULL,
  metric_name  text             NOT NULL,
  value        double precision,
  dimensions   jsonb            NOT NULL,  -- method, status
  count        bigint           NOT NULL,
  sum          numeric          NOT NULL,
  minimum      double precision,
  maximum      double precision,
  slots        integer[]        NOT NULL,
  counts       bigint[]         NOT NULL
) PARTITION BY RANGE (time);
CREATE TABLE judgment_metrics_timeseries_default PARTITION OF judgment_metrics_timeseries DEFAULT;
CREATE INDEX judgment_metrics_timeseries_series ON judgment_metrics_timeseries (tenant_id, metric_name, time);
CREATE INDEX judgment_metrics_timeseries_age ON judgment_metrics_timeseries USING brin (time);

-- What TimescaleDB's continuous aggregate of the same name answers, from the hourly buckets: always fresh.
CREATE VIEW judgment_metrics_hourly_cagg AS
SELECT bucket, tenant_id, workflow_id, metric_name, (sum / count)::double precision AS average, maximum, minimum, count
  FROM judgment_metrics_buckets WHERE width_s = 3600 AND workflow_id <> '' AND count > 0
UNION ALL
SELECT bucket, tenant_id, workflow_id, 'execution_count', 1, 1, 1, count
  FROM judgment_metrics_buckets
 WHERE width_s = 3600 AND workflow_id <> '' AND count > 0 AND metric_name = 'execution_time_ms';
