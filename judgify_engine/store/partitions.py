"""Partitions of `judgment_executions`, made ahead: by range of the UUIDv7 key, which is a range of time.

Nothing fails for want of one: what fits no range goes to the default partition, and moves into its own when that is made.
Whoever else uses the table need not wait for any of this: a lock that does not come at once is tried again next time.
"""

import contextlib
import logging
import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from judgify_engine.core.periods import Period, Width, missing, period_of
from judgify_engine.errors import Unavailable
from judgify_engine.store.publication import unpublished

log = logging.getLogger(__name__)

LOCK_KEY = 0x6A756467_00000002
TABLE = "judgment_executions"
DEFAULT = f"{TABLE}_default"
LOCK_TIMEOUT_MS = 250
MOVABLE_ROWS = 100_000
"""Rows that move out of the default partition at once: a second of work (50,000 took 0.5 s), while others wait."""
TIMEOUT_S = 60.0
_PARTITIONS = """
SELECT c.oid::regclass::text AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::regclass
"""
_BOUNDS = re.compile(r"FOR VALUES FROM \((?:MINVALUE|'([0-9a-f-]+)')\) TO \((?:MAXVALUE|'([0-9a-f-]+)')\)")
_HELD = f"SELECT count(*) FROM (SELECT FROM {DEFAULT} WHERE id >= $1 AND id < $2 LIMIT {MOVABLE_ROWS + 1}) AS held"
# By way of a table of the session: other publications than ours see a row leave and come back.
_TAKE_OUT = f"""
WITH taken AS (DELETE FROM {DEFAULT} WHERE id >= $1 AND id < $2 RETURNING *) INSERT INTO moving SELECT * FROM taken
"""
_WITHOUT_FULL = """
SELECT c.oid::regclass::text AS name FROM pg_class c LEFT JOIN pg_inherits i ON c.oid = i.inhrelid
 WHERE $1::regclass IN (c.oid, i.inhparent) AND c.relreplident <> 'f'
"""


class Partition(NamedTuple):
    """One that is there, but for the default one."""

    name: str
    period: Period


async def present(connection: "asyncpg.Connection[Any]") -> list[Partition]:
    """The partitions with a range, the oldest first."""
    found = []
    for row in await connection.fetch(_PARTITIONS, TABLE):
        bounds = _BOUNDS.fullmatch(row["bounds"])
        if bounds is not None:
            found.append(Partition(row["name"], period_of(*bounds.groups())))
    return sorted(found, key=lambda one: one.period)


async def make_ahead(connection: "asyncpg.Connection[Any]", now: datetime, width: Width = "month") -> list[str]:
    """Make the partitions of the present period and the next ones that are missing; return their names.

    What cannot be made is logged and tried again next time; until then the default partition takes its rows.
    """
    made = []
    for period in missing([one.period for one in await present(connection)], now, width):
        name = f"{TABLE}_{period.suffix}"
        try:
            if await make(connection, name, period, period.start <= now):
                made.append(name)
        except asyncpg.LockNotAvailableError:
            log.info("a partition is made later: others use the table", extra={"partition": name})
        except (Unavailable, asyncpg.PostgresError) as error:
            if connection.is_closed():
                raise
            facts = {"partition": name, "reason": str(error)}
            log.error("a partition cannot be made; the default one takes its rows", extra=facts)
    await _tell_old_rows(connection)
    if made:
        log.info("partitions made", extra={"partitions": made})
    return made


async def make(connection: "asyncpg.Connection[Any]", name: str, period: Period, in_use: bool) -> bool:
    """Make one, with the rows of its range that the default partition holds. False: another process did, or there are too many.

    `in_use`: rows may be on their way into the default partition. PostgreSQL would refuse them when their partition appears
    meanwhile, so whoever inserts waits for the end of this.
    """
    low, high = period.ids
    async with alone(connection):
        if any(one.period.start < period.end and period.start < one.period.end for one in await present(connection)):
            return False
        if in_use:
            await connection.execute(f"LOCK TABLE ONLY {TABLE} IN SHARE ROW EXCLUSIVE MODE")
        rows = await connection.fetchval(_HELD, low, high)
        if rows > MOVABLE_ROWS:
            log.warning("the default partition keeps the rows of this range: too many to move", extra={"partition": name})
            return False
        async with unpublished(connection) if rows else contextlib.nullcontext():
            if rows:
                await connection.execute(f"CREATE TEMP TABLE moving (LIKE {TABLE}) ON COMMIT DROP")
                await connection.execute(_TAKE_OUT, low, high, timeout=TIMEOUT_S)
            # Not CREATE TABLE ... PARTITION OF, which locks out everybody. Names and bounds are ours; DDL takes no parameters.
            await connection.execute(f"CREATE TABLE {name} (LIKE {TABLE} INCLUDING ALL)")
            await connection.execute(f"ALTER TABLE {name} REPLICA IDENTITY FULL")
            bounds = f"FOR VALUES FROM ('{low}') TO ('{high}')"
            await connection.execute(f"ALTER TABLE {TABLE} ATTACH PARTITION {name} {bounds}", timeout=TIMEOUT_S)
            if rows:
                await connection.execute(f"INSERT INTO {TABLE} SELECT * FROM moving", timeout=TIMEOUT_S)
    if rows:
        log.info("rows were moved out of the default partition", extra={"partition": name, "rows": rows})
    return True


async def _tell_old_rows(connection: "asyncpg.Connection[Any]") -> None:
    """A partition attached by hand may lack what lets an update or delete be taken back from the rollups."""
    for row in await connection.fetch(_WITHOUT_FULL, TABLE):
        try:
            async with alone(connection):
                await connection.execute(f"ALTER TABLE {row['name']} REPLICA IDENTITY FULL")
        except asyncpg.LockNotAvailableError:
            log.warning("a partition does not log its old rows yet: others use it", extra={"partition": row["name"]})


@contextlib.asynccontextmanager
async def alone(connection: "asyncpg.Connection[Any]") -> AsyncIterator[None]:
    """A transaction that no other process's work on partitions runs beside, and that waits for no lock for long."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
        await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
        yield
