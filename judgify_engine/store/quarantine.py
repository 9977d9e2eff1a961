"""The table `judgment_quarantine`: rows written, listed, marked as replayed, and forgotten when they are old or too many."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

from judgify_engine.config import KeepConfig
from judgify_engine.core.quarantine import Refused
from judgify_engine.store.pool import Database
from judgify_engine.wire.quarantine import QuarantineFilter

SLICE_ROWS = 5000
LIST_TIMEOUT_S = 10.0
COLUMNS = """id, workflow_id, kind, source, code, field, reason, body IS NOT NULL AS kept, body_cut, repeated, created_at,
 replayed_at, judgment_id"""

_ADD = """
INSERT INTO judgment_quarantine
  (id, tenant_id, workflow_id, kind, source, code, field, reason, body, body_cut, repeated, created_at)
SELECT id, tenant, workflow, kind, source, code, field, reason, body, cut, repeated,
       timestamptz 'epoch' + us * interval '1 microsecond'
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bytea[],
              $10::boolean[], $11::bigint[], $12::bigint[])
    AS r(id, tenant, workflow, kind, source, code, field, reason, body, cut, repeated, us)
ON CONFLICT (id) DO NOTHING
"""
_MARK = """
UPDATE judgment_quarantine SET replayed_at = clock_timestamp(), judgment_id = $3
 WHERE tenant_id = $1 AND id = $2 AND replayed_at IS NULL
"""
# A replay that was cut off between its judgment and its mark has left its key, which holds the row's id.
_SETTLE = """
UPDATE judgment_quarantine q SET replayed_at = k.created_at, judgment_id = k.judgment_id
  FROM idempotency_keys k
 WHERE k.key LIKE 'quarantine %' AND q.id = CASE WHEN k.key LIKE 'quarantine %' THEN substring(k.key FROM 12)::uuid END
   AND q.tenant_id = k.tenant_id AND q.replayed_at IS NULL
"""
_FORGET_OLD = """
DELETE FROM judgment_quarantine WHERE id = ANY(ARRAY(
  SELECT id FROM judgment_quarantine WHERE id < judgify_uuid7_floor(now() - make_interval(days => $1)) LIMIT $2))
"""
_TOO_MANY = "SELECT tenant_id, count(*) - $1 AS surplus FROM judgment_quarantine GROUP BY tenant_id HAVING count(*) > $1"
_FORGET_OLDEST = """
DELETE FROM judgment_quarantine WHERE id = ANY(ARRAY(
  SELECT id FROM judgment_quarantine WHERE tenant_id = $1 ORDER BY id LIMIT $2))
"""


class QuarantineStore:
    """Reads and writes the quarantine, each call within one tenant but for `add`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, rows: Sequence[Refused]) -> None:
        """See `QuarantineWriter.add`. Raises DatabaseUnavailable, Overloaded, or what PostgreSQL objects to."""
        columns = (
            [UUID(bytes=row.id) for row in rows],
            *([getattr(row, name) for row in rows] for name in ("tenant_id", "workflow_id", "kind", "source", "code")),
            *([getattr(row, name) for row in rows] for name in ("field", "reason", "body", "body_cut", "repeated")),
            [row.created_at_us for row in rows],
        )
        async with self._database.query(may_be_slow=True) as connection:
            await connection.execute(_ADD, *columns)

    async def get(self, tenant_id: str, quarantine_id: UUID) -> Any | None:
        """One row with its `body`; None: there is none, or it is another tenant's."""
        sql = f"SELECT {COLUMNS}, body FROM judgment_quarantine WHERE tenant_id = $1 AND id = $2"
        async with self._database.query() as connection:
            return await connection.fetchrow(sql, tenant_id, quarantine_id)

    async def page(self, tenant_id: str, wanted: QuarantineFilter, before: UUID | None, limit: int) -> tuple[list[Any], bool]:
        """Newest first, with an id below `before`, at most `limit` rows without bodies; and whether there are more."""
        conditions, values = ["tenant_id = $1"], [tenant_id]

        def add(condition: str, value: Any) -> None:
            if value is not None:
                values.append(value)
                conditions.append(condition.format(f"${len(values)}"))

        add("workflow_id = {}", wanted.workflow_id)
        add("kind = {}", wanted.kind)
        add("(replayed_at IS NOT NULL) = {}", wanted.replayed)
        add("created_at >= to_timestamp({}::bigint / 1000000.0)", wanted.created_from_us)
        add("created_at < to_timestamp({}::bigint / 1000000.0)", wanted.created_to_us)
        add("id < {}", before)
        sql = f"SELECT {COLUMNS} FROM judgment_quarantine WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT {limit + 1:d}"
        async with self._database.query(may_be_slow=True) as connection:
            rows = await connection.fetch(sql, *values, timeout=LIST_TIMEOUT_S)
        return rows[:limit], len(rows) > limit

    async def mark(self, tenant_id: str, quarantine_id: UUID, judgment_id: UUID) -> None:
        """A replay made this judgment. The first mark stays."""
        async with self._database.query() as connection:
            await connection.execute(_MARK, tenant_id, quarantine_id, judgment_id)

    async def delete(self, tenant_id: str, quarantine_id: UUID) -> bool:
        """Remove a row; whether it was there."""
        sql = "DELETE FROM judgment_quarantine WHERE tenant_id = $1 AND id = $2"
        async with self._database.query() as connection:
            done: str = await connection.execute(sql, tenant_id, quarantine_id)
        return done == "DELETE 1"


async def tidy(database: Database, keep: KeepConfig) -> None:
    """Mark what a replay left unmarked; forget what is old, and each tenant's oldest rows beyond the bound, in slices.

    To be called before idempotency keys are forgotten.
    """
    async with database.query() as connection:
        await connection.execute(_SETTLE)
    while await _forget(database, _FORGET_OLD, keep.quarantine_days, SLICE_ROWS) == SLICE_ROWS:
        pass
    async with database.query(may_be_slow=True) as connection:
        crowded: list[asyncpg.Record] = await connection.fetch(_TOO_MANY, keep.quarantine_rows)
    for tenant_id, surplus in crowded:
        for start in range(0, surplus, SLICE_ROWS):
            await _forget(database, _FORGET_OLDEST, tenant_id, min(SLICE_ROWS, surplus - start))


async def _forget(database: Database, sql: str, *values: Any) -> int:
    async with database.query() as connection:
        done: str = await connection.execute(sql, *values)
    return int(done.split()[-1])
