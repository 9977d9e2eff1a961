"""Streams in the memory of one process: the same promises as on Redis, for as long as the process lives.

Bounded: what is held counts in bytes. At the bound, what all groups have seen leaves first; where that is not enough, what
would be added is refused as a whole (StreamsUnavailable), as Redis refuses at its `maxmemory`. Nothing that a group has still
to see is dropped but where a stream has a bound of its own (`add`). All calls run to their end without a pause but `read`.
"""

import asyncio
import heapq
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence

from judgify_engine.errors import StreamCut, StreamsUnavailable
from judgify_engine.pipeline.streams import HELD, Batch, Entry, Group, Listener
from judgify_engine.units import START, Position

ENTRY_BYTES, FIELD_BYTES, VALUE_BYTES = 320, 120, 200
"""What Python takes for an entry, for each of its fields, and for a kept value, beside the bytes themselves."""


class MemoryStreams:
    """See the module and pipeline/streams."""

    shared = False

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._streams: dict[str, _Stream] = {}
        self._listeners: set[_Listener] = set()
        self._values: dict[str, tuple[bytes, float]] = {}
        self._expiries: list[tuple[float, str]] = []
        self._value_bytes = 0

    async def append(self, batches: Sequence[Batch]) -> None:
        cut: StreamCut | None = None
        for batch in batches:
            stream = self._stream(batch.stream)
            if stream.last < batch.after:
                text = f"{batch.stream} ends at {stream.last} and not at {batch.after}"
                cut = cut or StreamCut(text, stream=batch.stream)
                continue
            fresh = [entry for entry in batch.entries if entry.id > stream.last]
            self._make_room(sum(map(_size, fresh)))
            stream.push(fresh)
        if cut is not None:
            raise cut

    async def last(self, streams: Sequence[str]) -> list[Position]:
        return [self._streams[name].last if name in self._streams else START for name in streams]

    async def add(self, stream: str, fields: Mapping[bytes, bytes], keep: int) -> Position:
        to = self._stream(stream)
        position = max(Position(int(time.time() * 1000), 0), Position(to.last.lsn, to.last.index + 1))
        entry = Entry(position, dict(fields))
        self._make_room(_size(entry))
        to.push([entry])
        to.trim(keep, HELD * keep)
        return position

    async def after(self, stream: str, position: Position, count: int) -> list[Entry]:
        return self._streams[stream].after(position, count) if stream in self._streams else []

    async def groups(self, stream: str) -> list[Group]:
        if stream not in self._streams:
            return []
        of, now_s = self._streams[stream], time.monotonic()
        return [
            Group(
                name,
                group.delivered,
                len(group.pending),
                group.oldest,
                now_s - group.pending[group.oldest][1] if group.oldest is not None else 0.0,
                of.count_after(group.delivered),
            )
            for name, group in of.groups.items()
        ]

    async def make_group(self, stream: str, group: str, position: Position) -> None:
        self._stream(stream).groups.setdefault(group, _Group(position))

    async def move_group(self, stream: str, group: str, position: Position) -> None:
        moved = self._group(stream, group)
        moved.delivered = max(moved.delivered, position)
        moved.pending = {id: handed for id, handed in moved.pending.items() if id > position}

    async def drop_group(self, stream: str, group: str) -> None:
        if stream in self._streams and self._streams[stream].groups.pop(group, None) is not None:
            self._streams[stream].wake()

    async def read(self, stream: str, group: str, consumer: str, count: int, wait_s: float) -> list[Entry]:
        deadline_s = time.monotonic() + wait_s
        while True:
            reader = self._group(stream, group)
            of = self._streams[stream]
            found = of.after(reader.delivered, count)
            if found:
                now_s = time.monotonic()
                reader.delivered = found[-1].id
                reader.pending.update((entry.id, (consumer, now_s)) for entry in found)
                return found
            try:
                async with asyncio.timeout(deadline_s - time.monotonic()):
                    await of.grown.wait()
            except TimeoutError:
                return []

    async def ack(self, stream: str, group: str, ids: Sequence[Position]) -> None:
        if stream in self._streams and group in self._streams[stream].groups:
            pending = self._streams[stream].groups[group].pending
            for id in ids:
                pending.pop(id, None)

    async def claim(self, stream: str, group: str, consumer: str, idle_s: float, count: int) -> list[Entry]:
        claimer, now_s = self._group(stream, group), time.monotonic()
        idle = [id for id, (_, handed_s) in claimer.pending.items() if now_s - handed_s >= idle_s][:count]
        claimed: list[Entry] = []
        for id in idle:
            entry = self._streams[stream].get(id)
            if entry is None:  # it was trimmed: nobody can see to it any more
                del claimer.pending[id]
            else:
                claimer.pending[id] = (consumer, now_s)
                claimed.append(entry)
        return claimed

    async def trim(self, stream: str, keep: int, most: int = 0) -> None:
        if stream in self._streams:
            self._streams[stream].trim(keep, most)

    async def size_bytes(self, streams: Sequence[str]) -> int:
        return sum(self._streams[name].bytes for name in streams if name in self._streams)

    async def empty(self, streams: Sequence[str]) -> None:
        for name in streams:
            if name in self._streams:
                self._streams.pop(name).wake()

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        for channel, message in messages:
            for listener in list(self._listeners):
                if channel in listener.channels:
                    listener.heard(channel, message)

    def listen(self, heard: Callable[[str, bytes], None], interrupted: Callable[[], None]) -> Listener:
        listener = _Listener(heard, self._listeners)
        self._listeners.add(listener)
        return listener

    async def get(self, key: str) -> bytes | None:
        self._expire()
        found = self._values.get(key)
        return found[0] if found is not None else None

    async def put(self, key: str, value: bytes, seconds: float, *, only_new: bool = False) -> bool:
        self._expire()
        before = self._values.get(key)
        if only_new and before is not None:
            return False
        more = VALUE_BYTES + len(key) + len(value) if before is None else len(value) - len(before[0])
        self._make_room(more)
        expires_s = time.monotonic() + seconds
        self._values[key] = (value, expires_s)
        self._value_bytes += more
        heapq.heappush(self._expiries, (expires_s, key))
        if len(self._expiries) > 2 * len(self._values) + 100:  # values that were put again and again
            self._expiries = [(expires_s, key) for key, (_, expires_s) in self._values.items()]
            heapq.heapify(self._expiries)
        return True

    async def warnings(self) -> list[str]:
        return []

    async def close(self) -> None:
        self._listeners.clear()

    def _expire(self) -> None:
        now_s = time.monotonic()
        while self._expiries and self._expiries[0][0] <= now_s:
            expires_s, key = heapq.heappop(self._expiries)
            if key in self._values and self._values[key][1] == expires_s:
                self._value_bytes -= VALUE_BYTES + len(key) + len(self._values.pop(key)[0])

    def _stream(self, name: str) -> "_Stream":
        return self._streams.setdefault(name, _Stream())

    def _group(self, stream: str, group: str) -> "_Group":
        found = self._streams[stream].groups.get(group) if stream in self._streams else None
        if found is None:
            raise StreamsUnavailable(f"{stream} has no group {group}")
        return found

    def _held(self) -> int:
        return self._value_bytes + sum(stream.bytes for stream in self._streams.values())

    def _make_room(self, more: int) -> None:
        """Let go of what all have seen, the older half first. Raises StreamsUnavailable when that is not enough."""
        for kept in (1.0, 0.5, 0.0):
            if kept < 1.0:
                for stream in self._streams.values():
                    stream.trim(int(kept * len(stream)))
            if self._held() + more <= self._max_bytes:
                return
        raise _full(self._max_bytes)


class _Group:
    def __init__(self, delivered: Position) -> None:
        self.delivered = delivered
        self.pending: dict[Position, tuple[str, float]] = {}
        """In the order of ids: who has it and since when."""

    @property
    def oldest(self) -> Position | None:
        return next(iter(self.pending), None)

    @property
    def floor(self) -> Position:
        return Group("", self.delivered, 0, self.oldest, 0.0, 0).floor


class _Stream:
    """Entries in order."""

    def __init__(self) -> None:
        self.last = START
        self.bytes = 0
        self.groups: dict[str, _Group] = {}
        self.grown = asyncio.Event()
        """Set once, when there is more; then another takes its place."""
        self._entries: list[Entry] = []
        self._ids: list[Position] = []

    def __len__(self) -> int:
        return len(self._ids)

    def push(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._entries += entries
            self._ids += [entry.id for entry in entries]
            self.last = entries[-1].id
            self.bytes += sum(map(_size, entries))
            self.wake()

    def wake(self) -> None:
        """Let all who wait look again."""
        self.grown.set()
        self.grown = asyncio.Event()

    def after(self, position: Position, count: int) -> list[Entry]:
        start = bisect_right(self._ids, position)
        return self._entries[start : start + count]

    def count_after(self, position: Position) -> int:
        return len(self._ids) - bisect_right(self._ids, position)

    def get(self, id: Position) -> Entry | None:
        place = bisect_right(self._ids, id) - 1
        return self._entries[place] if place >= 0 and self._ids[place] == id else None

    def trim(self, keep: int, most: int = 0) -> None:
        """Let go what is neither among the `keep` newest nor to be seen by a group, and what is beyond the `most` newest."""
        unseen = max((self.count_after(group.floor) for group in self.groups.values()), default=0)
        self.drop(len(self) - min(max(keep, unseen), most or len(self)))

    def drop(self, count: int) -> None:
        """Let the `count` oldest go."""
        if count > 0:
            self.bytes -= sum(map(_size, self._entries[:count]))
            del self._entries[:count], self._ids[:count]


class _Listener:
    """Of this process: nothing between who sends and who hears."""

    connected = True

    def __init__(self, heard: Callable[[str, bytes], None], others: "set[_Listener]") -> None:
        self.heard, self._others = heard, others
        self.channels: set[str] = set()

    async def watch(self, channels: Collection[str]) -> None:
        self.channels.update(channels)

    async def unwatch(self, channels: Collection[str]) -> None:
        self.channels.difference_update(channels)

    async def close(self) -> None:
        self._others.discard(self)


def _size(entry: Entry) -> int:
    fields = entry.fields
    return ENTRY_BYTES + FIELD_BYTES * len(fields) + sum(map(len, fields)) + sum(map(len, fields.values()))


def _full(max_bytes: int) -> StreamsUnavailable:
    return StreamsUnavailable(
        f"the streams in memory are full ({max_bytes} bytes): a group does not read; raise streams.max_bytes or drop the group"
    )
