-- The other arms of the comparison, by tenant and hour of creation: what was answered (each process writes what it counted
-- itself, in absolute numbers, so that writing it again changes nothing), and what came by in the stream.
CREATE TABLE judgments_accepted (
  hour       timestamptz NOT NULL,
  tenant_id  text        NOT NULL,
  process    uuid        NOT NULL,
  count      bigint      NOT NULL,
  PRIMARY KEY (hour, tenant_id, process)
) WITH (fillfactor = 70);

CREATE TABLE judgments_streamed (
  hour       timestamptz NOT NULL,
  tenant_id  text        NOT NULL,
  inserted   bigint      NOT NULL,
  deleted    bigint      NOT NULL,
  PRIMARY KEY (hour, tenant_id)
) WITH (fillfactor = 50);

-- Which arm it was that differed from the table: accepted, streamed or rolled_up (then `rolled_up` is its number).
ALTER TABLE reconciliation_differences ADD COLUMN arm text NOT NULL DEFAULT 'rolled_up';
