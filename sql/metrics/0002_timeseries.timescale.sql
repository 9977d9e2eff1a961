-- Weighted samples with TimescaleDB: a hypertable, compressed and dropped by its policies, and an hourly continuous aggregate.
-- The policies' ages are set by the engine (store/timescale.py), because they are settings.

-- See 0002_timeseries.plain.sql: the same columns with the same meaning.
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
);
SELECT create_hypertable('judgment_metrics_timeseries', by_range('time', INTERVAL '1 day'), create_default_indexes => false);
CREATE INDEX judgment_metrics_timeseries_age ON judgment_metrics_timeseries (time);
CREATE INDEX judgment_metrics_timeseries_series ON judgment_metrics_timeseries (tenant_id, metric_name, time);
ALTER TABLE judgment_metrics_timeseries SET (
  timescaledb.enable_columnstore,
  timescaledb.segmentby = 'tenant_id, workflow_id, metric_name',
  timescaledb.orderby = 'time'
);

-- Fresh rows are seen at once; hours before its watermark again after their next refresh, which the engine asks for when late
-- rows, repairs or merges touched them.
CREATE MATERIALIZED VIEW judgment_metrics_hourly_cagg
  WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT time_bucket('1 hour', time) AS bucket, tenant_id, workflow_id, metric_name,
       (sum(sum) / nullif(sum(count), 0))::double precision AS average, max(maximum) AS maximum, min(minimum) AS minimum,
       sum(count)::bigint AS count
  FROM judgment_metrics_timeseries GROUP BY 1, 2, 3, 4 HAVING sum(count) <> 0
  WITH NO DATA;
