"""Actions for people: listed, with their attempts, set going again, and forgotten when they are old."""

from typing import Any
from uuid import UUID

import msgspec

from judgify_engine.core.actions import decode_action, destination_of
from judgify_engine.store.pool import Database
from judgify_engine.wire.actions import ActionFilter

SLICE_ROWS = 1000
REPLAY_SLICES = 10
"""Slices of one replay of many."""
KEPT_REFUSED = 10_000
LIST_TIMEOUT_S = 10.0
COLUMNS = """id, tenant_id, workflow_id, workflow_version, judgment_id, action, destination, state, attempts, max_attempts,
 owner, due_at, error, created_at, finished_at"""
ATTEMPTS = "id, action, attempt, status, request, response, error, duration_ms, created_at"

# $3 to $6: as the workflow defines the action now; NULL: as it was. Attempts are counted on.
_REPLAY = f"""
UPDATE action_jobs
   SET state = 'waiting', owner = NULL, due_at = clock_timestamp(), finished_at = NULL, error = NULL,
       definition = coalesce($3::text::jsonb, definition), destination = coalesce($4, destination),
       timeout_s = coalesce($5, timeout_s), max_attempts = attempts + coalesce($6, (definition->>'max_attempts')::int, 1)
 WHERE tenant_id = $1 AND state = 'dead' AND id = ANY($2::uuid[])
RETURNING {COLUMNS}
"""
_DEAD = """
SELECT id, workflow_id, action FROM action_jobs
 WHERE tenant_id = $1 AND state = 'dead' AND ($2::text IS NULL OR workflow_id = $2) AND ($3::text IS NULL OR action = $3)
 ORDER BY id LIMIT $4
"""
_CURRENT = "SELECT (definition->'actions'->$3::text)::text FROM workflows WHERE tenant_id = $1 AND workflow_id = $2"
_FORGET_JOBS = """
DELETE FROM action_jobs WHERE id = ANY(ARRAY(
  SELECT id FROM action_jobs WHERE finished_at < now() - make_interval(days => $1) LIMIT $2))
"""
_FORGET_ATTEMPTS = """
DELETE FROM action_executions WHERE id = ANY(ARRAY(
  SELECT id FROM action_executions WHERE id < judgify_uuid7_floor(now() - make_interval(days => $1)) LIMIT $2))
"""
_FORGET_REFUSED = """
DELETE FROM action_entries_refused WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM action_entries_refused WHERE created_at < now() - make_interval(days => $1) LIMIT $2))
"""
_TOO_MANY_REFUSED = f"""
DELETE FROM action_entries_refused WHERE created_at < (
  SELECT created_at FROM action_entries_refused ORDER BY created_at DESC OFFSET {KEPT_REFUSED} LIMIT 1)
"""
_FORGET_SECRETS = "DELETE FROM webhook_secrets WHERE retired_at < now() - interval '1 day'"


class ActionStore:
    """Each call within one tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant_id: str, action_id: UUID) -> Any | None:
        """One action, or None: there is none, or it is another tenant's."""
        async with self._database.query() as connection:
            sql = f"SELECT {COLUMNS} FROM action_jobs WHERE tenant_id = $1 AND id = $2"
            return await connection.fetchrow(sql, tenant_id, action_id)

    async def page(self, tenant_id: str, wanted: ActionFilter, before: UUID | None, limit: int) -> tuple[list[Any], bool]:
        """Newest first, with an id below `before`; and whether there are more."""
        conditions = {
            "state = {}": wanted.state,
            "workflow_id = {}": wanted.workflow_id,
            "judgment_id = {}": wanted.judgment_id,
            "action = {}": wanted.action,
        }
        return await self._page(f"SELECT {COLUMNS} FROM action_jobs", tenant_id, conditions, before, limit)

    async def attempts(self, tenant_id: str, judgment_id: UUID, before: UUID | None, limit: int) -> tuple[list[Any], bool]:
        """The same for the attempts of a judgment's actions."""
        sql = f"SELECT {ATTEMPTS} FROM action_executions"
        return await self._page(sql, tenant_id, {"judgment_id = {}": judgment_id}, before, limit)

    async def _page(
        self, select: str, tenant_id: str, conditions: dict[str, Any], before: UUID | None, limit: int
    ) -> tuple[list[Any], bool]:
        where, values = ["tenant_id = $1"], [tenant_id]
        for condition, value in {**conditions, "id < {}": before}.items():
            if value is not None:
                values.append(value)
                where.append(condition.format(f"${len(values)}"))
        sql = f"{select} WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT {limit + 1:d}"
        async with self._database.query(may_be_slow=True) as connection:
            rows = await connection.fetch(sql, *values, timeout=LIST_TIMEOUT_S)
        return rows[:limit], len(rows) > limit

    async def replay(self, tenant_id: str, action_id: UUID, workflow_id: str, action: str) -> Any | None:
        """Have a dead one tried again, as its workflow defines it now; None: it is not dead (any more)."""
        async with self._database.query() as connection:
            current = await _current(connection, tenant_id, workflow_id, action)
            return await connection.fetchrow(_REPLAY, tenant_id, [action_id], *current)

    async def replay_all(self, tenant_id: str, workflow_id: str | None, action: str | None) -> tuple[int, bool]:
        """The same for all dead ones (of a workflow, of a name), up to a bound; how many, and whether there are more."""
        replayed, found = 0, SLICE_ROWS
        for _ in range(REPLAY_SLICES):
            async with self._database.query(may_be_slow=True) as connection, connection.transaction():
                rows = await connection.fetch(_DEAD, tenant_id, workflow_id, action, SLICE_ROWS)
                for workflow, name in {(row["workflow_id"], row["action"]) for row in rows}:
                    ids = [row["id"] for row in rows if (row["workflow_id"], row["action"]) == (workflow, name)]
                    current = await _current(connection, tenant_id, workflow, name)
                    replayed += len(await connection.fetch(_REPLAY, tenant_id, ids, *current))
            found = len(rows)
            if found < SLICE_ROWS:
                return replayed, False
        return replayed, True


async def _current(connection: Any, tenant_id: str, workflow_id: str, name: str) -> tuple[Any, ...]:
    """(definition, destination, timeout, attempts) of an action as its workflow has it now; all None where it has none."""
    text = await connection.fetchval(_CURRENT, tenant_id, workflow_id, name)
    try:
        action = None if text is None else decode_action(text)
        if action is not None:
            definition = msgspec.json.encode(action).decode()
            return definition, destination_of(action), action.timeout_s, action.max_attempts
    except (msgspec.MsgspecError, RecursionError, ValueError):
        pass  # written by hand, and wrong: it stays as it was
    return None, None, None, None


async def tidy(database: Database, days: int) -> None:
    """Forget what is over for so many days, in slices; of refused entries the oldest beyond a bound, too."""
    for sql in (_FORGET_JOBS, _FORGET_ATTEMPTS, _FORGET_REFUSED):
        forgotten = SLICE_ROWS
        while forgotten == SLICE_ROWS:
            async with database.query() as connection:
                done: str = await connection.execute(sql, days, SLICE_ROWS)
            forgotten = int(done.split()[-1])
    async with database.query() as connection:
        await connection.execute(_TOO_MANY_REFUSED)
        await connection.execute(_FORGET_SECRETS)
