-- Alerts: rules as data, how it stands with each cause, what fired, and who was told.

-- Rules: one row each, its current version; every version ever in alert_rule_versions. As workflows are (0001).
CREATE TABLE alert_rules (
  tenant_id    text        NOT NULL,
  rule_id      text        NOT NULL,
  version      integer     NOT NULL,
  definition   jsonb       NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  updated_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, rule_id)
);
CREATE TABLE alert_rule_versions (
  tenant_id    text        NOT NULL,
  rule_id      text        NOT NULL,
  version      integer     NOT NULL,
  definition   jsonb       NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant_id, rule_id, version)
);

CREATE FUNCTION judgify_alert_rule_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND (NEW.tenant_id, NEW.rule_id) IS DISTINCT FROM (OLD.tenant_id, OLD.rule_id) THEN
    RAISE EXCEPTION 'an alert rule cannot be renamed: insert a new one and delete the old one';
  END IF;
  -- One writer at a time for each rule, so that two never take the same number. The space: not a workflow's lock.
  PERFORM pg_advisory_xact_lock(hashtextextended('alert rule ' || NEW.tenant_id || chr(10) || NEW.rule_id, 0));
  SELECT coalesce(max(version), 0) + 1 INTO NEW.version FROM alert_rule_versions
   WHERE tenant_id = NEW.tenant_id AND rule_id = NEW.rule_id;
  NEW.updated_at := clock_timestamp();
  RETURN NEW;
END $$;
CREATE FUNCTION judgify_keep_alert_rule_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO alert_rule_versions (tenant_id, rule_id, version, definition, created_at)
  VALUES (NEW.tenant_id, NEW.rule_id, NEW.version, NEW.definition, NEW.updated_at);
  RETURN NULL;
END $$;
CREATE TRIGGER alert_rule_version BEFORE INSERT OR UPDATE ON alert_rules
  FOR EACH ROW EXECUTE FUNCTION judgify_alert_rule_version();
CREATE TRIGGER keep_alert_rule_version AFTER INSERT OR UPDATE ON alert_rules
  FOR EACH ROW EXECUTE FUNCTION judgify_keep_alert_rule_version();

-- Who is told. `definition` holds the URL, which may be a secret: it is never given out whole.
CREATE TABLE alert_sinks (
  tenant_id    text        NOT NULL,
  sink_id      text        NOT NULL,
  definition   jsonb       NOT NULL,
  updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, sink_id)
);

-- What is not to be told to sinks for a while. A column that is NULL: whatever it is.
CREATE TABLE alert_silences (
  tenant_id    text        NOT NULL,
  silence_id   text        NOT NULL,
  rule_id      text,
  workflow_id  text,
  severity     text,
  starts_at    timestamptz NOT NULL,
  ends_at      timestamptz NOT NULL CHECK (ends_at > starts_at),
  comment      text        NOT NULL DEFAULT '',
  by           text        NOT NULL DEFAULT '',
  updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, silence_id)
);
CREATE INDEX alert_silences_age ON alert_silences (ends_at);

-- Up to where all was evaluated, in event time. One row for each slot whose rollups are evaluated.
CREATE TABLE alert_evaluations (
  slot_name     text        NOT NULL PRIMARY KEY,
  through       timestamptz NOT NULL,
  evaluated_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- How it stands with each cause (a rule, for a tenant or one of its workflows) of which there is something to know.
CREATE TABLE alert_states (
  tenant_id     text        NOT NULL,
  rule_id       text        NOT NULL,
  workflow_id   text        NOT NULL,  -- empty: all workflows together
  rule_version  integer     NOT NULL,  -- 0: built in
  state         jsonb       NOT NULL,  -- core/alert_state.CauseState
  reason        text        NOT NULL,  -- of the last observation
  memory        jsonb,                 -- what the kind of rule keeps
  updated_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, rule_id, workflow_id)
) WITH (fillfactor = 50);

CREATE TABLE alerts (
  id               uuid        NOT NULL DEFAULT judgify_uuid7() PRIMARY KEY,
  tenant_id        text        NOT NULL,
  rule_id          text        NOT NULL,
  rule_version     integer     NOT NULL,
  workflow_id      text        NOT NULL,
  severity         text        NOT NULL CHECK (severity IN ('info', 'warning', 'critical')),
  about            text        NOT NULL,
  state            text        NOT NULL DEFAULT 'firing' CHECK (state IN ('firing', 'resolved')),
  summary          text        NOT NULL,
  reason           text        NOT NULL,
  numbers          jsonb       NOT NULL,
  started_at       timestamptz NOT NULL,  -- since when it is so; this and the next two are times of the figures
  fired_at         timestamptz NOT NULL,
  resolved_at      timestamptz,
  recorded_at      timestamptz NOT NULL DEFAULT clock_timestamp(),  -- when the engine found out
  resolved_reason  text,
  resolved_numbers jsonb,
  sinks            text[]      NOT NULL,  -- those who are told
  acknowledged_at  timestamptz,
  acknowledged_by  text,
  comment          text,
  silenced_by      text,
  revision         integer     NOT NULL DEFAULT 1,  -- counts the changes that dashboards are told
  changed_at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- One cause has one alert, whoever evaluates.
CREATE UNIQUE INDEX alerts_open ON alerts (tenant_id, rule_id, workflow_id) WHERE state = 'firing';
CREATE INDEX alerts_listing ON alerts (tenant_id, id);
CREATE INDEX alerts_changed ON alerts (changed_at);
CREATE INDEX alerts_resolved ON alerts (recorded_at) WHERE state = 'resolved';

-- What is to be sent, made in the transaction of what it tells (an outbox). `event`: firing (also again, when it has become
-- critical) or resolved.
CREATE TABLE alert_deliveries (
  id          uuid        NOT NULL DEFAULT judgify_uuid7() PRIMARY KEY,
  alert_id    uuid        NOT NULL REFERENCES alerts ON DELETE CASCADE,
  tenant_id   text        NOT NULL,
  sink_id     text        NOT NULL,
  kind        text        NOT NULL,  -- stream, webhook, slack, alertmanager
  event       text        NOT NULL CHECK (event IN ('firing', 'resolved')),
  state       text        NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed', 'silenced')),
  attempts    integer     NOT NULL DEFAULT 0,
  last_error  text,
  due_at      timestamptz NOT NULL DEFAULT clock_timestamp(),  -- of the next attempt; with an owner: when its lease ends
  owner       text,
  repeats     boolean     NOT NULL DEFAULT false,  -- it was delivered, and is again and again while the alert fires
  at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX alert_deliveries_alert ON alert_deliveries (alert_id);
CREATE INDEX alert_deliveries_due ON alert_deliveries (due_at) WHERE state = 'waiting' OR repeats;
CREATE INDEX alert_deliveries_silenced ON alert_deliveries (tenant_id) WHERE state = 'silenced';
