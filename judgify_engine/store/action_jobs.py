"""The table `action_jobs`, as the loops need it: jobs noted once, leased to one process at a time, and their attempts recorded.

A lease is an owner and a time. When a process dies, its jobs become due again by themselves; the attempt that it may have made
is recorded as lost. Jobs wait in lanes (of a tenant, for a destination): the first of each is one probe of an index away,
so a million jobs in one lane are in nobody's way.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import asyncpg
import msgspec

from judgify_engine.core.actions import ALERTS_DESTINATION
from judgify_engine.core.jobs import Finished, Job, Lane, NewJob
from judgify_engine.errors import RowRefused
from judgify_engine.pipeline.action_intake import RefusedEntry, VersionKey
from judgify_engine.pipeline.action_loop import Backlog
from judgify_engine.store.judgments import COLUMNS
from judgify_engine.store.pool import Database
from judgify_engine.store.webhook_secrets import signing_secrets

NOTING = 2
"""Connections that noting jobs takes at most: they are those of tokens and keys, too."""
COUNTED = 100_000
"""Jobs are counted so far; more are as bad."""

_ACTING = "SELECT DISTINCT tenant_id FROM workflows WHERE definition ? 'actions'"
_DEFINITIONS = """
SELECT v.tenant_id, v.workflow_id, v.version, CASE WHEN v.definition ? 'actions' THEN v.definition::text ELSE '{}' END
  FROM unnest($1::text[], $2::text[], $3::int[]) AS asked(tenant_id, workflow_id, version)
  JOIN workflow_versions v USING (tenant_id, workflow_id, version)
"""
_ADD = """
INSERT INTO action_jobs (tenant_id, workflow_id, workflow_version, judgment_id, action, definition, destination, timeout_s,
                         max_attempts, error, state, finished_at)
SELECT n.*, CASE WHEN error IS NULL THEN 'waiting' ELSE 'dead' END, CASE WHEN error IS NOT NULL THEN clock_timestamp() END
  FROM unnest($1::text[], $2::text[], $3::int[], $4::uuid[], $5::text[], $6::jsonb[], $7::text[], $8::float8[], $9::int[],
              $10::text[])
    AS n(tenant_id, workflow_id, workflow_version, judgment_id, action, definition, destination, timeout_s, max_attempts, error)
ON CONFLICT (judgment_id, action) DO NOTHING
"""
_REFUSE = """
INSERT INTO action_entries_refused (stream, entry_id, reason, entry)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) ON CONFLICT DO NOTHING
"""
# The first job of each lane, one probe of the index for each.
_LANES = """
lane AS (
  (SELECT tenant_id, destination, due_at FROM action_jobs WHERE state = 'waiting'
    ORDER BY tenant_id, destination, due_at LIMIT 1)
  UNION ALL
  SELECT following.* FROM lane, LATERAL (
    SELECT j.tenant_id, j.destination, j.due_at FROM action_jobs AS j
     WHERE j.state = 'waiting' AND (j.tenant_id, j.destination) > (lane.tenant_id, lane.destination)
     ORDER BY j.tenant_id, j.destination, j.due_at LIMIT 1) AS following
)"""
# $1 owner, $2 lease, $3 free in all, $4 bound of a lane, $5 of a tenant; $6 to $8: (tenant, destination, jobs) under way here.
# Tenants take turns, and in each the lane whose first job is due for longest, so few lanes are looked into, however many wait.
_CLAIM = f"""
WITH RECURSIVE {_LANES},
busy AS (SELECT * FROM unnest($6::text[], $7::text[], $8::int[]) AS b(tenant_id, destination, jobs)),
of_tenant AS (SELECT tenant_id, sum(jobs) AS jobs FROM busy GROUP BY tenant_id),
ready AS (
  SELECT lane.*, coalesce(busy.jobs, 0) AS lane_jobs, coalesce(of_tenant.jobs, 0) AS tenant_jobs,
         row_number() OVER (PARTITION BY tenant_id ORDER BY due_at) AS turn
    FROM lane LEFT JOIN busy USING (tenant_id, destination) LEFT JOIN of_tenant USING (tenant_id)
   WHERE due_at <= now() AND coalesce(busy.jobs, 0) < $4 AND coalesce(of_tenant.jobs, 0) < $5
   ORDER BY turn, due_at LIMIT $3
),
candidate AS (
  SELECT job.*, tenant_jobs,
         lane_jobs + row_number() OVER (PARTITION BY ready.tenant_id, ready.destination ORDER BY job.due_at) AS place
    FROM ready, LATERAL (
      SELECT id, tenant_id, due_at, owner, attempts, judgment_id, action, workflow_id FROM action_jobs AS j
       WHERE j.state = 'waiting' AND j.tenant_id = ready.tenant_id AND j.destination = ready.destination AND j.due_at <= now()
       ORDER BY j.due_at LIMIT $4 FOR UPDATE SKIP LOCKED) AS job
),
fair AS (
  SELECT *, tenant_jobs + row_number() OVER (PARTITION BY tenant_id ORDER BY place, due_at) AS tenant_place
    FROM candidate WHERE place <= $4
),
picked AS (SELECT * FROM fair WHERE tenant_place <= $5 ORDER BY tenant_place, place, due_at LIMIT $3),
lost AS (
  INSERT INTO action_executions (tenant_id, judgment_id, action, attempt, status, error, job_id, workflow_id)
  SELECT tenant_id, judgment_id, action, attempts, 'lost', 'the process that made this attempt ended before it told', id,
         workflow_id
    FROM picked WHERE owner IS NOT NULL
),
taken AS (
  UPDATE action_jobs AS j
     SET owner = $1, attempts = attempts + 1, due_at = clock_timestamp() + make_interval(secs => timeout_s + $2)
   WHERE id = ANY(ARRAY(SELECT id FROM picked))
  RETURNING *
)
SELECT t.id AS job_id, t.tenant_id, t.destination, t.workflow_id AS job_workflow_id, t.judgment_id, t.action,
       t.definition::text AS definition, t.attempts, t.max_attempts, e.*,
       ARRAY(SELECT secret FROM webhook_secrets AS s
              WHERE s.tenant_id = t.tenant_id AND (s.retired_at IS NULL OR s.retired_at > now())
              ORDER BY s.id DESC) AS secrets
  FROM taken AS t LEFT JOIN LATERAL (
    SELECT {COLUMNS} FROM judgment_executions WHERE id = t.judgment_id AND tenant_id = t.tenant_id LIMIT 1) AS e ON true
"""
# A success counts whoever tells it; all else only from the owner of the lease.
_RECORD = """
WITH told AS (
  SELECT * FROM unnest($2::uuid[], $3::int[], $4::text[], $5::text[], $6::float8[], $7::jsonb[], $8::jsonb[], $9::float8[])
    AS t(id, attempt, state, error, rest_s, request, response, duration_ms)
),
moved AS (
  UPDATE action_jobs AS j
     SET state = told.state, error = told.error, owner = NULL,
         due_at = clock_timestamp() + make_interval(secs => told.rest_s),
         finished_at = CASE WHEN told.state <> 'waiting' THEN clock_timestamp() END
    FROM told
   WHERE j.id = told.id AND j.state <> 'succeeded'
     AND (told.state = 'succeeded' OR (j.state = 'waiting' AND j.owner = $1 AND j.attempts = told.attempt))
  RETURNING j.id
)
INSERT INTO action_executions (tenant_id, judgment_id, action, attempt, status, request, response, error, job_id, workflow_id,
                               duration_ms)
SELECT j.tenant_id, j.judgment_id, j.action, told.attempt,
       CASE WHEN told.state <> 'succeeded' THEN 'failed' WHEN moved.id IS NULL THEN 'repeated' ELSE 'succeeded' END,
       told.request, told.response, told.error, j.id, j.workflow_id, told.duration_ms
  FROM told JOIN action_jobs AS j USING (id) LEFT JOIN moved USING (id)
"""
_BACKLOG = f"""
WITH RECURSIVE {_LANES}
SELECT (SELECT count(*) FROM (SELECT FROM action_jobs WHERE state = 'waiting' LIMIT {COUNTED}) AS w) AS waiting,
       (SELECT count(*) FROM (SELECT FROM action_jobs WHERE state = 'dead' LIMIT {COUNTED}) AS d) AS dead,
       (SELECT count(*) FROM (SELECT FROM action_entries_refused LIMIT {COUNTED}) AS r) AS refused,
       greatest(0, extract(epoch FROM now() - min(due_at)))::float8 AS oldest_due_s FROM lane
"""
_NEXT_DUE = f"WITH RECURSIVE {_LANES} SELECT extract(epoch FROM min(due_at) - now())::float8 FROM lane WHERE due_at > now()"


class ActionJobs:
    """What `pipeline/action_intake` and `pipeline/action_loop` need of the table."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noting = asyncio.Semaphore(NOTING)

    async def acting_tenants(self) -> Collection[str]:
        """The tenants of whom a workflow names actions."""
        async with self._noting, self._database.query() as connection:
            return [row[0] for row in await connection.fetch(_ACTING)]

    async def definitions(self, keys: Collection[VersionKey]) -> Mapping[VersionKey, str]:
        """The stored definitions of these versions, `{}` for those without actions. What does not exist is not in it."""
        async with self._noting, self._database.query() as connection:
            rows = await connection.fetch(_DEFINITIONS, *_columns(list(keys), 3))
        return {(tenant_id, workflow_id, version): definition for tenant_id, workflow_id, version, definition in rows}

    async def add(self, jobs: Sequence[NewJob], refused: Sequence[RefusedEntry]) -> None:
        """Note these, in one transaction; what is there already stays. Raises RowRefused where PostgreSQL objects to a job."""
        async with self._noting, self._database.query() as connection, connection.transaction():
            try:
                if jobs:
                    await connection.execute(_ADD, *_columns(jobs, 10))
                if refused:
                    await connection.execute(_REFUSE, *_columns(refused, 4))
            except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
                raise RowRefused(f"PostgreSQL refused an action: {error}") from error

    async def claim(
        self, owner: str, lease_s: float, free: int, per_lane: int, per_tenant: int, busy: Mapping[Lane, int]
    ) -> list[Job]:
        """Lease up to `free` jobs that are due, fairly among lanes and tenants; `busy`: what is under way here already."""
        under_way = [(*lane, jobs) for lane, jobs in busy.items()]
        async with self._database.query() as connection:
            rows = await connection.fetch(_CLAIM, owner, lease_s, free, per_lane, per_tenant, *_columns(under_way, 3))
            lacking = {row["tenant_id"] for row in rows if not row["secrets"] and row["destination"] != ALERTS_DESTINATION}
            made = {tenant_id: await signing_secrets(connection, tenant_id) for tenant_id in lacking}
        return [_job(row, made.get(row["tenant_id"]) or tuple(row["secrets"])) for row in rows]

    async def next_due_s(self) -> float | None:
        """How long it is until a job is due; None: none waits."""
        async with self._database.query() as connection:
            found: float | None = await connection.fetchval(_NEXT_DUE)
        return found

    async def record(self, owner: str, finished: Sequence[Finished]) -> None:
        """Record these attempts and move their jobs on, in one transaction."""
        told = [
            (
                each.job.id,
                each.job.attempt,
                each.state,
                each.outcome.error,
                each.rest_s,
                _json(each.outcome.request),
                _json(each.outcome.response),
                each.duration_ms,
            )
            for each in finished
        ]
        async with self._database.query() as connection:
            await connection.execute(_RECORD, owner, *_columns(told, 8))

    async def backlog(self) -> Backlog:
        """How many wait, are dead, and for how long the oldest is due."""
        async with self._database.query(may_be_slow=True) as connection:
            return Backlog(*await connection.fetchrow(_BACKLOG))


def _columns(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows as one list for each column."""
    return [[row[place] for row in rows] for place in range(width)]


def _json(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else msgspec.json.encode(dict(value)).decode()


def _job(row: Any, secrets: tuple[str, ...]) -> Job:
    return Job(
        id=row["job_id"],
        lane=Lane(row["tenant_id"], row["destination"]),
        workflow_id=row["job_workflow_id"],
        judgment_id=str(row["judgment_id"]),
        action=row["action"],
        definition=row["definition"],
        attempt=row["attempts"],
        max_attempts=row["max_attempts"],
        judgment=row if row["id"] is not None else None,
        secrets=secrets,
    )
