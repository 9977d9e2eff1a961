"""Reading judgments back: one by id, or a page of a list."""

from typing import Any, NamedTuple
from uuid import UUID

from judgify_engine.store.pool import Database

COLUMNS = """id, workflow_id, workflow_version, input_data, context, final_result, confidence_score, method_used, status,
 execution_time_ms, rule_index, error, occurred_at, created_at"""


class ListFilter(NamedTuple):
    """Which judgments of a tenant a list shows; None: all."""

    workflow_id: str | None = None
    status: str | None = None
    method_used: str | None = None
    created_from_us: int | None = None
    """µs since 1970, inclusive."""
    created_to_us: int | None = None
    """Exclusive."""


class JudgmentReader:
    """Look-ups of stored judgments, each within one tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant_id: str, judgment_id: UUID) -> Any | None:
        """The record, or None: it does not exist or is another tenant's."""
        async with self._database.query() as connection:
            return await connection.fetchrow(
                f"SELECT {COLUMNS} FROM judgment_executions WHERE id = $1 AND tenant_id = $2", judgment_id, tenant_id
            )

    async def page(self, tenant_id: str, wanted: ListFilter, before: UUID | None, limit: int) -> list[Any]:
        """At most `limit` records, newest first, with an id below `before`."""
        conditions, values = ["tenant_id = $1"], [tenant_id]

        def add(condition: str, value: Any) -> None:
            if value is not None:
                values.append(value)
                conditions.append(condition.format(f"${len(values)}"))

        add("workflow_id = {}", wanted.workflow_id)
        add("status = {}", wanted.status)
        add("method_used = {}", wanted.method_used)
        # The id carries the time to the millisecond: a bound on it picks partitions and a range of the index.
        add("created_at >= to_timestamp({}::bigint / 1000000.0)", wanted.created_from_us)
        add("created_at < to_timestamp({}::bigint / 1000000.0)", wanted.created_to_us)
        add("id < {}", before)
        sql = f"SELECT {COLUMNS} FROM judgment_executions WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT {limit:d}"
        async with self._database.query() as connection:
            return list(await connection.fetch(sql, *values))

    async def by_key(self, tenant_id: str, key: str) -> Any | None:
        """What an idempotency key stands for: `fingerprint` and `answer`, or None."""
        async with self._database.query() as connection:
            return await connection.fetchrow(
                "SELECT fingerprint, answer FROM idempotency_keys WHERE tenant_id = $1 AND key = $2", tenant_id, key
            )
