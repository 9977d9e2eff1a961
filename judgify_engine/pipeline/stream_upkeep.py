"""What goes on beside publishing: how far each group is, what may be trimmed, what the server may forget, and what the end of
the room means.

The server keeps the log from where the slowest group stands (`confirm`), so emptied streams can be filled again from there; and
what groups have seen to is written to PostgreSQL first, so that they can be put back to where they stood. Both are bounded: by
`keep_log_bytes` the log (beyond it a group is no longer safe from an emptied Redis), by `max_bytes` the streams (beyond it the
group that is furthest behind skips a part). Either is said loudly: in the log, in `/metrics`, in the table.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from judgify_engine.config import StreamsConfig
from judgify_engine.core.stream_state import GroupKey
from judgify_engine.core.streams import ALERTS, DASHBOARDS, JUDGMENTS, METRICS, OWNER, just_before
from judgify_engine.errors import StreamCut
from judgify_engine.pipeline.ports import ChangeSource
from judgify_engine.pipeline.publish_loop import PublishLoop
from judgify_engine.pipeline.streams import HELD, Group, Streams
from judgify_engine.units import MIB, Position

log = logging.getLogger(__name__)

EVERY_S = 1.0
SETTLED_S = 10.0
"""What was appended so long ago, and is there, will not get lost in a failover of Redis."""
BOUND_EVERY_S = 5.0
SAVE_BYTES = 1 * MIB
"""Log of others after which the place is written down, though nothing was appended."""
SPARE = 0.05
"""The share of the room that is made free beyond what is needed, when a group must skip: not at once again."""
WARN_AT = 0.8
FEW = 1000
"""Entries that stay where nobody but this process can read them: its own memory holds them."""


class Progress(Protocol):
    """Where it is written down."""

    async def save(self, published: int, last: Sequence[Position], groups: Mapping[GroupKey, Position]) -> None: ...
    def pass_checkpoint(self, reached_lsn: int) -> bool: ...
    async def take_checkpoint(self) -> None: ...
    async def skipped(self, key: GroupKey, start: Position, end: Position, why: str) -> None: ...


class StreamUpkeep:
    """Looks after the streams that `loop` fills, as long as it does."""

    def __init__(
        self, loop: PublishLoop, source: ChangeSource, streams: Streams, progress: Progress, config: StreamsConfig
    ) -> None:
        self._loop, self._source, self._streams, self._progress, self._config = loop, source, streams, progress, config
        self._keep = config.keep_entries if streams.shared else min(FEW, config.keep_entries)
        self._groups: dict[GroupKey, Group] = {}
        self._others: dict[GroupKey, Group] = {}
        """Of the other streams."""
        self._slow: set[GroupKey] = set()
        self._saved: tuple[list[Position], dict[GroupKey, Position]] = ([], {})
        self._saved_lsn = self._confirmed_lsn = 0
        self._settling: deque[tuple[float, int]] = deque()
        self._trimmed: tuple[list[Position], dict[GroupKey, Position]] = ([], {})
        self._bounded_s = 0.0
        self._bytes = 0
        self._unsafe: set[GroupKey] = set()
        self._warned = False
        self.skips: Counter[str] = Counter()
        """How often each group was made to skip."""

    async def run(self) -> None:
        """Until cancelled. Raises StreamCut when a stream lacks entries that it had."""
        while True:
            await self._look()
            await asyncio.sleep(EVERY_S)

    async def _look(self) -> None:
        now_s = asyncio.get_running_loop().time()
        last, published = list(self._loop.last), self._loop.published
        self._groups = await self._read_groups(JUDGMENTS)
        await self._check(last)  # after the groups: where these are gone with their streams, nobody may forget them
        floors = {key: await self._floor(key[0], group, last) for key, group in self._groups.items()}
        await self._save(published, last, floors)
        self._settling.append((now_s, published))
        self._confirm(now_s, floors, last)
        if now_s - self._bounded_s >= BOUND_EVERY_S:
            self._bounded_s = now_s
            await self._trim(last, floors)
            await self._bound(last, floors)
            await self._look_at_others()

    async def _check(self, last: Sequence[Position]) -> None:
        """See that the streams have what they had, and nothing that is not from the log. Raises StreamCut."""
        if await self._streams.get(OWNER) is None:
            raise StreamCut("the streams were emptied")
        for stream, known, found in zip(JUDGMENTS, last, await self._streams.last(JUDGMENTS), strict=True):
            if found < known:
                raise StreamCut(f"{stream} ends at {found}, but had got {known}", stream=stream)
            if found > max(known, self._loop.newest):
                raise StreamCut(f"{stream} ends at {found}, where somebody else put an entry", stream=stream)

    async def _read_groups(self, streams: Sequence[str]) -> dict[GroupKey, Group]:
        found = await asyncio.gather(*[self._streams.groups(stream) for stream in streams])
        return {(stream, group.name): group for stream, groups in zip(streams, found, strict=True) for group in groups}

    async def _look_at_others(self) -> None:
        """Say which groups of the other streams will soon miss what they have not read: these are bounded by their length."""
        self._others = await self._read_groups((*DASHBOARDS, ALERTS, METRICS))
        most = HELD * self._config.keep_dashboard_entries
        slow = {key for key, group in self._others.items() if group.waiting + group.pending >= WARN_AT * most}
        for stream, group in sorted(slow - self._slow):
            facts = {"stream": stream, "group": group, "entries": most}
            log.error("a group is so far behind that its stream will soon drop what it has not read", extra=facts)
        self._slow = slow

    async def _floor(self, stream: str, group: Group, last: list[Position]) -> Position:
        """Up to where a group has seen to all: just before the oldest entry that it has before it."""
        if not _is_behind(group, last[JUDGMENTS.index(stream)]):
            return group.delivered
        oldest = await self._streams.after(stream, group.floor, 1)
        return just_before(oldest[0].id) if oldest else last[JUDGMENTS.index(stream)]

    async def _save(self, published: int, last: list[Position], floors: dict[GroupKey, Position]) -> None:
        passed = self._progress.pass_checkpoint(self._loop.reached)
        if passed or (last, floors) != self._saved or published - self._saved_lsn >= SAVE_BYTES:
            if last != self._saved[0]:  # there is more than the snapshot shows
                await self._progress.take_checkpoint()
            await self._progress.save(published, last, floors)
            self._saved, self._saved_lsn = (last, floors), published

    def _confirm(self, now_s: float, floors: dict[GroupKey, Position], last: list[Position]) -> None:
        """Let the server forget what is settled and what all groups have seen to."""
        while len(self._settling) > 1 and self._settling[1][0] <= now_s - SETTLED_S:
            self._settling.popleft()
        since_s, settled = self._settling[0]
        if since_s > now_s - SETTLED_S:
            return
        settled = min(settled, self._saved_lsn)
        least = settled - self._config.keep_log_bytes
        behind = {key: floor.lsn for key, floor in floors.items() if floor < last[JUDGMENTS.index(key[0])]}
        self._tell_unsafe({key for key, lsn in behind.items() if lsn < least})
        lsn = max(least, min([settled, *behind.values()]))
        if lsn > self._confirmed_lsn:
            self._source.confirm(lsn)
            self._confirmed_lsn = lsn

    def _tell_unsafe(self, unsafe: set[GroupKey]) -> None:
        for stream, group in sorted(unsafe - self._unsafe):
            facts = {"stream": stream, "group": group, "keep_log_bytes": self._config.keep_log_bytes}
            log.warning("a group is so far behind that an emptied Redis could not be filled again for it", extra=facts)
        self._unsafe = unsafe

    async def _trim(self, last: list[Position], floors: dict[GroupKey, Position]) -> None:
        if (last, floors) == self._trimmed:
            return
        for stream in JUDGMENTS:
            await self._streams.trim(stream, self._keep)
        self._trimmed = (last, floors)

    async def _bound(self, last: list[Position], floors: dict[GroupKey, Position]) -> None:
        """Where the streams are too large, have the group that is furthest behind skip a part of what it has not read."""
        self._bytes = await self._streams.size_bytes(JUDGMENTS)
        share = self._bytes / self._config.max_bytes
        behind = {key: group for key, group in self._groups.items() if _is_behind(group, last[JUDGMENTS.index(key[0])])}
        if share >= WARN_AT and behind and not self._warned:
            facts = {"bytes": self._bytes, "max_bytes": self._config.max_bytes, "groups": sorted({key[1] for key in behind})}
            log.warning("the streams are nearly full of what groups have not read", extra=facts)
        self._warned = share >= WARN_AT
        if share < 1 or not behind:
            return
        backlog: Counter[str] = Counter()
        for (_, name), group in behind.items():
            backlog[name] += group.waiting + group.pending
        slowest = backlog.most_common(1)[0][0]
        self.skips[slowest] += 1
        for key in behind:
            if key[1] == slowest:
                await self._skip(key, floors[key], last[JUDGMENTS.index(key[0])])

    async def _skip(self, key: GroupKey, floor: Position, last: Position) -> None:
        share = min(1 - self._config.max_bytes / self._bytes + SPARE, 1.0)
        end = _part_of(floor, last, share)
        why = f"the streams took {self._bytes} bytes of streams.max_bytes ({self._config.max_bytes})"
        facts = {"stream": key[0], "group": key[1], "after": str(floor), "up_to": str(end), "reason": why}
        log.error("a group that is too far behind was made to skip entries", extra=facts)
        await self._progress.skipped(key, floor, end, why)
        await self._streams.move_group(*key, end)
        await self._streams.trim(key[0], self._keep)

    def gauges(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """For `/metrics`."""
        yield "judgify_stream_bytes", "What the streams of judgments take in memory.", {}, self._bytes
        for (stream, name), group in (self._groups | self._others).items():
            labels = {"stream": stream, "group": name}
            yield "judgify_group_waiting_entries", "Entries that a group has still to read.", labels, group.waiting
            yield "judgify_group_pending_entries", "Entries handed out and not acknowledged.", labels, group.pending
            text = "How long ago the oldest of them was handed out."
            yield "judgify_group_oldest_pending_seconds", text, labels, group.oldest_pending_s
            text = "1: what it has not read could not be filled in again if Redis were emptied."
            yield "judgify_group_unsafe", text, labels, float((stream, name) in self._unsafe)
        for name, count in self.skips.items():
            yield "judgify_group_skips", "How often a group was made to skip entries.", {"group": name}, count


def _part_of(floor: Position, last: Position, share: float) -> Position:
    """So far on the way from `floor` to `last`. Ids are places in the log: as much of it as of the bytes.

    What is left may be one transaction, whose entries have the same LSN (`just_before` its first one is the LSN before).
    """
    if last.lsn - floor.lsn <= 1 and floor < last:
        first = floor.index + 1 if floor.lsn == last.lsn else 0
        return Position(last.lsn, first + int((last.index - first) * share))
    return Position(floor.lsn + max(1, int((last.lsn - floor.lsn) * share)), 0)


def _is_behind(group: Group, last: Position) -> bool:
    """Whether it has something of the stream before it."""
    return group.pending > 0 or group.delivered < last
