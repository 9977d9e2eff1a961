-- Streams: up to where the log is in them, and how far each group has come, so that emptied ones are filled again from the log.
CREATE TABLE stream_states (
  slot_name          text        NOT NULL PRIMARY KEY,
  system_identifier  text        NOT NULL,  -- empty, as are the next two: they are to begin here, nothing is in them yet
  timeline           integer     NOT NULL,
  publication        text        NOT NULL,
  published          pg_lsn      NOT NULL,  -- all that was committed before it is in the streams
  last_ids           text[]      NOT NULL,  -- the last entry of each stream
  checkpoint         pg_snapshot,           -- what this shows was committed before checkpoint_lsn, and is in the streams
  checkpoint_lsn     pg_lsn,
  updated_at         timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE stream_groups (
  slot_name     text        NOT NULL,
  stream        text        NOT NULL,
  group_name    text        NOT NULL,
  floor         text        NOT NULL,  -- the entry up to which it has seen to all
  skipped_from  text,                  -- what it was last made to skip: after this entry,
  skipped_to    text,                  -- up to this one
  skipped_at    timestamptz,
  skipped_why   text,
  updated_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (slot_name, stream, group_name)
);

-- Times at which the streams may have missed changes; judgments that were still there were put in all the same (refilled).
CREATE TABLE stream_gaps (
  id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  slot_name    text        NOT NULL,
  reason       text        NOT NULL,
  details      jsonb       NOT NULL,
  from_lsn     pg_lsn,
  to_lsn       pg_lsn      NOT NULL,
  refilled     bigint      NOT NULL,
  detected_at  timestamptz NOT NULL DEFAULT now()
);
