-- A slot that heals: what the position belongs to, and a record of every time that changes may have been missed.

-- The server whose log the position is of, and what the publication was. NULL: not known yet.
ALTER TABLE cdc_positions
  ADD COLUMN system_identifier  text,
  ADD COLUMN timeline           integer,
  ADD COLUMN publication        text;

-- After one, all rollups were computed from the table in the snapshot in which the new slot starts. While one is open
-- (`recompute_finished_at` is NULL), there is no position, and the rollups are as they were before.
CREATE TABLE cdc_gaps (
  id                     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slot_name              text        NOT NULL,
  reason                 text        NOT NULL CHECK (reason IN
    ('lost', 'missing', 'foreign', 'restored', 'publication', 'corrupt', 'first')),
  detected_at            timestamptz NOT NULL DEFAULT now(),
  from_lsn               pg_lsn,       -- up to here all was rolled up; NULL: nothing was, or nobody knows
  from_index             bigint,
  last_applied_at        timestamptz,  -- when that was
  to_lsn                 pg_lsn,       -- where the new slot starts
  attempts               integer     NOT NULL DEFAULT 1,
  recompute_started_at   timestamptz NOT NULL DEFAULT now(),  -- of the last attempt
  recompute_finished_at  timestamptz,
  judgments_before       bigint,       -- what the rollups counted before and after; not all of the difference was missed:
  judgments_after        bigint,       -- what would have come by the old slot is in it
  details                jsonb       NOT NULL DEFAULT '{}',
  error                  text          -- why the last attempt failed
);
CREATE UNIQUE INDEX cdc_gaps_open ON cdc_gaps (slot_name) WHERE recompute_finished_at IS NULL;
CREATE INDEX cdc_gaps_listing ON cdc_gaps (slot_name, id);

-- The same counts for each tenant whose counts differ.
CREATE TABLE cdc_gap_tenants (
  gap_id            bigint  NOT NULL REFERENCES cdc_gaps ON DELETE CASCADE,
  tenant_id         text    NOT NULL,
  judgments_before  bigint  NOT NULL,
  judgments_after   bigint  NOT NULL,
  PRIMARY KEY (gap_id, tenant_id)
);
