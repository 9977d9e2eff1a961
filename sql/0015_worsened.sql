-- A receiver that tells alerts apart by their labels, as Alertmanager does, is told that the less severe one is over.
ALTER TABLE alerts ADD COLUMN severity_was text;  -- before it became critical
