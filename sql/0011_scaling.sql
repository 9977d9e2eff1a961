-- Decisions to have more or fewer processes (core/scaling). Also written: that something stands in the way of one, and that it
-- no longer does (action stay); never that all is well and stays so.
CREATE TABLE scaling_decisions (
  id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  scope        text        NOT NULL, -- what is scaled
  -- Which interval it is for, counted from 1970. One process decides at a time; should two ever believe to be it, one row wins.
  slot         bigint      NOT NULL,
  decided_at   timestamptz NOT NULL,
  action       text        NOT NULL CHECK (action IN ('out', 'in', 'stay')),
  state        text        NOT NULL,
  rule         text        NOT NULL,
  reason       text        NOT NULL,
  from_count   integer     NOT NULL CHECK (from_count >= 0),
  to_count     integer     NOT NULL CHECK (to_count >= 0),
  figures      jsonb       NOT NULL,
  executor     text        NOT NULL,
  outcome      text        NOT NULL CHECK (outcome IN ('pending', 'done', 'failed', 'told', 'unknown')),
  error        text,
  published_at timestamptz, -- when it was sent to whoever listens on scaling_events
  UNIQUE (scope, slot)
);
-- The last decision of each kind is asked for at every evaluation.
CREATE INDEX scaling_decisions_scope ON scaling_decisions (scope, action, id DESC);
CREATE INDEX scaling_decisions_unpublished ON scaling_decisions (scope, id) WHERE published_at IS NULL;
CREATE INDEX scaling_decisions_decided_at ON scaling_decisions (decided_at);
