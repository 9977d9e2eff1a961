"""Reading judgments back: one by id, or a page of a list.

A list follows the index by tenant and time of creation. What else is asked for (workflow, status, method, result, …) is looked
for in slices along it, for a bounded time: where little fits, a page may be short or empty, and says where to go on.

A list by when things occurred, which may be any time, follows two indexes at once, in the order of the time by which tracked
values are charted: that of those that say when they occurred, and that of all by creation, of which those fit that do not.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from judgify_engine.core.results import RESULT_SQL
from judgify_engine.store.pool import Database
from judgify_engine.store.tracking import BELIEVED_SQL, counts_sql, tracks_of
from judgify_engine.units import MIB

COLUMNS = """id, workflow_id, workflow_version, input_data, context, final_result, confidence_score, method_used, status,
 execution_time_ms, rule_index, error, occurred_at, created_at"""
CONFIDENCE_PPM_SQL = "round(confidence_score * 1000000)::bigint"
"""Millionths, as the rollups count them."""
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

    at_us: int
    """When it was created, or in a list by occurrence is charted; µs since 1970."""
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
    confidence_min_ppm: int | None = None
    """Millionths, inclusive."""
    confidence_max_ppm: int | None = None
    """Exclusive."""
    tracked: str | None = None
    """A field: with a value of it that is charted (core/tracking)."""
    occurred_from_us: int | None = None
    """µs since 1970, inclusive, of `occurred_at`, or `created_at` where that is what tracked values are charted by."""
    occurred_to_us: int | None = None
    """Exclusive."""

    @property
    def by_occurrence(self) -> bool:
        """Whether the list is in the order of that time."""
        return self.occurred_from_us is not None or self.occurred_to_us is not None


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
            tracks = None if wanted.tracked is None else await tracks_of(connection, tenant_id, wanted.tracked)
            if wanted.tracked is not None and tracks is None:
                return [], None
            while True:
                search = Search(tenant_id, wanted, before, limit + 1, tracks)
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

    def __init__(self, tenant_id: str, wanted: ListFilter, before: Place | None, most: int, tracks: str | None = None) -> None:
        """`tracks`: which versions track the wanted field (`tracks_of`)."""
        self.values: list[Any] = [tenant_id]
        self._before = before
        fits = self._fits(wanted, tracks)
        created = wanted.created_from_us, wanted.created_to_us
        order = "ORDER BY at DESC, id DESC"
        if wanted.by_occurrence:
            self.slice_rows = SLICE_ROWS
            fits += self._between("created_at", *created)
            from_us, to_us = wanted.occurred_from_us, wanted.occurred_to_us
            span = _us(_EARLIEST) if from_us is None else from_us, _us(_LATEST) if to_us is None else to_us
            there = (
                f"({self._slice('occurred_at', span, [*fits, BELIEVED_SQL])}) UNION ALL"
                f" ({self._slice('created_at', span, [*fits, f'({BELIEVED_SQL}) IS NOT TRUE'])})"
            )
            order += ", fits DESC"  # one that occurred when it was created is there twice, and fits once
        else:
            self.slice_rows = SLICE_ROWS if fits else most
            there = self._slice("created_at", created, fits)
        self.sql = (
            f"SELECT * FROM (SELECT *, row_number() OVER ({order}) AS number FROM ({there}) AS there {order}"
            f" LIMIT {self.slice_rows:d}) AS slice WHERE fits OR number = {self.slice_rows:d} {order}"
        )

    def _slice(self, time: str, span: tuple[int | None, int | None], fits: list[str]) -> str:
        """What follows in the order of a column, which becomes `at`; `fits`: the conditions for `fits`."""
        within = ["tenant_id = $1", *self._between(time, *span)]
        if self._before is not None:
            within.append(f"({time}, id) < ({self._value(_time(self._before.at_us))}, {self._value(self._before.id)})")
        condition = f"({' AND '.join(fits)}) IS TRUE" if fits else "true"
        return (
            f"SELECT {COLUMNS}, {time} AS at, {condition} AS fits FROM judgment_executions WHERE {' AND '.join(within)}"
            f" ORDER BY {time} DESC, id DESC LIMIT {self.slice_rows:d}"
        )

    def _between(self, time: str, from_us: int | None, to_us: int | None) -> list[str]:
        bounds = ((">=", from_us), ("<", to_us))
        return [f"{time} {sign} {self._value(_time(us))}" for sign, us in bounds if us is not None]

    def _fits(self, wanted: ListFilter, tracks: str | None) -> list[str]:
        """Conditions that no index knows of."""
        fits = [
            f"{column} {sign} {self._value(value)}"
            for column, sign, value in (
                ("status", "=", wanted.status),
                ("method_used", "=", wanted.method_used),
                (RESULT_SQL, "=", wanted.result),
                (CONFIDENCE_PPM_SQL, ">=", wanted.confidence_min_ppm),
                (CONFIDENCE_PPM_SQL, "<", wanted.confidence_max_ppm),
            )
            if value is not None
        ]
        if wanted.workflow_ids:
            fits.append(f"workflow_id = ANY({self._value(wanted.workflow_ids)}::text[])")
        if wanted.tracked is not None:
            fits.append(counts_sql(self._value(tracks), self._value(wanted.tracked)))
        return fits

    def _value(self, value: Any) -> str:
        self.values.append(value)
        return f"${len(self.values)}"


def _place(row: Any) -> Place:
    return Place(_us(row["at"]), row["id"])


def _time(us: int) -> datetime:
    """µs since 1970, which a caller may have made up, as a time that is as good."""
    return _EPOCH + timedelta(microseconds=min(max(us, _us(_EARLIEST)), _us(_LATEST)))


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
