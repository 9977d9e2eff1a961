-- The rollups moved to migrations of their own (sql/metrics/), because they may live in another database. What was here is
-- dropped: it is computed from the judgments again, together with a new slot.
DROP TABLE judgment_metrics_hourly, judgment_results_hourly, judgment_metrics_timeseries, cdc_positions, reconciliation,
  reconciliation_differences, rollup_repairs;
DROP AGGREGATE judgify_histogram_sum(bigint[]);
DROP FUNCTION judgify_histogram_add(bigint[], bigint[]);

-- Tracked inputs are charted by `occurred_at`; computing a range of them anew finds its rows by this.
CREATE INDEX judgment_executions_occurred ON judgment_executions USING brin (occurred_at)
  WITH (pages_per_range = 32, autosummarize = on);
