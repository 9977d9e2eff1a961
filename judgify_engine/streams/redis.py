"""Streams on Redis 6.2 or newer, or Valkey, one server or a cluster (see `server`): all processes and others see the same.

An entry has the position that it was read from as its id, so Redis itself refuses to have it twice. What must not be
interrupted is a script (see `scripts`). A batch is sent as three arguments and taken apart there: to pack each value as an
argument of its own costs this process more than all the rest.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from judgify_engine.config import RedisConfig
from judgify_engine.core.streams import parse_entry_id
from judgify_engine.errors import StreamCut
from judgify_engine.pipeline.streams import HELD, Batch, Entry, Group, Listener
from judgify_engine.streams import scripts
from judgify_engine.streams.health import warnings_of
from judgify_engine.streams.listener import RedisListener
from judgify_engine.streams.server import Call, Server, missing
from judgify_engine.units import KIB, MIB, START, Position

PART_ENTRIES, PART_BYTES = 500, 512 * KIB
"""What one script appends: so long nobody else is served."""
ROUND_BYTES = 4 * MIB
"""What is sent before replies are waited for."""
MOST_AT_ONCE = 5_000
"""Entries that one script trims, or has seen to when a group is moved (Lua takes no more than 8000 arguments)."""
SAMPLES = 100
"""Nodes of a stream (of about 4 KiB) whose size is looked at; the others are taken to be alike."""


class RedisStreams:
    """See the module and pipeline/streams."""

    shared = True

    def __init__(self, config: RedisConfig) -> None:
        """Connects at the first use. Raises SettingsError."""
        self._config = config
        self._server = Server(config)

    async def append(self, batches: Sequence[Batch]) -> None:
        for calls in _rounds(batches):
            for call, reply in zip(calls, await self._server.run_all(calls), strict=True):
                last = self._server.checked(reply)
                if isinstance(last, bytes):
                    after = call.arguments[0]
                    assert isinstance(after, bytes)
                    text = f"{call.key} ends at {_position(last)} and not at {_position(after)}"
                    raise StreamCut(text, stream=call.key)

    async def last(self, streams: Sequence[str]) -> list[Position]:
        replies = await self._server.pipeline([("XINFO STREAM", name) for name in streams])
        return [START if missing(reply) else _position(self._server.checked(reply)["last-generated-id"]) for reply in replies]

    async def add(self, stream: str, fields: Mapping[bytes, bytes], keep: int) -> Position:
        await self.trim(stream, keep, HELD * keep)  # before: what fails has added nothing
        return _position(await self._server.call("XADD", stream, "*", *chain.from_iterable(fields.items())))

    async def after(self, stream: str, position: Position, count: int) -> list[Entry]:
        found = await self._server.call("XRANGE", stream, _id(position), "+", "COUNT", count + 1)
        entries = _entries(found)
        return entries[1:] if entries and entries[0].id == position else entries[:count]

    async def groups(self, stream: str) -> list[Group]:
        length, first, last, found = await self._server.run(scripts.GROUPS, stream)
        groups = []
        for name, delivered, pending, lag, oldest, idle_ms in found:
            at = _position(delivered)
            oldest_pending = _position(oldest) if oldest else None
            waiting = lag if lag is not None else _estimate(at, length, first, last)
            groups.append(Group(name.decode(errors="backslashreplace"), at, pending, oldest_pending, idle_ms / 1000, waiting))
        return groups

    async def make_group(self, stream: str, group: str, position: Position) -> None:
        (reply,) = await self._server.pipeline([("XGROUP CREATE", stream, group, _id(position), "MKSTREAM")])
        if not (isinstance(reply, ResponseError) and "BUSYGROUP" in str(reply)):
            self._server.checked(reply)

    async def move_group(self, stream: str, group: str, position: Position) -> None:
        while await self._server.run(scripts.MOVE_GROUP, stream, group, _id(position), MOST_AT_ONCE) == MOST_AT_ONCE:
            pass

    async def drop_group(self, stream: str, group: str) -> None:
        (reply,) = await self._server.pipeline([("XGROUP DESTROY", stream, group)])
        if not (isinstance(reply, ResponseError) and "requires the key to exist" in str(reply)):
            self._server.checked(reply)

    async def read(self, stream: str, group: str, consumer: str, count: int, wait_s: float) -> list[Entry]:
        # In slices, each shorter than a command may take: so a server that fell silent is noticed.
        longest_s = self._config.timeout_s / 2
        while True:
            slice_s = min(wait_s, longest_s)
            blocking = ("BLOCK", max(1, int(slice_s * 1000))) if slice_s > 0 else ()
            found = await self._server.call(
                "XREADGROUP", "GROUP", group, consumer, "COUNT", count, *blocking, "STREAMS", stream, ">"
            )
            wait_s -= slice_s
            if found or wait_s <= 0:
                return _entries(found[0][1]) if found else []

    async def ack(self, stream: str, group: str, ids: Sequence[Position]) -> None:
        if ids:
            await self._server.call("XACK", stream, group, *map(_id, ids))

    async def claim(self, stream: str, group: str, consumer: str, idle_s: float, count: int) -> list[Entry]:
        found = await self._server.run(scripts.CLAIM, stream, group, consumer, int(idle_s * 1000), count)
        return [Entry(_position(id), dict(zip(flat[::2], flat[1::2], strict=True))) for id, flat in found]

    async def trim(self, stream: str, keep: int, most: int = 0) -> None:
        while await self._server.run(scripts.TRIM, stream, keep, MOST_AT_ONCE, most) > MOST_AT_ONCE // 2:
            pass

    async def size_bytes(self, streams: Sequence[str]) -> int:
        replies = await self._server.pipeline([("MEMORY USAGE", name, "SAMPLES", SAMPLES) for name in streams])
        return sum(self._server.checked(reply) or 0 for reply in replies)

    async def empty(self, streams: Sequence[str]) -> None:
        for reply in await self._server.pipeline([("UNLINK", name) for name in streams]):
            self._server.checked(reply)

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        command = "SPUBLISH" if await self._server.sharded() else "PUBLISH"
        for reply in await self._server.pipeline([(command, channel, message) for channel, message in messages]):
            self._server.checked(reply)

    def listen(self, heard: Callable[[str, bytes], None], interrupted: Callable[[], None]) -> Listener:
        return RedisListener(self._server, self._config.timeout_s, heard, interrupted)

    async def get(self, key: str) -> bytes | None:
        found: bytes | None = await self._server.call("GET", key)
        return found

    async def put(self, key: str, value: bytes, seconds: float, *, only_new: bool = False) -> bool:
        only = ("NX",) if only_new else ()
        return bool(await self._server.call("SET", key, value, "PX", max(1, int(seconds * 1000)), *only))

    async def warnings(self) -> list[str]:
        return await warnings_of(self._server)

    async def close(self) -> None:
        await self._server.close()


def _rounds(batches: Sequence[Batch]) -> list[list[Call]]:
    """All parts of the batches, as many at once as may be sent together."""
    rounds: list[list[Call]] = []
    size = ROUND_BYTES
    for batch in batches:
        after = batch.after
        for start in range(0, len(batch.entries) or 1, PART_ENTRIES):
            for part in _parts(batch.entries[start : start + PART_ENTRIES]):
                if size >= ROUND_BYTES:
                    rounds.append([])
                    size = 0
                # One part goes on where the last one ends: if that fails, so does this.
                rounds[-1].append(Call(scripts.APPEND, batch.stream, (_id(after), part.counts, part.sizes, part.values)))
                size += len(part.values)
                after = part.last or after
    return rounds


class _Part(NamedTuple):
    """Some entries, as the script takes them."""

    last: Position | None
    counts: bytes
    sizes: bytes
    values: bytes


def _parts(entries: Sequence[Entry]) -> list[_Part]:
    values: list[bytes] = []
    for id, fields in entries:
        values.append(b"%d-%d" % id)
        values += chain.from_iterable(fields.items())
    joined = b"".join(values)
    if len(joined) > PART_BYTES and len(entries) > 1:
        half = len(entries) // 2
        return _parts(entries[:half]) + _parts(entries[half:])
    counts = struct.pack(f">{len(entries)}I", *[1 + 2 * len(entry.fields) for entry in entries])
    sizes = struct.pack(f">{len(values)}I", *map(len, values))
    return [_Part(entries[-1].id if entries else None, counts, sizes, joined)]


def _estimate(delivered: Position, length: int, first: bytes | None, last: bytes | None) -> int:
    """How many follow on `delivered`, as if ids were spread evenly."""
    if not length or first is None or last is None:
        return 0
    low, high, at = (p.lsn << 64 | p.index for p in (_position(first), _position(last), delivered))
    if at >= high:
        return 0
    return length if at < low else max(1, round(length * (high - at) / (high - low)))


def _id(position: Position) -> bytes:
    return b"%d-%d" % position


def _position(id: bytes | str) -> Position:
    return parse_entry_id(id if isinstance(id, str) else id.decode())


def _entries(found: Any) -> list[Entry]:
    return [Entry(_position(id), fields) for id, fields in found]
