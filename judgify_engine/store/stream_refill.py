"""Entries for judgments that the streams have not heard of, read from the table: where the log in between is gone.

What a checkpoint's snapshot shows is in the streams; what came after and is in them too is found by reading them from the
checkpoint's LSN on. The rest is put in, each judgment once, as if it had been inserted just before the new slot starts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from judgify_engine.core.model import Change
from judgify_engine.core.stream_state import Checkpoint
from judgify_engine.core.streams import JUDGMENTS, stream_of
from judgify_engine.errors import DatabaseUnavailable
from judgify_engine.pipeline.streams import Batch, Entry, Streams
from judgify_engine.store.pool import AWAY
from judgify_engine.units import Position
from judgify_engine.wire.entry import entry_of, json_float, json_time
from judgify_engine.wire.pgcopy import POSTGRES_EPOCH_US

TABLE = "judgment_executions"
PAGE = 1000
PAGE_TIMEOUT_S = 300.0
# A row's transaction as 64 bits: the table keeps 32, of which `age` knows the rest. Frozen rows are of long ago.
_UNHEARD = f"""
SELECT * FROM {TABLE}
 WHERE age(xmin) < 2147483647
   AND NOT pg_visible_in_snapshot(
         greatest(3, pg_snapshot_xmax(pg_current_snapshot())::text::bigint - age(xmin))::text::xid8, $1::text::pg_snapshot)
"""


async def refill(
    source: Any, streams: Streams, checkpoint: Checkpoint, lsn: int, last: Sequence[Position]
) -> tuple[list[Position], int]:
    """Put them in, with ids just before `lsn`, where the new slot starts; returns the streams' new ends, and how many.

    `source`: a connection in the snapshot of that moment. Raises DatabaseUnavailable, StreamsUnavailable.
    """
    ends, count = list(last), 0
    there = await _heard(streams, checkpoint)
    try:
        # Python's own times end with the year 9999.
        await source.set_type_codec("timestamptz", schema="pg_catalog", encoder=bytes, decoder=_int8, format="binary")
        statement = await source.prepare(_UNHEARD)
        # As in the log, columns of other types are left out.
        readers = {one.name: _JSON[one.type.name] for one in statement.get_attributes() if one.type.name in _JSON}
        rows: list[Any] = []
        async for row in statement.cursor(checkpoint.snapshot, prefetch=PAGE, timeout=PAGE_TIMEOUT_S):
            if str(row["id"]) not in there:
                rows.append(row)
            if len(rows) >= PAGE:
                count += await _append(streams, rows, readers, lsn, ends, count)
                rows = []
        count += await _append(streams, rows, readers, lsn, ends, count)
    except AWAY as error:
        raise DatabaseUnavailable("PostgreSQL is away; the streams are filled when it is back") from error
    return ends, count


async def _heard(streams: Streams, checkpoint: Checkpoint) -> set[str]:
    """The ids of judgments that entered the streams since the checkpoint."""
    found: set[str] = set()
    for stream in JUDGMENTS:
        position = Position(checkpoint.lsn - 1, 2**62)
        while entries := await streams.after(stream, position, PAGE):
            found.update(
                one.fields[b"key"].decode()
                for one in entries
                if one.fields.get(b"table") == TABLE.encode() and one.fields.get(b"op") == b"insert"
            )
            position = entries[-1].id
    return found


async def _append(
    streams: Streams, rows: list[Any], readers: dict[str, Callable[[Any], str]], lsn: int, ends: list[Position], before: int
) -> int:
    batches: dict[int, list[Entry]] = {}
    for number, row in enumerate(rows, before):
        place = Position(lsn - 1, number)
        values = {name: "null" if row[name] is None else read(row[name]) for name, read in readers.items()}
        tenant, fields = entry_of(Change(place, row["created_at"] + POSTGRES_EPOCH_US, TABLE, None, values))
        assert tenant is not None
        batches.setdefault(JUDGMENTS.index(stream_of(tenant)), []).append(Entry(place, fields))
    await streams.append([Batch(JUDGMENTS[at], ends[at], entries) for at, entries in batches.items()])
    for at, entries in batches.items():
        ends[at] = entries[-1].id
    return len(rows)


def _int8(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _as_text(value: Any) -> str:
    return msgspec.json.encode(str(value)).decode()


_JSON: dict[str, Callable[[Any], str]] = {
    "jsonb": str,
    "json": str,
    "int2": str,
    "int4": str,
    "int8": str,
    "float4": json_float,
    "float8": json_float,
    "text": _as_text,
    "varchar": _as_text,
    "uuid": _as_text,
    "bool": lambda value: "true" if value else "false",
    "timestamptz": json_time,
}
