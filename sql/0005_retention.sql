-- Retention (keep.judgments_days). One row at most; none: nothing was ever dropped.
CREATE TABLE judgment_retention (
  -- Judgments created before this may be gone while their rollups stay: those hours cannot be compared with the table, nor
  -- computed anew from it. Written in the transaction that drops or deletes; a whole hour; never moves back.
  retained_from  timestamptz NOT NULL CHECK (retained_from = date_trunc('hour', retained_from, 'UTC')),
  updated_at     timestamptz NOT NULL DEFAULT now(),
  only_row       boolean     NOT NULL DEFAULT true PRIMARY KEY CHECK (only_row)
);
