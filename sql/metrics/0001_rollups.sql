-- What is computed from the change stream, all of it written with its position in one transaction. This may be another database
-- than the one that holds the judgments, also one with TimescaleDB.

-- Per tenant, workflow and hour of creation. Sums are integers (microseconds; millionths), so they are exact whatever the order
-- of additions.
CREATE TABLE judgment_metrics_hourly (
  tenant_id                 text        NOT NULL,
  workflow_id               text        NOT NULL,
  hour                      timestamptz NOT NULL,
  total_executions          bigint      NOT NULL,
  successful_executions     bigint      NOT NULL,
  rule_executions           bigint      NOT NULL,
  llm_executions            bigint      NOT NULL,
  hybrid_executions         bigint      NOT NULL,
  execution_time_us_sum     bigint      NOT NULL,
  confidence_ppm_sum        bigint      NOT NULL,
  mean_execution_time_ms    double precision GENERATED ALWAYS AS
    (CASE WHEN total_executions > 0 THEN execution_time_us_sum / 1000.0 / total_executions END) STORED,
  mean_confidence           double precision GENERATED ALWAYS AS
    (CASE WHEN total_executions > 0 THEN confidence_ppm_sum / 1000000.0 / total_executions END) STORED,
  PRIMARY KEY (tenant_id, workflow_id, hour)
) WITH (fillfactor = 50);
CREATE INDEX judgment_metrics_hourly_hour ON judgment_metrics_hourly (hour);

-- How often each verdict was given: the same counts by `final_result.verdict`.
CREATE TABLE judgment_results_hourly (
  tenant_id         text        NOT NULL,
  workflow_id       text        NOT NULL,
  hour              timestamptz NOT NULL,
  result            text        NOT NULL,
  total_executions  bigint      NOT NULL,
  PRIMARY KEY (tenant_id, workflow_id, hour, result)
) WITH (fillfactor = 50);
CREATE INDEX judgment_results_hourly_hour ON judgment_results_hourly (hour);

-- The two above over all time, so that nobody adds up years of hours.
CREATE TABLE judgment_metrics_total (
  tenant_id                 text        NOT NULL,
  workflow_id               text        NOT NULL,
  total_executions          bigint      NOT NULL,
  successful_executions     bigint      NOT NULL,
  rule_executions           bigint      NOT NULL,
  llm_executions            bigint      NOT NULL,
  hybrid_executions         bigint      NOT NULL,
  execution_time_us_sum     bigint      NOT NULL,
  confidence_ppm_sum        bigint      NOT NULL,
  PRIMARY KEY (tenant_id, workflow_id)
) WITH (fillfactor = 50);
CREATE TABLE judgment_results_total (
  tenant_id         text        NOT NULL,
  workflow_id       text        NOT NULL,
  result            text        NOT NULL,
  total_executions  bigint      NOT NULL,
  PRIMARY KEY (tenant_id, workflow_id, result)
) WITH (fillfactor = 50);

-- Buckets of a metric for charts: `width_s` is 5 (the last hours, for what is live), 300 or 3600. The workflow '' stands for all
-- workflows of the tenant. A metric is `execution_time_ms`, `confidence`, or `input.FIELD` for a field that a workflow tracks.
-- `sum`, `minimum` and `maximum` are in the metric's unit, `sum` exact to the millionth. The histogram: `counts[n]` values in
-- slot `slots[n]`, see core/histogram.py.
CREATE TABLE judgment_metrics_buckets (
  tenant_id    text        NOT NULL,
  workflow_id  text        NOT NULL,
  metric_name  text        NOT NULL,
  width_s      integer     NOT NULL,
  bucket       timestamptz NOT NULL,
  count        bigint      NOT NULL,
  failed       bigint      NOT NULL,  -- how many of them are of failed judgments
  sum          numeric     NOT NULL,
  minimum      double precision,
  maximum      double precision,
  slots        integer[]   NOT NULL,
  counts       bigint[]    NOT NULL,
  PRIMARY KEY (tenant_id, workflow_id, metric_name, width_s, bucket)
) WITH (fillfactor = 50);
CREATE INDEX judgment_metrics_buckets_age ON judgment_metrics_buckets (width_s, bucket);

-- Up to where all of this is computed.
CREATE TABLE cdc_positions (
  slot_name     text        NOT NULL PRIMARY KEY,
  commit_lsn    pg_lsn      NOT NULL,
  change_index  bigint      NOT NULL,
  updated_at    timestamptz NOT NULL DEFAULT now()
);

-- How far the comparison of the rollups with the table has come. One row for each slot.
CREATE TABLE reconciliation (
  slot_name         text        NOT NULL PRIMARY KEY,
  verified_through  timestamptz NOT NULL,  -- all judgments created before it were found equal and have not changed since
  rows_compared     bigint      NOT NULL DEFAULT 0,
  checked_at        timestamptz NOT NULL DEFAULT now()
);

-- Where they differ: `stored` judgments in the table, `rolled_up` ones in the rollups.
CREATE TABLE reconciliation_differences (
  id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slot_name    text        NOT NULL,
  tenant_id    text        NOT NULL,
  range_from   timestamptz NOT NULL,
  range_to     timestamptz NOT NULL,
  stored       bigint      NOT NULL,
  rolled_up    bigint      NOT NULL,
  found_at     timestamptz NOT NULL DEFAULT now(),
  resolved_at  timestamptz
);
CREATE UNIQUE INDEX reconciliation_differences_open ON reconciliation_differences (slot_name, tenant_id, range_from, range_to)
  WHERE resolved_at IS NULL;

-- Ranges of hours to compute anew from the table; who reads the log does it, in order.
CREATE TABLE rollup_repairs (
  id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slot_name     text        NOT NULL,
  range_from    timestamptz NOT NULL CHECK (range_from = date_trunc('hour', range_from, 'UTC')),
  range_to      timestamptz NOT NULL CHECK (range_to = date_trunc('hour', range_to, 'UTC') AND range_to > range_from),
  reason        text        NOT NULL DEFAULT 'asked',  -- or 'taken_back': smallest and largest values may be gone
  not_before    timestamptz NOT NULL DEFAULT now(),
  requested_at  timestamptz NOT NULL DEFAULT now(),
  finished_at   timestamptz,
  judgments     bigint,     -- how many the range holds
  error         text
);

-- Up to where samples were merged into wider buckets.
CREATE TABLE metrics_upkeep (
  single          boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (single),
  merged_through  timestamptz NOT NULL
);
