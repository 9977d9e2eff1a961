"""Reading judgments back: one by id, or a page of a list.

A list follows the index by tenant and time of creation. What else is asked for (workflow, status, method, result) is looked for
in slices along it, for a bounded time: where little fits, a page may be short or empty, and says where to go on.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from judgify_engine.core.results import RESULT_SQL
from judgify_engine.store.pool import Database
from judgify_engine.units import MIB

COLUMNS = """id, workflow_id, workflow_version, input_data, context, final_result, confidence_score, method_used, status,
 execution_time_ms, rule_index, error, occurred_at, created_at"""


PAGE_BYTES = 8 * MIB
PREFETCH_ROWS = 20
LIST_TIMEOUT_S = 10.0
SLICE_ROWS = 5000
"""Judgments that one statement looks through for those that fit: some 20 ms where they are in memory."""
SEARCH_S = 2.0
"""After so long a page ends with what was found."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST, _LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 2, tzinfo=UTC)
"""No judgment was created before or after (sql/0001)."""


class Place(NamedTuple):
    """A judgment's place in the list, which is in this order from its end."""

    created_at_us: int
    """µs since 1970."""
    id: UUID


class ListFilter(NamedTuple):
    """Which judgments of a tenant a list shows; None: all."""

    workflow_ids: list[str] | None = None
    """Empty: all, too."""
    status: str | None = None
    method_used: str | None = None
    created_from_us: int | None = None
    """µs since 1970, inclusive."""
    created_to_us: int | None = None
    """Exclusive."""
    result: str | None = None
    """As the figures of results have it (core/results)."""


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

    async def page(
        self, tenant_id: str, wanted: ListFilter, before: Place | None, limit: int
    ) -> tuple[list[Any], Place | None]:
        """Newest first, beyond `before`: at most `limit` records, fewer when they are large (`PAGE_BYTES`) or hard to find
        (`SEARCH_S`), also none.

        Returns the records and where to go on; None: there are no more.
        """
        deadline_s = time.monotonic() + SEARCH_S
        rows: list[Any] = []
        size = 0
        async with (
            self._database.query(may_be_slow=True) as connection,
            connection.transaction(readonly=True),
        ):
            while True:
                search = Search(tenant_id, wanted, before, limit + 1)
                before = None
                async for row in connection.cursor(search.sql, *search.values, prefetch=PREFETCH_ROWS, timeout=LIST_TIMEOUT_S):
                    if row["fits"]:
                        if rows and (len(rows) == limit or size > PAGE_BYTES):
                            return rows, _place(rows[-1])
                        rows.append(row)
                        size += len(row["input_data"]) + len(row["context"]) + len(row["final_result"])
                    if row["number"] == search.slice_rows:
                        before = _place(row)
                if before is None or time.monotonic() >= deadline_s:
                    return rows, before

    async def by_key(self, tenant_id: str, key: str) -> Any | None:
        """What an idempotency key stands for: `fingerprint` and `answer`, or None."""
        async with self._database.query() as connection:
            return await connection.fetchrow(
                "SELECT fingerprint, answer FROM idempotency_keys WHERE tenant_id = $1 AND key = $2", tenant_id, key
            )


class Search:
    """One statement: a slice of the list, of which it gives what fits, and the last one to know where it ended."""

    def __init__(self, tenant_id: str, wanted: ListFilter, before: Place | None, most: int) -> None:
        self.values: list[Any] = [tenant_id]
        within = ["tenant_id = $1"]
        if wanted.created_from_us is not None:
            within.append(f"created_at >= {self._value(_time(wanted.created_from_us))}")
        if wanted.created_to_us is not None:
            within.append(f"created_at < {self._value(_time(wanted.created_to_us))}")
        if before is not None:
            within.append(f"(created_at, id) < ({self._value(_time(before.created_at_us))}, {self._value(before.id)})")
        fits = [
            f"{column} = {self._value(value)}"
            for column, value in (
                ("status", wanted.status),
                ("method_used", wanted.method_used),
                (RESULT_SQL, wanted.result),
            )
            if value is not None
        ]
        if wanted.workflow_ids:
            fits.append(f"workflow_id = ANY({self._value(wanted.workflow_ids)}::text[])")
        self.slice_rows = SLICE_ROWS if fits else most
        condition = " AND ".join(fits) or "true"
        order = "ORDER BY created_at DESC, id DESC"
        self.sql = (
            f"SELECT * FROM (SELECT {COLUMNS}, ({condition}) AS fits, row_number() OVER ({order}) AS number FROM"
            f" judgment_executions WHERE {' AND '.join(within)} {order} LIMIT {self.slice_rows:d}) AS slice"
            f" WHERE fits OR number = {self.slice_rows:d} {order}"
        )

    def _value(self, value: Any) -> str:
        self.values.append(value)
        return f"${len(self.values)}"


def _place(row: Any) -> Place:
    return Place(_us(row["created_at"]), row["id"])


def _time(us: int) -> datetime:
    """µs since 1970, which a caller may have made up, as a time that is as good."""
    return _EPOCH + timedelta(microseconds=min(max(us, _us(_EARLIEST)), _us(_LATEST)))


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
