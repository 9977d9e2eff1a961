"""Reading judgments back: one by id, or a page of a list."""

from typing import Any, NamedTuple
from uuid import UUID

from judgify_engine.store.pool import Database
from judgify_engine.units import MIB

COLUMNS = """id, workflow_id, workflow_version, input_data, context, final_result, confidence_score, method_used, status,
 execution_time_ms, rule_index, error, occurred_at, created_at"""


PAGE_BYTES = 8 * MIB
PREFETCH_ROWS = 20
LIST_TIMEOUT_S = 10.0


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
        async with self._database.query(may_be_slow=True) as connection:
            return await connection.fetchrow(
                f"SELECT {COLUMNS} FROM judgment_executions WHERE id = $1 AND tenant_id = $2", judgment_id, tenant_id
            )

    async def page(self, tenant_id: str, wanted: ListFilter, before: UUID | None, limit: int) -> tuple[list[Any], bool]:
        """Newest first, with an id below `before`: at most `limit` records, fewer when they are large (`PAGE_BYTES`).

        Returns the records and whether there are more.
        """
        conditions, values = ["tenant_id = $1"], [tenant_id]

        def add(condition: str, value: Any) -> None:
            if value is not None:
                values.append(value)
                conditions.append(condition.format(f"${len(values)}"))

        add("workflow_id = {}", wanted.workflow_id)
        add("status = {}", wanted.status)
        add("method_used = {}", wanted.method_used)
        add("created_at >= to_timestamp({}::bigint / 1000000.0)", wanted.created_from_us)
        add("created_at < to_timestamp({}::bigint / 1000000.0)", wanted.created_to_us)
        add("id < {}", before)
        sql = f"SELECT {COLUMNS} FROM judgment_executions WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT {limit + 1:d}"
        rows: list[Any] = []
        size = 0
        async with (
            self._database.query(may_be_slow=True) as connection,
            connection.transaction(readonly=True),
        ):
            async for row in connection.cursor(sql, *values, prefetch=PREFETCH_ROWS, timeout=LIST_TIMEOUT_S):
                if rows and (len(rows) == limit or size > PAGE_BYTES):
                    return rows, True
                rows.append(row)
                size += len(row["input_data"]) + len(row["context"]) + len(row["final_result"])
        return rows, False

    async def by_key(self, tenant_id: str, key: str) -> Any | None:
        """What an idempotency key stands for: `fingerprint` and `answer`, or None."""
        async with self._database.query() as connection:
            return await connection.fetchrow(
                "SELECT fingerprint, answer FROM idempotency_keys WHERE tenant_id = $1 AND key = $2", tenant_id, key
            )
