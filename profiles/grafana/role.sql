-- The role that Grafana reads the rollups with: run it in the database that has them (JUDGIFY_METRICS_DATABASE_URL, else
-- JUDGIFY_DATABASE_URL), whose name goes in place of "judgify"; then give it a password: \password judgify_grafana
-- It sees counts and sums of all tenants, the names of workflows and verdicts, no input and no token; whoever may query through Grafana does too.
CREATE ROLE judgify_grafana LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT 10;
ALTER ROLE judgify_grafana SET default_transaction_read_only = on;
ALTER ROLE judgify_grafana SET statement_timeout = '30s';
GRANT CONNECT ON DATABASE judgify TO judgify_grafana;
GRANT SELECT ON judgment_metrics_hourly, judgment_results_hourly, judgment_metrics_total, judgment_quality_hourly
  TO judgify_grafana;
