"""Monthly partitions of `judgment_executions`, made ahead: by range of the UUIDv7 key, which is a range of time.

Nothing fails for want of one: what fits no range goes to the default partition.
"""

import logging
from datetime import UTC, datetime
from typing import Any

import asyncpg

log = logging.getLogger(__name__)

MONTHS_AHEAD = 3
LOCK_KEY = 0x6A756467_00000002
TABLE = "judgment_executions"
_WITHOUT_FULL = """
SELECT c.oid::regclass::text AS name FROM pg_class c LEFT JOIN pg_inherits i ON c.oid = i.inhrelid
 WHERE $1::regclass IN (c.oid, i.inhparent) AND c.relreplident <> 'f'
"""


def months(now: datetime, ahead: int, table: str = TABLE) -> list[tuple[str, datetime, datetime]]:
    """(name, start, end) of a table's partition of `now` and of the `ahead` months after it, in UTC."""
    result = []
    year, month = now.year, now.month
    for _ in range(ahead + 1):
        start = datetime(year, month, 1, tzinfo=UTC)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        result.append((f"{table}_{start:%Y_%m}", start, datetime(year, month, 1, tzinfo=UTC)))
    return result


async def make_ahead(connection: "asyncpg.Connection[Any]", now: datetime) -> list[str]:
    """Make the partitions of this month and the next ones that are missing; return their names.

    A month whose rows are already in the default partition cannot get its own any more; that is logged, and harmless.
    """
    made = []
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
        rows = await connection.fetch(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = $1::regclass",
            TABLE,
        )
        existing = {row["relname"] for row in rows}
        for name, start, end in months(now, MONTHS_AHEAD):
            if name in existing:
                continue
            try:
                async with connection.transaction():
                    await _make(connection, name, start, end)
                made.append(name)
            except asyncpg.CheckViolationError:
                log.warning("the default partition holds rows of this month", extra={"partition": name})
        # A partition attached by hand may lack what lets an update or delete be taken back from the rollups.
        for row in await connection.fetch(_WITHOUT_FULL, TABLE):
            await connection.execute(f"ALTER TABLE {row['name']} REPLICA IDENTITY FULL")
    if made:
        log.info("partitions made", extra={"partitions": made})
    return made


async def _make(connection: "asyncpg.Connection[Any]", name: str, start: datetime, end: datetime) -> None:
    low, high = await connection.fetchrow("SELECT judgify_uuid7_floor($1)::text, judgify_uuid7_floor($2)::text", start, end)
    # Names and bounds are ours (see `months`), and DDL takes no parameters.
    await connection.execute(f"CREATE TABLE {name} PARTITION OF {TABLE} FOR VALUES FROM ('{low}') TO ('{high}')")
    await connection.execute(f"ALTER TABLE {name} REPLICA IDENTITY FULL")
