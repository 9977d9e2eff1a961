"""Requests to compute hours anew (`rollup_repairs`), and the work on the tables. See pipeline/repair_loop."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

import asyncpg

from judgify_engine.core.rollup import Delta
from judgify_engine.core.samples import Windows
from judgify_engine.errors import JudgifyError, Unavailable
from judgify_engine.pipeline.repair_loop import Request
from judgify_engine.store import recompute
from judgify_engine.store.pool import AWAY, Database
from judgify_engine.store.retention import Boundary, boundary_of
from judgify_engine.store.rollup_writer import SWAP_LOCK, add

POSTPONE_S = 5.0
Snapshot = Callable[[], AbstractAsyncContextManager[tuple[int, str]]]
"""Takes a snapshot of the table whose place in the log is known: (LSN, name), until left."""


class RepairRequests:
    """Asks for repairs of the rollups of `slot`, and how they went."""

    def __init__(self, database: Database, slot: str) -> None:
        self._database, self._slot = database, slot

    async def ask(self, start: datetime, end: datetime) -> int:
        """Ask for [start, end), whole hours; returns the request's number."""
        async with self._database.query() as connection:
            return int(
                await connection.fetchval(
                    "INSERT INTO rollup_repairs (slot_name, range_from, range_to) VALUES ($1, $2, $3) RETURNING id",
                    self._slot,
                    start,
                    end,
                )
            )

    async def state(self, number: int) -> Any:
        """The row of a request."""
        async with self._database.query() as connection:
            return await connection.fetchrow("SELECT * FROM rollup_repairs WHERE id = $1", number)


class RepairStore:
    """`judgments`, `rollups`: the databases, which may be one; `slot`: whose rollups; `snapshot`: see `Snapshot`."""

    def __init__(self, judgments: Database, rollups: Database, slot: str, windows: Windows, snapshot: Snapshot) -> None:
        self._judgments, self._rollups, self._slot = judgments, rollups, slot
        self._windows, self._snapshot = windows, snapshot

    async def next(self) -> Request | None:
        """The oldest request that nobody has served; what somebody asked for comes first. Raises DatabaseUnavailable."""
        async with self._rollups.query() as connection:
            row = await connection.fetchrow(
                "SELECT id, range_from, range_to FROM rollup_repairs"
                " WHERE slot_name = $1 AND finished_at IS NULL AND not_before <= now()"
                " ORDER BY reason = 'taken_back', id LIMIT 1",
                self._slot,
            )
        return None if row is None else Request(row["id"], int(row["range_from"].timestamp()), int(row["range_to"].timestamp()))

    @contextlib.asynccontextmanager
    async def prepared(self, request: Request, snapshot_at: Callable[[int], None]) -> AsyncIterator[tuple[int, Any]]:
        """Compute the range in a snapshot; gives its LSN (also to `snapshot_at`, at once) and the session of the result.

        Raises Unavailable, or JudgifyError with PostgreSQL's reason.
        """
        try:
            async with self._rollups.session() as target:
                async with self._snapshot() as (lsn, name):
                    snapshot_at(lsn)
                    async with self._judgments.session(snapshot=name) as source:
                        boundary = await boundary_of(source)
                        await recompute.prepare(source, target, _span(request), self._windows)
                    # Only now: what is dropped while the table is read is missing from what was read.
                    await self._check_retained(request, boundary)
                yield lsn, target
        except AWAY as error:
            raise Unavailable(f"PostgreSQL is away: {error or type(error).__name__}") from error
        except asyncpg.PostgresError as error:
            raise JudgifyError(f"PostgreSQL refused: {error}") from error

    async def _check_retained(self, request: Request, seen: Boundary) -> None:
        """Raises JudgifyError where judgments of the range are gone, Unavailable where any were dropped since `seen`."""
        async with self._judgments.query() as connection:
            boundary = await boundary_of(connection)
        moment = boundary.retained_from
        if moment is not None and moment.timestamp() > request.start_s:
            raise JudgifyError(f"judgments created before {moment.isoformat()} were dropped; ask for hours after it")
        if boundary != seen:  # some of their tracked values may be of the range
            raise Unavailable("old judgments were dropped meanwhile")

    async def swap(self, request: Request, prepared: Any, extra: Delta) -> int:
        """Replace the range by what was prepared and `extra`; returns the judgments counted. Raises Fenced."""
        async with prepared.transaction():
            if not await prepared.fetchval("SELECT pg_try_advisory_xact_lock($1)", SWAP_LOCK):  # the log is not read meanwhile
                raise Unavailable("samples are being merged just now")
            count = await recompute.swap(prepared, _span(request))
            await add(prepared, self._slot, extra, self._windows)
            count += sum(sums.total for sums in extra.sums.values())
            await prepared.execute(
                "UPDATE rollup_repairs SET finished_at = now(), judgments = $2 WHERE id = $1", request.number, count
            )
        return count

    async def postpone(self, request: Request) -> None:
        """Serve a request later: what was in the way will pass."""
        async with self._rollups.query() as connection:
            await connection.execute(
                "UPDATE rollup_repairs SET not_before = now() + make_interval(secs => $2) WHERE id = $1",
                request.number,
                POSTPONE_S,
            )

    async def failed(self, request: Request, reason: str) -> None:
        """Keep why a request could not be served."""
        async with self._rollups.query() as connection:
            await connection.execute(
                "UPDATE rollup_repairs SET finished_at = now(), error = $2 WHERE id = $1", request.number, reason[:1000]
            )


def _span(request: Request) -> recompute.Span:
    start = datetime.fromtimestamp(request.start_s, UTC)
    return recompute.Span(start, datetime.fromtimestamp(request.end_s, UTC), start)
