-- See 0006_counts.plain.sql; the aggregate is of samples, and what is only counted has none.
ALTER TABLE cdc_positions
  ADD COLUMN counted_lsn    pg_lsn,
  ADD COLUMN counted_index  bigint;

ALTER TABLE cdc_gaps DROP CONSTRAINT cdc_gaps_reason_check, ADD CONSTRAINT cdc_gaps_reason_check CHECK (reason IN
  ('lost', 'missing', 'foreign', 'restored', 'publication', 'corrupt', 'first', 'upgraded'));
