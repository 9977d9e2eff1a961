"""How far the streams are: what is remembered of it, and how a session writes it down."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from judgify_engine.core.healing import Publication, Server
from judgify_engine.core.stream_state import Checkpoint, GroupKey, StreamState
from judgify_engine.pipeline.streams import Streams
from judgify_engine.units import Position


class Memory(Protocol):
    """What is remembered of the streams; see store/streams."""

    async def state(self) -> StreamState | None: ...
    async def save(self, state: StreamState, groups: Mapping[GroupKey, Position] | None) -> None: ...
    async def groups(self) -> dict[GroupKey, Position]: ...
    async def skipped(self, key: GroupKey, start: Position, end: Position, why: str) -> None: ...
    async def gap(self, reason: str, details: Mapping[str, Any], start: int | None, end: int, refilled: int) -> None: ...
    async def checkpoint(self) -> Checkpoint: ...
    async def checkpoint_of(self, snapshot: str, lsn: int) -> Checkpoint: ...
    async def any_actions(self) -> bool: ...
    async def filled(self) -> bool: ...
    async def end(self) -> bool: ...
    async def refill(
        self, streams: Streams, snapshot: str, checkpoint: Checkpoint, lsn: int, last: Sequence[Position]
    ) -> tuple[list[Position], int]: ...


class Progress:
    """Where the upkeep writes down how far the streams are: what belongs to it does not change in a session."""

    def __init__(self, store: Memory, server: Server, published: Publication, checkpoint: Checkpoint | None) -> None:
        self._store, self._server, self._publication = store, server, published.fingerprint
        self._checkpoint = checkpoint
        self._next: Checkpoint | None = None

    async def save(self, published: int, last: Sequence[Position], groups: Mapping[GroupKey, Position]) -> None:
        """In one transaction."""
        server = self._server._replace(wal_lsn=published)
        await self._store.save(StreamState(server, self._publication, list(last), self._checkpoint), groups)

    def pass_checkpoint(self, reached_lsn: int) -> bool:
        """Whether all of the snapshot taken last is in the streams now: then it counts from the next save on."""
        if self._next is None or reached_lsn < self._next.lsn:
            return False
        self._checkpoint, self._next = self._next, None
        return True

    async def take_checkpoint(self) -> None:
        """Take the next snapshot, unless there is one."""
        if self._next is None:
            self._next = await self._store.checkpoint()

    async def skipped(self, key: GroupKey, start: Position, end: Position, why: str) -> None:
        """A group was made to skip what lies between."""
        await self._store.skipped(key, start, end, why)
