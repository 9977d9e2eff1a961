-- Judgments are listed, and looked up behind a point of a chart, by when they were created: one index for both, in the place of
-- the one by key, which had to be read from its newest end. Rows that others wrote may have keys of another time.
CREATE INDEX judgment_executions_created_listing ON judgment_executions (tenant_id, created_at, id);
DROP INDEX judgment_executions_listing;
