"""Retention: judgments leave when they are old enough, their rollups stay.

They leave by whole partitions, which costs no more than a file, and never before the rollups were found equal to them: one is
detached, its tracked values are kept, in slices (store/kept), and it is dropped. Strays in the default partition are deleted,
in slices too, out of the sight of the stream, which would take them back from the rollups.

`retained_from` is the boundary that this leaves behind: what was created before it may be gone. It moves in the transaction
that detaches or deletes, and is never earlier than anything that left. Who reads the table and then, in a new snapshot, the
boundary, knows that all from the boundary on was there.
"""

import logging
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import asyncpg

from judgify_engine.config import KeepConfig
from judgify_engine.core.periods import floor
from judgify_engine.errors import Unavailable
from judgify_engine.store.kept import keep_last, keep_slice, keeping, tracks
from judgify_engine.store.partitions import DEFAULT, TABLE, TIMEOUT_S, Partition, alone, present
from judgify_engine.store.publication import unpublished
from judgify_engine.store.recompute import ALL

log = logging.getLogger(__name__)

SLICE_ROWS = 5000
_HOUR = timedelta(hours=1)
_INSTANT = timedelta(microseconds=1)
_MOVE_BOUNDARY = """
INSERT INTO judgment_retention AS r (retained_from) VALUES ($1)
ON CONFLICT (only_row) DO UPDATE SET retained_from = greatest(r.retained_from, excluded.retained_from), updated_at = now()
"""
_LEAVING = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'judgment_leaving'::regclass"
_STRAYS = f"SELECT EXISTS (SELECT FROM {DEFAULT} WHERE created_at < $1)"
_DELETE_STRAYS = f"""
WITH gone AS (
  DELETE FROM {DEFAULT} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {DEFAULT} WHERE created_at < $2 LIMIT {SLICE_ROWS})) RETURNING *
), kept AS (
  {keeping("gone")}
)
SELECT count(*) FROM gone
"""


async def retained_from(connection: "asyncpg.Connection[Any]") -> datetime | None:
    """Judgments created before this whole hour may be gone. None: nothing was ever dropped."""
    moment: datetime | None = await connection.fetchval("SELECT retained_from FROM judgment_retention")
    return moment


class Boundary(NamedTuple):
    """What retention has left; changes with everything that it drops."""

    retained_from: datetime | None
    values_from: datetime
    """Since when tracked values of what was dropped are kept, by when they occurred."""
    moved_at: datetime | None


async def boundary_of(connection: "asyncpg.Connection[Any]") -> Boundary:
    """As the connection's transaction sees it."""
    row = await connection.fetchrow("SELECT retained_from, values_from, updated_at FROM judgment_retention")
    if row is None:
        return Boundary(None, ALL.values_start, None)
    return Boundary(row["retained_from"], row["values_from"] or ALL.values_start, row["updated_at"])


async def drop_old(connection: "asyncpg.Connection[Any]", now: datetime, keep: KeepConfig, proven: datetime) -> list[str]:
    """Drop the partitions that are over for `keep.judgments_days`, the oldest first; return their names.

    Nothing created after `proven` leaves. What others use just now stays until next time. What has begun to leave goes on,
    also when judgments are by now to be kept for ever. Ended at any moment, it loses a slice at most.
    """
    now = min(now, await connection.fetchval("SELECT now()"))  # two clocks have to say so
    due = now - timedelta(days=keep.judgments_days)
    cutoff = min(due, proven)
    dropped: list[str] = []
    try:
        await _finish(connection, dropped)
        if not keep.judgments_days:
            return dropped
        for one in await present(connection):
            if one.period.end <= cutoff:
                if await _detach(connection, one, cutoff):
                    await _finish(connection, dropped)
            elif one.period.end <= due:
                log.warning("a partition stays until its rollups are proven", extra={"partition": one.name})
        await _forget_strays(connection, floor(cutoff, keep.partition))
    except asyncpg.LockNotAvailableError:
        log.info("old judgments are dropped later: others use the table")
    return dropped


async def _detach(connection: "asyncpg.Connection[Any]", one: Partition, cutoff: datetime) -> bool:
    """Have one leave the table, unless it holds a judgment that is not old yet. Raises LockNotAvailableError.

    Such a judgment was written by hand, with a key that is older than itself. This is all that needs a lock which others may
    be in the way of, and it comes first: when it has to wait, no work is lost. It takes no longer than a drop would.
    """
    name, boundary = one.name, one.period.end
    async with alone(connection):
        if await connection.fetchval(_LEAVING) is not None:  # another process's: the mark is one's only
            return False
        await connection.execute(f"LOCK TABLE {name} IN SHARE MODE")  # what is looked at is what leaves
        newest = await connection.fetchval(
            f"SELECT max(created_at) FROM {name} WHERE created_at >= $1", boundary, timeout=TIMEOUT_S
        )
        if newest is not None:
            if newest >= cutoff:
                facts = {"partition": name, "created_at": newest.isoformat()}
                log.warning("a partition stays: it holds a judgment that was created later", extra=facts)
                return False
            boundary = newest + _INSTANT
        await connection.execute(f"ALTER TABLE {TABLE} DETACH PARTITION {name}", timeout=TIMEOUT_S)
        await connection.execute(f"ALTER TABLE {name} INHERIT judgment_leaving")
        await _move_boundary(connection, boundary)
    return True


async def _finish(connection: "asyncpg.Connection[Any]", dropped: list[str]) -> None:
    """Keep the tracked values of the partition that was detached, if one was, and drop it. Raises LockNotAvailableError.

    Each slice looks anew at what there is, so it does not matter who did the one before.
    """
    which, name = await tracks(connection), ""
    while name is not None:
        async with alone(connection):
            name = await connection.fetchval(_LEAVING)
            if name is None or await keep_slice(connection, name, which):
                continue
            await connection.execute(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")  # first: no slice is kept in vain
            await keep_last(connection, name, which)
            await connection.execute(f"DROP TABLE {name}", timeout=TIMEOUT_S)
        log.info("a partition was dropped; its rollups stay", extra={"partition": name})
        dropped.append(name)


async def _forget_strays(connection: "asyncpg.Connection[Any]", before: datetime) -> None:
    """Delete what the default partition holds of the time before. Raises LockNotAvailableError."""
    if not await connection.fetchval(_STRAYS, before, timeout=TIMEOUT_S):
        return
    total, forgotten = 0, SLICE_ROWS
    try:
        while forgotten == SLICE_ROWS:
            async with alone(connection), unpublished(connection):
                forgotten = await connection.fetchval(_DELETE_STRAYS, await tracks(connection), before, timeout=TIMEOUT_S)
                await _move_boundary(connection, before)
            total += forgotten
    except Unavailable as error:
        log.error("old judgments stay in the default partition", extra={"reason": str(error)})
    else:
        log.info("old judgments were deleted from the default partition; their rollups stay", extra={"rows": total})


async def _move_boundary(connection: "asyncpg.Connection[Any]", moment: datetime) -> None:
    whole = moment.replace(minute=0, second=0, microsecond=0)
    await connection.execute(_MOVE_BOUNDARY, whole if whole == moment else whole + _HOUR)
