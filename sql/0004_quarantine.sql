-- Quarantine: input that was refused, with the reason, to be looked at and replayed. It takes the place of the dead letters.
CREATE TABLE judgment_quarantine (
  id           uuid        NOT NULL DEFAULT judgify_uuid7() PRIMARY KEY,
  tenant_id    text        NOT NULL,             -- empty: so many tenants at once that only the kinds could be counted
  workflow_id  text        NOT NULL DEFAULT '',  -- empty: not readable, or one of too many in the same second
  kind         text        NOT NULL,             -- see core/quality.py
  source       text        NOT NULL CHECK (source IN ('http', 'postgres')),
  code         text        NOT NULL,             -- of the problem that the sender was told
  field        text,
  reason       text        NOT NULL,
  body         bytea,                            -- as it came; null: a row that only counts
  body_cut     boolean     NOT NULL DEFAULT false,  -- it was longer, see core/quarantine.py
  repeated     bigint      NOT NULL DEFAULT 1 CHECK (repeated >= 1),  -- how many requests the row stands for
  created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  replayed_at  timestamptz,
  judgment_id  uuid                              -- what the replay made
);
CREATE INDEX judgment_quarantine_listing ON judgment_quarantine (tenant_id, id);

INSERT INTO judgment_quarantine (id, tenant_id, workflow_id, kind, source, code, reason, body, body_cut, created_at)
SELECT id, tenant_id, workflow_id, 'refused_by_database', 'postgres', 'row_refused', reason || ' (SQLSTATE ' || sqlstate || ')',
       substring(whole FOR 65536), octet_length(whole) > 65536, created_at
  FROM judgment_dead_letters, LATERAL (
    SELECT convert_to('{"workflow_id":' || to_json(workflow_id)::text || ',"input_data":', 'UTF8') || input_data
           || convert_to(',"context":', 'UTF8') || context || convert_to('}', 'UTF8') AS whole
  ) AS request;
DROP TABLE judgment_dead_letters;

-- The keys of replays (no sender can use a key with a space), so that a row whose replay was cut off is found; see store/quarantine.py.
CREATE INDEX idempotency_keys_replays ON idempotency_keys (tenant_id, key) WHERE key LIKE 'quarantine %';

-- Refusals are counted from the log like judgments. Not the bodies: whoever reads the log need not be sent them.
ALTER PUBLICATION judgify_cdc
  ADD TABLE judgment_quarantine (id, tenant_id, workflow_id, kind, source, repeated, created_at);
