-- Actions: what a workflow has done with its results. One job for each judgment and action; action_executions has its attempts.
CREATE TABLE action_jobs (
  id                uuid             NOT NULL DEFAULT judgify_uuid7() PRIMARY KEY,
  tenant_id         text             NOT NULL,
  workflow_id       text             NOT NULL,
  workflow_version  integer          NOT NULL,
  judgment_id       uuid             NOT NULL,
  action            text             NOT NULL,  -- its name in the workflow
  definition        jsonb            NOT NULL,  -- as it was when the job was made; a replay takes the workflow's current one
  destination       text             NOT NULL,  -- host and port, or the stream of alerts: what fails together
  timeout_s         double precision NOT NULL,  -- of one attempt
  state             text             NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'succeeded', 'dead')),
  attempts          integer          NOT NULL DEFAULT 0,
  max_attempts      integer          NOT NULL,  -- with so many it is dead; a replay adds to it
  owner             text,                       -- the process that is at it just now
  due_at            timestamptz      NOT NULL DEFAULT clock_timestamp(),  -- of the next attempt; with an owner: when its lease ends
  error             text,                       -- of the last attempt
  created_at        timestamptz      NOT NULL DEFAULT clock_timestamp(),
  finished_at       timestamptz,
  UNIQUE (judgment_id, action)                  -- an entry of the stream that is seen twice makes one job
);
-- Lanes: the jobs of a tenant for one destination, the one that is due first in front. Each lane is found with one probe.
CREATE INDEX action_jobs_lanes ON action_jobs (tenant_id, destination, due_at) WHERE state = 'waiting';
CREATE INDEX action_jobs_dead ON action_jobs (tenant_id, id) WHERE state = 'dead';
CREATE INDEX action_jobs_listing ON action_jobs (tenant_id, id);
CREATE INDEX action_jobs_age ON action_jobs (finished_at) WHERE finished_at IS NOT NULL;

-- Who has actions is asked every two seconds.
CREATE INDEX workflows_with_actions ON workflows (tenant_id) WHERE definition ? 'actions';

-- Every attempt. Published like before: REPLICA IDENTITY FULL stays.
ALTER TABLE action_executions
  ADD COLUMN job_id uuid,
  ADD COLUMN workflow_id text,
  ADD COLUMN duration_ms double precision;
CREATE INDEX action_executions_listing ON action_executions (tenant_id, judgment_id, id);

-- Secrets that webhooks are signed with (HMAC needs them as they are). Of a tenant one is current; one that was replaced signs
-- beside it until `retired_at`.
CREATE TABLE webhook_secrets (
  id          uuid        NOT NULL DEFAULT judgify_uuid7() PRIMARY KEY,
  tenant_id   text        NOT NULL,
  secret      text        NOT NULL,  -- whsec_ and 32 random bytes in Base64
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  shown_at    timestamptz,           -- it is shown once
  retired_at  timestamptz
);
CREATE UNIQUE INDEX webhook_secrets_current ON webhook_secrets (tenant_id) WHERE retired_at IS NULL;
CREATE INDEX webhook_secrets_retired ON webhook_secrets (tenant_id, retired_at) WHERE retired_at IS NOT NULL;

-- Entries of the streams that made no job because they could not be understood, or PostgreSQL refused the job.
CREATE TABLE action_entries_refused (
  stream      text        NOT NULL,
  entry_id    text        NOT NULL,
  reason      text        NOT NULL,
  entry       bytea       NOT NULL,  -- its beginning
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (stream, entry_id)
);
CREATE INDEX action_entries_refused_age ON action_entries_refused (created_at);
