-- Reconciliation: what the rollups say against what the table holds, all the time, and what to do about a difference.

-- Rows lie in the order of their time, so this index is a few pages, and a slice of time reads what it needs.
CREATE INDEX judgment_executions_created ON judgment_executions USING brin (created_at)
  WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX judgment_metrics_hourly_hour ON judgment_metrics_hourly (hour);

-- How far the comparison has come. One row for each slot.
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
  requested_at  timestamptz NOT NULL DEFAULT now(),
  finished_at   timestamptz,
  judgments     bigint,     -- how many the range holds
  error         text
);
