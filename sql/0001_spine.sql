-- The tables of the spine. Runs in one transaction, under the migration lock, once.

-- UUIDv7 (RFC 9562 §5.7) for rows written by others; the engine makes its own. PostgreSQL 18 has uuidv7(), older ones have not.
CREATE FUNCTION judgify_uuid7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
  SELECT encode(
    set_bit(set_bit(
      overlay(uuid_send(gen_random_uuid())
              PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
      52, 1), 53, 1), 'hex')::uuid
$$;

-- The smallest UUIDv7 of a moment: bounds of partitions and of time ranges.
CREATE FUNCTION judgify_uuid7_floor(moment timestamptz) RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid
$$;

-- Workflows: one row each, its current version; every version ever in workflow_versions.
CREATE TABLE workflows (
  tenant_id    text        NOT NULL,
  workflow_id  text        NOT NULL,
  version      integer     NOT NULL,
  definition   jsonb       NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  updated_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, workflow_id)
);

CREATE TABLE workflow_versions (
  tenant_id    text        NOT NULL,
  workflow_id  text        NOT NULL,
  version      integer     NOT NULL,
  definition   jsonb       NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, workflow_id, version)
);

-- Whoever writes the row, also by hand in psql: the version counts up, also across a delete, and is kept.
CREATE FUNCTION judgify_workflow_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND (NEW.tenant_id, NEW.workflow_id) IS DISTINCT FROM (OLD.tenant_id, OLD.workflow_id) THEN
    RAISE EXCEPTION 'a workflow cannot be renamed: insert a new one and delete the old one';
  END IF;
  -- One writer at a time for each workflow, so that two never take the same number.
  PERFORM pg_advisory_xact_lock(hashtextextended(NEW.tenant_id || chr(10) || NEW.workflow_id, 0));
  SELECT coalesce(max(version), 0) + 1 INTO NEW.version FROM workflow_versions
   WHERE tenant_id = NEW.tenant_id AND workflow_id = NEW.workflow_id;
  NEW.updated_at := clock_timestamp();
  RETURN NEW;
END $$;

-- After, not before: an INSERT that turns into an UPDATE (ON CONFLICT) fires both BEFORE triggers, but one AFTER trigger.
CREATE FUNCTION judgify_keep_workflow_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO workflow_versions (tenant_id, workflow_id, version, definition, created_at)
  VALUES (NEW.tenant_id, NEW.workflow_id, NEW.version, NEW.definition, NEW.updated_at);
  RETURN NULL;
END $$;

CREATE TRIGGER workflow_version BEFORE INSERT OR UPDATE ON workflows
  FOR EACH ROW EXECUTE FUNCTION judgify_workflow_version();
CREATE TRIGGER keep_workflow_version AFTER INSERT OR UPDATE ON workflows
  FOR EACH ROW EXECUTE FUNCTION judgify_keep_workflow_version();

-- Judgments: by range of a time-ordered key, so inserts go to its right end and old data leaves by dropping a partition.
CREATE TABLE judgment_executions (
  id                 uuid             NOT NULL DEFAULT judgify_uuid7(),
  tenant_id          text             NOT NULL CHECK (length(tenant_id) <= 200),
  workflow_id        text             NOT NULL CHECK (length(workflow_id) <= 200),
  workflow_version   integer          NOT NULL DEFAULT 0,
  input_data         jsonb            NOT NULL,
  context            jsonb            NOT NULL DEFAULT '{}',
  final_result       jsonb            NOT NULL,
  confidence_score   double precision NOT NULL CHECK (confidence_score BETWEEN 0 AND 1),
  method_used        text             NOT NULL CHECK (method_used IN ('rule', 'llm', 'hybrid')),
  status             text             NOT NULL DEFAULT 'completed' CHECK (status IN ('completed', 'failed')),
  execution_time_ms  double precision NOT NULL CHECK (execution_time_ms BETWEEN 0 AND 30000),
  rule_index         integer,         -- the rule that matched, from 0; null: the default, or not judged by rules
  error              text,            -- why it failed
  occurred_at        timestamptz,     -- when the thing judged happened, where that is not created_at
  created_at         timestamptz      NOT NULL DEFAULT clock_timestamp()
                                      CHECK (created_at BETWEEN '2000-01-01 00:00Z' AND '2200-01-01 00:00Z'),
  PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE INDEX judgment_executions_listing ON judgment_executions (tenant_id, id);

-- Rows whose key is of no partition's range, such as a random UUID given by hand.
CREATE TABLE judgment_executions_default PARTITION OF judgment_executions DEFAULT;
-- FULL: an update or delete tells the rollup what to take back. On the root too: what is published by way of it follows it.
ALTER TABLE judgment_executions REPLICA IDENTITY FULL;
ALTER TABLE judgment_executions_default REPLICA IDENTITY FULL;

CREATE TABLE action_executions (
  id             uuid        NOT NULL DEFAULT judgify_uuid7() PRIMARY KEY,
  tenant_id      text        NOT NULL,
  judgment_id    uuid        NOT NULL,
  action         text        NOT NULL,
  attempt        integer     NOT NULL DEFAULT 1,
  status         text        NOT NULL,
  request        jsonb       NOT NULL DEFAULT '{}',
  response       jsonb,
  error          text,
  created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- An idempotency key commits in the transaction of its judgment.
CREATE TABLE idempotency_keys (
  tenant_id    text        NOT NULL,
  key          text        NOT NULL,
  fingerprint  bytea       NOT NULL,  -- of the request: the key with another request is an error
  judgment_id  uuid        NOT NULL,
  answer       bytea       NOT NULL,  -- what the first request was answered, byte for byte
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- What PostgreSQL refused, with its reason; the sender got the same reason.
CREATE TABLE judgment_dead_letters (
  id           uuid        NOT NULL DEFAULT judgify_uuid7() PRIMARY KEY,
  tenant_id    text        NOT NULL,
  workflow_id  text        NOT NULL,
  input_data   bytea       NOT NULL,
  context      bytea       NOT NULL,
  sqlstate     text        NOT NULL,
  reason       text        NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Tokens are kept as SHA-256 only; they are 256 random bits, so a slow hash would add nothing.
CREATE TABLE api_tokens (
  token_id     text        NOT NULL PRIMARY KEY,
  token_hash   bytea       NOT NULL UNIQUE,
  tenant_id    text        NOT NULL,
  name         text        NOT NULL,
  scopes       text[]      NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz,
  revoked_at   timestamptz
);

-- The page: one-time codes of printed addresses, and signed-in sessions. Hashed like tokens.
CREATE TABLE page_codes (
  code_hash   bytea       NOT NULL PRIMARY KEY,
  tenant_id   text        NOT NULL,
  expires_at  timestamptz NOT NULL
);
CREATE TABLE page_sessions (
  session_hash bytea       NOT NULL PRIMARY KEY,
  tenant_id    text        NOT NULL,
  scopes       text[]      NOT NULL,
  token_id     text        REFERENCES api_tokens ON DELETE CASCADE,  -- revoked with its token
  expires_at   timestamptz NOT NULL
);

-- Rollups. Sums are integers (microseconds; millionths), so they are exact whatever the order of additions.
-- Histograms: bucket i counts execution times in [bounds[i-1], bounds[i]), see core/histogram.py.
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
  execution_time_histogram  bigint[]    NOT NULL,
  mean_execution_time_ms    double precision GENERATED ALWAYS AS
    (CASE WHEN total_executions > 0 THEN execution_time_us_sum / 1000.0 / total_executions END) STORED,
  mean_confidence           double precision GENERATED ALWAYS AS
    (CASE WHEN total_executions > 0 THEN confidence_ppm_sum / 1000000.0 / total_executions END) STORED,
  PRIMARY KEY (tenant_id, workflow_id, hour)
) WITH (fillfactor = 50);

-- How often each verdict was given: the same counts by `final_result.verdict`.
CREATE TABLE judgment_results_hourly (
  tenant_id         text        NOT NULL,
  workflow_id       text        NOT NULL,
  hour              timestamptz NOT NULL,
  result            text        NOT NULL,
  total_executions  bigint      NOT NULL,
  PRIMARY KEY (tenant_id, workflow_id, hour, result)
) WITH (fillfactor = 50);

-- Weighted samples: one row stands for `count` values of a metric in a bucket of time.
CREATE TABLE judgment_metrics_timeseries (
  time         timestamptz NOT NULL,
  tenant_id    text        NOT NULL,
  workflow_id  text        NOT NULL,
  metric_name  text        NOT NULL,
  dimensions   jsonb       NOT NULL,
  count        bigint      NOT NULL,
  sum          bigint      NOT NULL,   -- in the metric's smallest unit, µs for execution_time_ms
  histogram    bigint[]    NOT NULL,
  value        double precision GENERATED ALWAYS AS (CASE WHEN count > 0 THEN sum / 1000.0 / count END) STORED,
  PRIMARY KEY (tenant_id, time, workflow_id, metric_name, dimensions)
) WITH (fillfactor = 50);
CREATE INDEX judgment_metrics_timeseries_age ON judgment_metrics_timeseries USING brin (time);

-- Adds two histograms bucket by bucket; the shorter one counts as filled up with zeros.
CREATE FUNCTION judgify_histogram_add(a bigint[], b bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT coalesce(array_agg(coalesce(x, 0) + coalesce(y, 0) ORDER BY n), '{}')
    FROM unnest(a, b) WITH ORDINALITY AS both_(x, y, n)
$$;
CREATE AGGREGATE judgify_histogram_sum(bigint[]) (
  SFUNC = judgify_histogram_add, STYPE = bigint[], INITCOND = '{}', COMBINEFUNC = judgify_histogram_add, PARALLEL = SAFE
);

-- Up to where the rollups above are computed; written in the same transaction as they are.
CREATE TABLE cdc_positions (
  slot_name     text        NOT NULL PRIMARY KEY,
  commit_lsn    pg_lsn      NOT NULL,
  change_index  bigint      NOT NULL,
  updated_at    timestamptz NOT NULL DEFAULT now()
);

CREATE PUBLICATION judgify_cdc FOR TABLE judgment_executions, action_executions, workflows
  WITH (publish_via_partition_root = true);
ALTER TABLE workflows REPLICA IDENTITY FULL;
ALTER TABLE action_executions REPLICA IDENTITY FULL;
