-- The tracked values of judgments that retention has dropped, so that a metric's whole past can be computed anew, together with
-- the values of before the boundary that judgments of after it bring.
CREATE TABLE judgment_kept_values (
  bucket       timestamptz NOT NULL,
  width_s      integer     NOT NULL CHECK (width_s IN (300, 3600)),  -- narrow ones are merged when charts no longer need them
  tenant_id    text        NOT NULL,
  workflow_id  text        NOT NULL,
  metric_name  text        NOT NULL,
  method       text        NOT NULL,
  status       text        NOT NULL,
  count        bigint      NOT NULL,
  sum          numeric     NOT NULL,  -- millionths, as `low` and `high` are
  low          bigint      NOT NULL,
  high         bigint      NOT NULL,
  slots        integer[]   NOT NULL,  -- the histogram, see core/histogram.py
  counts       bigint[]    NOT NULL
);
CREATE INDEX judgment_kept_values_bucket ON judgment_kept_values (width_s, bucket);

-- The partition that leaves just now is its only child: detached, so that nobody changes or waits for it while its values are
-- kept, slice by slice. The columns of which values are made, so that others may come and go.
CREATE TABLE judgment_leaving AS
SELECT id, tenant_id, workflow_id, workflow_version, input_data, method_used, status, created_at, occurred_at
  FROM judgment_executions WITH NO DATA;
-- Values of its rows with smaller keys are kept already; written in the transaction that keeps them.
ALTER TABLE judgment_retention ADD COLUMN kept_before uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';

-- From when on values are kept so; those of before were dropped by an older version, and are only in the rollups. NULL: all are.
ALTER TABLE judgment_retention ADD COLUMN values_from timestamptz;
UPDATE judgment_retention SET values_from = retained_from;
