-- How much of what came in was wrong, and how: `refused` input (the quarantine's rows, each for as many requests as it stands
-- for), and `stored` judgments that break the rules of data quality (see core/quality.py), which only others can have written.
CREATE TABLE judgment_quality_hourly (
  tenant_id    text        NOT NULL,
  workflow_id  text        NOT NULL,
  hour         timestamptz NOT NULL,
  source       text        NOT NULL,
  kind         text        NOT NULL,
  count        bigint      NOT NULL,
  PRIMARY KEY (tenant_id, hour, workflow_id, source, kind)
) WITH (fillfactor = 50);
CREATE INDEX judgment_quality_hourly_hour ON judgment_quality_hourly (hour);
