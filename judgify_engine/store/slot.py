"""The slot and the publication as the server has them: looked at, repaired, dropped; and marks in the log.

All over one connection to the database of the judgments, which the holder of the slot keeps as long as it streams.
"""

import asyncio
from datetime import datetime
from typing import Any

from judgify_engine.core.healing import Blocker, Publication, Slot
from judgify_engine.store import publication
from judgify_engine.units import parse_lsn
from judgify_engine.wire.pgoutput import MARK

_SLOT = """
SELECT plugin, coalesce(database = current_database(), true) AS ours, active, wal_status, safe_wal_size AS safe_bytes,
       coalesce(confirmed_flush_lsn, '0/0')::text AS confirmed_lsn,
       coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint AS retained_bytes
  FROM pg_replication_slots WHERE slot_name = $1
"""
_NOT_FULL = """
SELECT c.oid::regclass::text AS name FROM pg_class AS c
 WHERE (c.oid = ANY($1::text[]::regclass[]) OR c.oid IN (SELECT relid FROM pg_partition_tree('judgment_executions')))
   AND c.relreplident <> 'f'
"""

# Locks may be seen by everybody, since when only by who may see the activity of others.
_BLOCKERS = """
SELECT held.pid, coalesce(a.xact_start, p.prepared) AS since
  FROM pg_locks AS waiting
  JOIN pg_locks AS held ON held.locktype = 'transactionid' AND held.transactionid = waiting.transactionid AND held.granted
  LEFT JOIN pg_stat_activity AS a ON a.pid = held.pid
  LEFT JOIN pg_prepared_xacts AS p ON p.transaction = held.transactionid
 WHERE waiting.pid = $1 AND NOT waiting.granted ORDER BY 1
"""


class SlotStore:
    """`connection`: belongs to this; `slot` and `publication_name`: whose."""

    def __init__(self, connection: Any, slot: str, publication_name: str) -> None:
        self._connection, self._slot, self._publication = connection, slot, publication_name
        self._busy = asyncio.Lock()
        self.gone = asyncio.Event()
        """The connection has ended: the server stops, restarts or is away."""
        connection.add_termination_listener(lambda _: self.gone.set())

    async def slot(self) -> Slot | None:
        """The slot; None: there is none."""
        async with self._busy:
            row = await self._connection.fetchrow(_SLOT, self._slot)
        return None if row is None else Slot(**{**row, "confirmed_lsn": parse_lsn(row["confirmed_lsn"])})

    async def publication(self) -> Publication:
        """What is published."""
        async with self._busy:
            return await publication.look(self._connection, self._publication)

    async def repair_publication(self) -> Publication:
        """Make it what we need, and the tables tell of their old rows; returns what it is then."""
        async with self._busy, self._connection.transaction():
            for row in await self._connection.fetch(_NOT_FULL, list(publication.WHOLE)):
                await self._connection.execute(f"ALTER TABLE {row['name']} REPLICA IDENTITY FULL")  # quoted by regclass
        found = await self.publication()
        if found.wrong is None:
            return found
        async with self._busy, self._connection.transaction():
            await publication.make(self._connection, self._publication)
        return await self.publication()

    async def drop(self) -> None:
        """Drop the slot. Raises PostgresError while somebody reads it."""
        async with self._busy:
            await self._connection.execute("SELECT pg_drop_replication_slot($1)", self._slot)

    async def mark(self) -> None:
        """Write a message of ours into the log, in a transaction of its own; it comes by in the stream like a change."""
        async with self._busy:
            await self._connection.execute(f"SELECT pg_logical_emit_message(true, '{MARK}', '')")

    async def judgments_before(self, moment: datetime) -> bool:
        """Whether there are judgments created before that."""
        sql = "SELECT EXISTS (SELECT FROM judgment_executions WHERE created_at < $1)"
        async with self._busy:
            return bool(await self._connection.fetchval(sql, moment))

    async def unlimited(self) -> bool:
        """Whether the server keeps log for a slot that nobody reads without any limit."""
        async with self._busy:
            return bool(await self._connection.fetchval("SELECT current_setting('max_slot_wal_keep_size') = '-1'"))

    async def blockers(self, pid: int) -> list[Blocker]:
        """The transactions, of whatever database, that a server process waits for just now."""
        async with self._busy:
            return [Blocker(*row) for row in await self._connection.fetch(_BLOCKERS, pid)]
