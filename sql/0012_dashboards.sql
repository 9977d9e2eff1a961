-- Dashboards: one row each, its current definition; every version ever in dashboard_versions (as workflows).
CREATE TABLE dashboards (
  tenant_id     text        NOT NULL,
  dashboard_id  text        NOT NULL,
  version       integer     NOT NULL,
  definition    jsonb       NOT NULL,
  created_at    timestamptz NOT NULL DEFAULT now(),
  updated_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, dashboard_id)
);

CREATE TABLE dashboard_versions (
  tenant_id     text        NOT NULL,
  dashboard_id  text        NOT NULL,
  version       integer     NOT NULL,
  definition    jsonb       NOT NULL,
  created_at    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, dashboard_id, version)
);

-- Whoever writes the row, also by hand in psql: the version counts up, also across a delete, and is kept. Version 0 is the
-- built-in definition, which no table holds.
CREATE FUNCTION judgify_dashboard_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND (NEW.tenant_id, NEW.dashboard_id) IS DISTINCT FROM (OLD.tenant_id, OLD.dashboard_id) THEN
    RAISE EXCEPTION 'a dashboard cannot be moved to another id: insert a new one and delete the old one';
  END IF;
  -- One writer at a time for each dashboard, so that two never take the same number.
  PERFORM pg_advisory_xact_lock(hashtextextended('dashboard' || chr(10) || NEW.tenant_id || chr(10) || NEW.dashboard_id, 0));
  SELECT coalesce(max(version), 0) + 1 INTO NEW.version FROM dashboard_versions
   WHERE tenant_id = NEW.tenant_id AND dashboard_id = NEW.dashboard_id;
  NEW.updated_at := clock_timestamp();
  RETURN NEW;
END $$;

-- After, not before: an INSERT that turns into an UPDATE (ON CONFLICT) fires both BEFORE triggers, but one AFTER trigger.
CREATE FUNCTION judgify_keep_dashboard_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO dashboard_versions (tenant_id, dashboard_id, version, definition, created_at)
  VALUES (NEW.tenant_id, NEW.dashboard_id, NEW.version, NEW.definition, NEW.updated_at);
  RETURN NULL;
END $$;

CREATE TRIGGER dashboard_version BEFORE INSERT OR UPDATE ON dashboards
  FOR EACH ROW EXECUTE FUNCTION judgify_dashboard_version();
CREATE TRIGGER keep_dashboard_version AFTER INSERT OR UPDATE ON dashboards
  FOR EACH ROW EXECUTE FUNCTION judgify_keep_dashboard_version();
