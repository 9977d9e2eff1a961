"""Streams, as the loops need them: one contract, fulfilled in memory (one process) and on Redis (many, and other programs).

A stream is a log of entries in the order of their ids. The publisher appends what it read from the database's log, with the
position as id, so nothing is there twice; a gap shows at the next append (`StreamCut`). Groups read it like Redis's consumer
groups: each entry goes to one consumer of a group, stays pending until it is acknowledged, and can be claimed from one that
died. Beside the streams: messages to whoever listens just now, and values that expire.

All of it may raise StreamsUnavailable, in bounded time; then any part of the work may be done or not.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from judgify_engine.core.streams import just_before
from judgify_engine.units import Position

HELD = 10
"""So many times the entries that stay are held for groups, in streams that have no other bound."""


class Entry(NamedTuple):
    """One entry; `id` is where it stands."""

    id: Position
    fields: Mapping[bytes, bytes]


class Batch(NamedTuple):
    """Entries for one stream, in order. `after`: the id that the stream is known to have got last; all ids are beyond it."""

    stream: str
    after: Position
    entries: Sequence[Entry]


class Group(NamedTuple):
    """How far a group has come in one stream."""

    name: str
    delivered: Position
    """All up to here was handed to its consumers."""
    pending: int
    """Handed out and not acknowledged."""
    oldest_pending: Position | None
    oldest_pending_s: float
    """How long ago the oldest pending entry was last handed out; 0 when none is."""
    waiting: int
    """Entries that were not handed out yet (where Redis cannot tell: an estimate)."""

    @property
    def floor(self) -> Position:
        """All up to here, this included, is seen to; what comes after must not be lost."""
        return self.delivered if self.oldest_pending is None else just_before(self.oldest_pending)


class Listener(Protocol):
    """Hears messages of the channels that it watches. Messages may be lost; `interrupted` is called when some may have been."""

    connected: bool
    """Whether what is sent now will be heard."""

    async def watch(self, channels: Collection[str]) -> None:
        """Hear these too. When it returns, they are heard (or `connected` is false and they will be, once it is true)."""

    async def unwatch(self, channels: Collection[str]) -> None:
        """Hear these no more."""

    async def close(self) -> None:
        """Hear nothing more."""


class Streams(Protocol):
    """See the module."""

    shared: bool
    """Whether other processes see the same."""

    async def append(self, batches: Sequence[Batch]) -> None:
        """Append to several streams at once; entries that are there already are passed over.

        Raises StreamCut when a stream ends before its batch's `after`: something is missing there, nothing is appended to it.
        """

    async def last(self, streams: Sequence[str]) -> list[Position]:
        """The id that each stream got last, also if that entry is trimmed; START where nothing ever came."""

    async def add(self, stream: str, fields: Mapping[bytes, bytes], keep: int) -> Position:
        """Append one entry with the clock as its id; about `keep` of the newest stay, and as `trim` says for `HELD * keep`."""

    async def after(self, stream: str, position: Position, count: int) -> list[Entry]:
        """Up to `count` entries that follow on `position`."""

    async def groups(self, stream: str) -> list[Group]:
        """All groups of a stream."""

    async def make_group(self, stream: str, group: str, position: Position) -> None:
        """Make a group which has seen all up to `position`. One that is there stays as it is."""

    async def move_group(self, stream: str, group: str, position: Position) -> None:
        """Have a group skip all up to `position`, what is pending too."""

    async def drop_group(self, stream: str, group: str) -> None:
        """Remove a group from a stream."""

    async def read(self, stream: str, group: str, consumer: str, count: int, wait_s: float) -> list[Entry]:
        """Entries that nobody of the group got before; waits for the first, at most `wait_s`. Makes no group."""

    async def ack(self, stream: str, group: str, ids: Sequence[Position]) -> None:
        """These are seen to."""

    async def claim(self, stream: str, group: str, consumer: str, idle_s: float, count: int) -> list[Entry]:
        """Take over entries which are pending for longer than `idle_s`: their consumer is taken for dead."""

    async def trim(self, stream: str, keep: int, most: int = 0) -> None:
        """Let about `keep` of the newest stay, and whatever a group has still to see to; `most` in all at most (0: any)."""

    async def size_bytes(self, streams: Sequence[str]) -> int:
        """What these take in memory."""

    async def empty(self, streams: Sequence[str]) -> None:
        """Remove these, their groups too."""

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send (channel, message) to whoever listens just now."""

    def listen(self, heard: Callable[[str, bytes], None], interrupted: Callable[[], None]) -> Listener:
        """Start to hear. Both are called from the event loop, must be quick and must not raise."""

    async def get(self, key: str) -> bytes | None:
        """A value that was put and has not expired."""

    async def put(self, key: str, value: bytes, seconds: float, *, only_new: bool = False) -> bool:
        """Keep a value for some seconds; with `only_new`, unless there is one. Whether it was kept."""

    async def warnings(self) -> list[str]:
        """What about the server endangers what is promised (eviction, persistence), in words."""

    async def close(self) -> None:
        """Give all connections back."""
