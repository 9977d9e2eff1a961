-- Judgments behind a point of a chart of tracked inputs are looked up by when they occurred, which may be long before they were
-- created, or after. Those that do not say when are found by when they were created, and cost nothing here.
CREATE INDEX judgment_executions_occurred_listing ON judgment_executions (tenant_id, occurred_at, id)
  WHERE occurred_at IS NOT NULL;
