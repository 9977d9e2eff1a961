"""What PostgreSQL remembers of the streams: up to where they are filled, how far each group has come, and what was missed."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import msgspec

from judgify_engine.core.healing import Server
from judgify_engine.core.stream_state import Checkpoint, GroupKey, StreamState
from judgify_engine.core.streams import JUDGMENTS, entry_id, parse_entry_id
from judgify_engine.pipeline.streams import Streams
from judgify_engine.store.pool import Database
from judgify_engine.store.stream_refill import refill
from judgify_engine.units import START, Position, format_lsn, parse_lsn

log = logging.getLogger(__name__)

_STATE = """
SELECT system_identifier, timeline, publication, published::text AS published, last_ids, checkpoint::text AS checkpoint,
       checkpoint_lsn::text AS checkpoint_lsn FROM stream_states WHERE slot_name = $1
"""
_SAVE = """
INSERT INTO stream_states (slot_name, system_identifier, timeline, publication, published, last_ids, checkpoint, checkpoint_lsn)
VALUES ($1, $2, $3, $4, $5::text::pg_lsn, $6, $7::text::pg_snapshot, $8::text::pg_lsn)
ON CONFLICT (slot_name) DO UPDATE SET system_identifier = excluded.system_identifier, timeline = excluded.timeline,
  publication = excluded.publication, published = excluded.published, last_ids = excluded.last_ids,
  checkpoint = excluded.checkpoint, checkpoint_lsn = excluded.checkpoint_lsn, updated_at = now()
"""
_BEGIN = """
INSERT INTO stream_states (slot_name, system_identifier, timeline, publication, published, last_ids, checkpoint, checkpoint_lsn)
VALUES ($1, '', 0, '', $2::text::pg_lsn, $3, $4::text::pg_snapshot, $2::text::pg_lsn) ON CONFLICT DO NOTHING
"""
_MAKE_SLOT = """
WITH made AS (SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput'))
UPDATE stream_states SET published = made.lsn FROM made WHERE slot_name = $1
"""
SLOT_TIMEOUT_S = 5.0
_PUT_GROUPS = """
INSERT INTO stream_groups AS g (slot_name, stream, group_name, floor)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[])
ON CONFLICT (slot_name, stream, group_name) DO UPDATE SET floor = excluded.floor, updated_at = now()
 WHERE g.floor <> excluded.floor
"""
_FORGET_GROUPS = """
DELETE FROM stream_groups AS g WHERE slot_name = $1
   AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[]) AS there(stream, name)
                    WHERE (there.stream, there.name) = (g.stream, g.group_name))
"""
_GROUPS = "SELECT stream, group_name, floor FROM stream_groups WHERE slot_name = $1"
_SKIPPED = """
UPDATE stream_groups SET skipped_from = $4, skipped_to = $5, skipped_why = $6, skipped_at = now()
 WHERE slot_name = $1 AND stream = $2 AND group_name = $3
"""
_INACTIVE = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND NOT active)"
_ACTIVE = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND active)"
_GAP = """
INSERT INTO stream_gaps (slot_name, reason, details, from_lsn, to_lsn, refilled)
VALUES ($1, $2, $3::text::jsonb, $4::text::pg_lsn, $5::text::pg_lsn, $6)
"""
_ANY_ACTIONS = "SELECT EXISTS (SELECT FROM workflows WHERE definition ? 'actions')"


class StreamStore:
    """`slot`: whose streams."""

    def __init__(self, database: Database, slot: str) -> None:
        self._database, self._slot = database, slot

    async def state(self) -> StreamState | None:
        """None: never filled. Raises DatabaseUnavailable or Overloaded, as all here."""
        async with self._database.query() as connection:
            row = await connection.fetchrow(_STATE, self._slot)
        if row is None:
            return None
        checkpoint = None
        if row["checkpoint"] is not None:
            checkpoint = Checkpoint(row["checkpoint"], parse_lsn(row["checkpoint_lsn"]))
        server = Server(row["system_identifier"], row["timeline"], parse_lsn(row["published"]))
        return StreamState(server, row["publication"], [parse_entry_id(text) for text in row["last_ids"]], checkpoint)

    async def save(self, state: StreamState, groups: Mapping[GroupKey, Position] | None) -> None:
        """In one transaction. `groups`: all that there are, with all that each has seen to; None: as they were."""
        async with self._database.query() as connection, connection.transaction():
            await self._save(connection, state)
            if groups is not None:
                streams, names = [key[0] for key in groups], [key[1] for key in groups]
                await connection.execute(_FORGET_GROUPS, self._slot, streams, names)
                await connection.execute(_PUT_GROUPS, self._slot, streams, names, [entry_id(one) for one in groups.values()])

    async def _save(self, connection: Any, state: StreamState) -> None:
        checkpoint = state.checkpoint
        await connection.execute(
            _SAVE,
            self._slot,
            state.server.system_identifier,
            state.server.timeline,
            state.publication,
            format_lsn(state.server.wal_lsn),
            [entry_id(one) for one in state.last],
            None if checkpoint is None else checkpoint.snapshot,
            None if checkpoint is None else format_lsn(checkpoint.lsn),
        )

    async def begin(self) -> None:
        """From now on all is to be in the streams, if they were not filled before.

        The slot is made here and now, so that the log has all that is answered from now on. Where that would take too long,
        because others' transactions are open, the snapshot of this moment tells later what is to be put in from the table.
        """
        here = await self.checkpoint()
        nothing = [entry_id(START)] * len(JUDGMENTS)
        async with self._database.query() as connection:
            done = await connection.execute(_BEGIN, self._slot, format_lsn(here.lsn), nothing, here.snapshot)
            if done == "INSERT 0 0":
                return
            try:
                await connection.execute(_MAKE_SLOT, self._slot, timeout=SLOT_TIMEOUT_S)
            except (TimeoutError, asyncpg.PostgresError) as error:
                reason = str(error) or "transactions of others are open"
                log.warning("the slot of the streams is made later", extra={"slot": self._slot, "reason": reason})

    async def end(self) -> bool:
        """The streams are needed no more: let the server forget their log. Whether there was anything to forget.

        Does nothing while somebody fills them.
        """
        async with self._database.query() as connection:
            found = await connection.fetchval(_INACTIVE, self._slot)
            if found:
                await connection.execute("SELECT pg_drop_replication_slot($1)", self._slot)
            ended = await connection.execute("DELETE FROM stream_states WHERE slot_name = $1 AND NOT EXISTS (SELECT FROM"
                                             " pg_replication_slots WHERE slot_name = $1)", self._slot)  # fmt: skip
        return bool(found) or str(ended) != "DELETE 0"

    async def groups(self) -> dict[GroupKey, Position]:
        """All that are remembered, with what each has seen to."""
        async with self._database.query() as connection:
            rows = await connection.fetch(
                "SELECT stream, group_name, floor FROM stream_groups WHERE slot_name = $1", self._slot
            )
        return {(row["stream"], row["group_name"]): parse_entry_id(row["floor"]) for row in rows}

    async def skipped(self, key: GroupKey, start: Position, end: Position, why: str) -> None:
        """A group was made to skip what lies between."""
        async with self._database.query() as connection:
            await connection.execute(_SKIPPED, self._slot, *key, entry_id(start), entry_id(end), why)

    async def gap(self, reason: str, details: Mapping[str, Any], start: int | None, end: int, refilled: int) -> None:
        """Changes between these LSNs may be missing in the streams; `refilled` judgments were put in from the table."""
        text = msgspec.json.encode(details).decode()
        bounds = (None if start is None else format_lsn(start), format_lsn(end))
        async with self._database.query() as connection:
            await connection.execute(_GAP, self._slot, reason, text, *bounds, refilled)

    async def checkpoint(self) -> Checkpoint:
        """A new one. The snapshot is taken first: what it shows has its commit in the log before the LSN read after."""
        async with self._database.query() as connection:
            snapshot = await connection.fetchval("SELECT pg_current_snapshot()::text")
            lsn = await connection.fetchval("SELECT pg_current_wal_insert_lsn()::text")
        return Checkpoint(snapshot, parse_lsn(lsn))

    async def checkpoint_of(self, snapshot: str, lsn: int) -> Checkpoint:
        """That of an exported snapshot, of the moment at `lsn`."""
        async with self._database.session(snapshot) as source:
            return Checkpoint(await source.fetchval("SELECT pg_current_snapshot()::text"), lsn)

    async def refill(
        self, streams: Streams, snapshot: str, checkpoint: Checkpoint, lsn: int, last: Sequence[Position]
    ) -> tuple[list[Position], int]:
        """See store/stream_refill; `snapshot`: of the moment where the new slot starts, `lsn`."""
        async with self._database.session(snapshot) as source:
            return await refill(source, streams, checkpoint, lsn, last)

    async def any_actions(self) -> bool:
        """Whether any workflow names actions."""
        async with self._database.query() as connection:
            return bool(await connection.fetchval(_ANY_ACTIONS))

    async def filled(self) -> bool:
        """Whether a process reads the slot just now: nothing that is committed from now on is missed."""
        async with self._database.query() as connection:
            return bool(await connection.fetchval(_ACTIVE, self._slot))
